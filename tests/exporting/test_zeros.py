"""Zeros: what was pruned is exactly zero in every format."""

import keras
import numpy as np
import pytest
from files import needs_onnx, on_tensorflow, tflite_kernels, tflite_model
from keras import layers
from models import numpy

import kprune

pytestmark = on_tensorflow

SPARSITY = 0.75


def _net():
    """A conv of 2304 weights and a dense layer of 2048: 3/4 are zeros."""
    model = keras.Sequential(
        [
            keras.Input((10, 10, 16)),
            kprune.PrunableConv2D(
                16, 3, granularity="unstructured", name="conv"
            ),
            # Folding it scales the kernel: zeros must stay zeros.
            layers.BatchNormalization(gamma_initializer="random_normal"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            kprune.PrunableDense(128, granularity="unstructured"),
        ]
    )
    return kprune.prune(model, SPARSITY)


def _x(samples=8):
    generator = np.random.default_rng(0)
    return generator.normal(size=(samples, 10, 10, 16)).astype("float32")


def _int8(integer_io=False):
    return {
        "quantize": "int8",
        "representative_data": _x(),
        "integer_io": integer_io,
    }


SIZES = {(16, 3, 3, 16): 2304, (128, 16): 2048}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"quantize": "float16"},
        {"quantize": "dynamic"},
        _int8(),
        _int8(integer_io=True),
    ],
    ids=["float32", "float16", "dynamic", "int8", "int8 io"],
)
def test_zeros_stay_zero_in_a_plain_tflite(tmp_path, arguments):
    path = tmp_path / "model.tflite"
    result = kprune.export(_net(), path, sparse=False, **arguments)
    assert not result.is_sparse and not result.note
    found = 0
    for tensor, values in tflite_kernels(path):
        size = SIZES.get(tuple(tensor.shape))
        if size is None:
            continue
        found += 1
        assert values.size == size
        zeros = np.count_nonzero(values == 0)
        # Rounding to few bits makes zeros of tiny weights.
        slack = 0 if values.dtype.itemsize > 1 else 0.01 * size
        assert SPARSITY * size <= zeros <= SPARSITY * size + slack
        if values.dtype == np.int8:
            assert not np.any(tensor.quantization.zeroPoint)
    assert found == 2


@pytest.mark.parametrize("quantize", [None, "float16"])
def test_a_sparse_tflite_leaves_them_out(tmp_path, quantize):
    path = tmp_path / "model.tflite"
    result = kprune.export(_net(), path, quantize=quantize)
    assert result.is_sparse
    kept = {
        tuple(tensor.shape): values
        for tensor, values in tflite_kernels(path)
        if tensor.sparsity is not None
    }
    assert {s: v.size for s, v in kept.items()} == {
        shape: (1 - SPARSITY) * size for shape, size in SIZES.items()
    }
    assert all(np.count_nonzero(v == 0) == 0 for v in kept.values())


def test_types_of_inputs_and_outputs(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    for integer_io, dtype in [(False, np.float32), (True, np.int8)]:
        path = tmp_path / f"{integer_io}.tflite"
        kprune.export(_net(), path, **_int8(integer_io))
        interpreter = Interpreter(str(path))
        (given,) = interpreter.get_input_details()
        (wanted,) = interpreter.get_output_details()
        assert given["dtype"] == wanted["dtype"] == dtype
        assert tuple(given["shape"]) == (1, 10, 10, 16)
        codes = tflite_model(path).operatorCodes
        assert all(code.customCode is None for code in codes)


@needs_onnx
def test_zeros_stay_zero_in_onnx(tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    result = kprune.export(_net(), path)
    assert result.format == "onnx" and result.largest_difference < 1e-5
    model = onnx.load(path)
    shares = [
        np.mean(onnx.numpy_helper.to_array(tensor) == 0)
        for tensor in model.graph.initializer
        if len(tensor.dims) > 1
    ]
    assert shares == [SPARSITY, SPARSITY]
    (given,) = model.graph.input
    assert given.type.tensor_type.shape.dim[0].dim_value == 0  # any


def test_zeros_stay_zero_in_a_saved_model(tmp_path):
    import tensorflow as tf

    kprune.export(_net(), tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    values = [variable.numpy() for variable in loaded.model_variables]
    kernels = [value for value in values if value.ndim > 1]
    assert [np.mean(k == 0) for k in kernels] == [SPARSITY, SPARSITY]


def test_zeros_stay_zero_in_a_keras_file(tmp_path):
    kprune.export(_net(), tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    kernels = [numpy(w) for w in loaded.weights if len(w.shape) > 1]
    assert [np.mean(k == 0) for k in kernels] == [SPARSITY, SPARSITY]
