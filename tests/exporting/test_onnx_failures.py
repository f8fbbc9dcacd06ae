"""Models that cannot be `.onnx` files, in words of kprune."""

import keras
import pytest
from files import needs_onnx, on_tensorflow
from keras import layers, ops

import kprune

pytestmark = [needs_onnx, on_tensorflow]


def test_an_operation_that_onnx_does_not_have(tmp_path):
    inputs = keras.Input((8,))
    x = ops.argmax(layers.Dense(4)(inputs), -1)
    model = keras.Model(inputs, x, name="digits")
    with pytest.raises(
        ValueError, match="not load.*model 'digits'.*`.tflite`.*Bitcast"
    ):
        kprune.export(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_exporter(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)], name="small")

    def fail(*args, **kwargs):
        raise AttributeError("'dict' object has no attribute 'shape'")

    monkeypatch.setattr(keras.Model, "export", fail)
    with pytest.raises(
        ValueError,
        match="cannot write model 'small'.*SavedModel.*AttributeError: 'dict'",
    ):
        kprune.export(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_nested_inputs(tmp_path):
    first, second, third = (keras.Input((4,)) for _ in range(3))
    x = layers.Concatenate()([first, second, third])
    model = keras.Model([[first, second], {"c": third}], layers.Dense(2)(x))
    result = kprune.export(model, tmp_path / "model.onnx")
    assert result.largest_difference < 1e-5
