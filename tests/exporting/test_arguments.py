"""Arguments: shapes, and what does not fit the model or each other."""

import keras
import numpy as np
import pytest
from files import on_tensorflow, tflite_model
from keras import layers

import kprune

pytestmark = on_tensorflow


def _small():
    return keras.Sequential(
        [keras.Input((8,), name="x"), kprune.PrunableDense(4)]
    )


def _x(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_arguments_that_do_not_go_together(tmp_path):
    def refused(name, message, **arguments):
        with pytest.raises(ValueError, match=message):
            kprune.export(_small(), tmp_path / name, **arguments)
        assert not list(tmp_path.iterdir())

    file = "model.tflite"
    refused(file, "quantize='int8'`.*Received: quantize=None", integer_io=True)
    refused(
        file,
        "go with `quantize='int8'`. Received: quantize='dynamic'",
        quantize="dynamic",
        representative_data=_x(2, 8),
    )
    refused(file, "one of .*'float16', 'dynamic', 'int8'", quantize="int4")
    refused(file, "`sparse` must be.*Received: sparse='yes'", sparse="yes")
    for name in ("model", "model.keras", "model.onnx"):
        refused(name, "are for `.tflite` files", quantize="float16")
        refused(name, "are for `.tflite` files", sparse=True)
    refused("model.keras", "model's own shapes", input_signature=(1, 8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, 7), r"shape \(1, 7\) for 'x', which takes \(None, 8\)"),
        ((8,), r"shape \(8,\) for 'x'.*Batch sizes come first"),
        ([(1, 8), (1, 8)], r"a shape for each of \['x'\]"),
        ((0, 8), "integers above 0"),
        ((1.5, 8), "integers above 0"),
        (5, "integers above 0"),
        ({"y": (1, 8)}, r"names \['x'\]. Received: \['y'\]"),
    ],
)
def test_an_input_signature_that_does_not_fit(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        kprune.export(
            _small(), tmp_path / "model.tflite", input_signature=given
        )
    assert not list(tmp_path.iterdir())


def _signature(path):
    (given,) = tflite_model(path).subgraphs[0].inputs
    tensor = tflite_model(path).subgraphs[0].tensors[given]
    if tensor.shapeSignature is not None:
        return tuple(tensor.shapeSignature)
    return tuple(tensor.shape)


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        (None, (1, 8)),
        ((4, 8), (4, 8)),
        ([1, 8], (1, 8)),
        ((None, 8), (-1, 8)),
        ([keras.InputSpec(shape=(None, 8))], (-1, 8)),
        ({"x": (2, 8)}, (2, 8)),
    ],
)
def test_batch_sizes_of_a_tflite(tmp_path, given, shape):
    path = tmp_path / "model.tflite"
    kprune.export(_small(), path, input_signature=given)
    assert _signature(path) == shape


def test_a_batch_size_goes_with_int8(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            kprune.PrunableConv2D(4, 3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    for size in (8, None):
        path = tmp_path / f"{size}.tflite"
        kprune.export(
            model,
            path,
            quantize="int8",
            representative_data=_x(5, 6, 6, 2),
            input_signature=(size, 6, 6, 2),
        )
        assert _signature(path) == (size or -1, 6, 6, 2)


def test_the_model_has_a_batch_size_of_its_own(tmp_path):
    inputs = keras.Input(batch_shape=(3, 8))
    model = keras.Model(inputs, kprune.PrunableDense(4)(inputs))
    kprune.export(model, tmp_path / "model.tflite")
    assert _signature(tmp_path / "model.tflite") == (3, 8)


def test_an_operation_without_a_built_in_kernel(tmp_path):
    inputs = keras.Input((4,))
    x = kprune.PrunableDense(4)(inputs)
    model = keras.Model(inputs, keras.ops.erfinv(x))
    with pytest.raises(ValueError, match="built-in operations.*Erfinv"):
        kprune.export(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def _recurrent(**arguments):
    return keras.Sequential(
        [keras.Input((None, 4)), layers.LSTM(4, **arguments), layers.Dense(2)]
    )


def test_a_shape_that_tflite_cannot_take(tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(
        ValueError, match="fixed sizes.*TensorListReserve.*static"
    ):
        kprune.export(_recurrent(), path, input_signature=(None, 5, 4))
    assert not list(tmp_path.iterdir())
    kprune.export(_recurrent(), path, input_signature=(1, 5, 4))
    assert _signature(path) == (1, 5, 4)


def test_a_loop_that_int8_cannot_take(tmp_path):
    # Calibration would end the process.
    arguments = {
        "quantize": "int8",
        "representative_data": _x(3, 5, 4),
        "input_signature": (1, 5, 4),
    }
    with pytest.raises(ValueError, match="it has a loop.*unroll=True"):
        kprune.export(_recurrent(), tmp_path / "m.tflite", **arguments)
    assert not list(tmp_path.iterdir())
    inputs = keras.Input((5, 4))
    unrolled = keras.Model(inputs, layers.LSTM(4, unroll=True)(inputs))
    kprune.export(unrolled, tmp_path / "m.tflite", **arguments)


def test_other_dtypes_are_named(tmp_path, float64):
    with pytest.raises(ValueError, match=r"computes in \['float64'\]"):
        kprune.export(_small(), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_missing_packages_of_onnx_are_named(tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "onnx" else find(name, *args),
    )
    with pytest.raises(ValueError, match=r'needs onnx.*"kprune\[onnx\]"'):
        kprune.export(_small(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
