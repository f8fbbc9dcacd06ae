"""Sparse files: smaller, never written where LiteRT does not run them."""

import keras
import numpy as np
import pytest
from files import on_tensorflow
from keras import layers
from models import numpy

import kprune
from kprune.exporting import litert, sparse_file
from kprune.tflite import processor

pytestmark = on_tensorflow


def _dense(sparsity):
    model = keras.Sequential(
        [keras.Input((64,)), kprune.PrunableDense(64), layers.ReLU()]
    )
    return kprune.prune(model, sparsity) if sparsity else model


def _conv():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 32)),
            kprune.PrunableConv2D(64, 3, granularity="unstructured"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    return kprune.prune(model, 0.9)


def _x(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_auto_takes_the_smaller_file(tmp_path):
    plain = kprune.export(_dense(0.8), tmp_path / "p.tflite", sparse=False)
    # A name that the export itself might use for what it writes first.
    sparse = kprune.export(_dense(0.8), tmp_path / "sparse.tflite")
    assert sparse.is_sparse and not plain.is_sparse
    assert sparse.bytes < 0.5 * plain.bytes
    assert sparse.bytes == (tmp_path / "sparse.tflite").stat().st_size
    dense = kprune.export(kprune.strip(_dense(0)), tmp_path / "d.tflite")
    assert not dense.is_sparse and not dense.note


@pytest.mark.parametrize("quantize", [None, "float16"])
def test_a_sparse_file_that_is_the_larger_download_says_so(tmp_path, quantize):
    path = tmp_path / "model.tflite"
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            kprune.PrunableConv2D(16, 3, granularity="unstructured"),
            layers.MaxPooling2D(4),
            layers.Flatten(),
            kprune.PrunableDense(64),
        ]
    )
    kprune.prune(model, 0.8)
    plain = kprune.export(model, path, quantize=quantize, sparse=False)
    sparse = kprune.export(model, path, quantize=quantize)
    assert sparse.is_sparse and sparse.bytes < plain.bytes
    assert not plain.note
    sizes = (f"{sparse.gzip_bytes:,} bytes", f"one has {plain.gzip_bytes:,}.")
    is_larger = sparse.gzip_bytes > plain.gzip_bytes
    assert [size in sparse.note for size in sizes] == [is_larger] * 2
    assert is_larger or not sparse.note
    if quantize:
        assert is_larger


def test_dense_models_are_converted_once(tmp_path, monkeypatch):
    calls = []
    write = litert.write

    def counted(*args, **kwargs):
        calls.append(kwargs)
        write(*args, **kwargs)

    monkeypatch.setattr(litert, "write", counted)
    kprune.export(_dense(0), tmp_path / "model.tflite")
    assert len(calls) == 1
    kprune.export(_dense(0.8), tmp_path / "model.tflite")
    assert len(calls) == 3


def test_eight_bits_are_sparse_on_request_only(tmp_path):
    arguments = {
        "quantize": "int8",
        "representative_data": _x(8, 8, 8, 32),
    }
    path = tmp_path / "model.tflite"
    plain = kprune.export(_conv(), path, **arguments)
    assert not plain.is_sparse and not plain.note
    sparse = kprune.export(_conv(), path, sparse=True, **arguments)
    assert sparse.is_sparse and sparse.bytes < plain.bytes
    # What `sparse="auto"` goes by.
    assert sparse.gzip_bytes > 0.9 * plain.gzip_bytes


@pytest.mark.parametrize("quantize", ["dynamic", "int8"])
def test_a_sparse_file_that_fails_is_not_written(tmp_path, quantize):
    path = tmp_path / "model.tflite"
    data = _x(8, 64) if quantize == "int8" else None
    result = kprune.export(
        _dense(0.8),
        path,
        quantize=quantize,
        representative_data=data,
        sparse=True,
    )
    assert not result.is_sparse
    assert result.note.startswith("LiteRT does not run the sparse file: ")
    assert "FULLY_CONNECTED" in result.note
    assert "written file" not in result.note
    assert result.bytes == path.stat().st_size
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_a_sparse_file_that_computes_something_else(tmp_path, monkeypatch):
    load, loads = litert.load, []

    def loaded(*arguments):
        run = load(*arguments)
        loads.append(arguments)
        if len(loads) == 1:  # the plain file
            return run
        return lambda inputs: [output + 1 for output in run(inputs)]

    monkeypatch.setattr(sparse_file.litert, "load", loaded)
    result = kprune.export(_dense(0.8), tmp_path / "model.tflite")
    assert not result.is_sparse and "does not compute" in result.note
    assert result.largest_difference < 1e-5


def test_sparse_without_zeros_says_so(tmp_path):
    path = tmp_path / "model.tflite"
    result = kprune.export(_dense(0), path, sparse=True)
    assert not result.is_sparse and "too few weights are zero" in result.note


def _pooled():
    """XNNPACK begins to compute it sparsely, and then meets the pooling."""
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.ZeroPadding2D(),
            layers.Conv2D(8, 3, strides=2),
            layers.Conv2D(64, 1, activation="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(64, 1),
            layers.GlobalAveragePooling2D(),
        ],
        name="pooled",
    )
    return kprune.prune(
        kprune.make_prunable(model), 0.9, granularity="unstructured"
    )


def test_a_file_that_is_wrong_on_other_cpus_is_not_sparse(tmp_path):
    path, model = tmp_path / "model.tflite", _pooled()
    plain = kprune.export(model, path, sparse=False)
    result = kprune.export(model, path)
    assert not result.is_sparse and result.bytes == plain.bytes
    assert "'pooled' would compute wrong numbers on ARM" in result.note
    assert "MAX_POOL_2D" in result.note and "pool" in result.note
    assert not plain.note


@pytest.mark.parametrize("quantize", [None, "float16"])
def test_a_sparse_file_that_is_wrong_on_other_cpus_is_refused(
    tmp_path, quantize
):
    path = tmp_path / "model.tflite"
    path.write_text("before")
    with pytest.raises(ValueError, match="MAX_POOL_2D.*`sparse=False`"):
        kprune.export(_pooled(), path, quantize=quantize, sparse=True)
    assert path.read_text() == "before"


def test_integers_beside_floats_are_refused(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.ZeroPadding2D(),
            layers.Conv2D(8, 3, strides=2),
            # Kernels of less than 1,024 weights stay floats.
            layers.Conv2D(32, 1),
            layers.Conv2D(31, 1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(100),
        ]
    )
    for layer in model.layers[2:4]:
        kernel = numpy(layer.kernel)
        layer.kernel.assign(kernel * (np.abs(kernel) > 0.9 * kernel.max()))
    arguments = {"quantize": "dynamic"}
    with pytest.raises(ValueError, match="FULLY_CONNECTED.*integers"):
        kprune.export(model, tmp_path / "m.tflite", sparse=True, **arguments)
    result = kprune.export(model, tmp_path / "m.tflite", **arguments)
    assert not result.is_sparse and not result.note


def test_where_a_file_was_checked_is_told(tmp_path):
    result = kprune.export(_dense(0), tmp_path / "model.tflite")
    assert result.checked_on == processor.description()
    assert not kprune.export(_dense(0), tmp_path / "m.keras").checked_on
