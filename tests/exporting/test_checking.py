"""Comparing what a file computes with what the model does."""

import keras
import numpy as np
import pytest
from files import on_tensorflow
from keras import layers

import kprune
from kprune.exporting.checking import Check


def _x(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _model(classes=10, scale=1.0):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(classes, activation="softmax"),
            layers.Rescaling(scale),
        ]
    )
    return model


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize(
    ("changed", "shapes"),
    [
        (lambda x: [x[:1]], r"\[\(1, 10\)\], those of the model \[\(2, 10\)\]"),
        (lambda x: [x[:, :1]], r"\[\(2, 1\)\]"),
        (lambda x: [x.ravel()], r"\[\(20,\)\]"),
        (lambda x: [], r"shapes \[\],"),
    ],
)
def test_another_shape_is_refused(quantize, changed, shapes):
    check = Check(_model(), [[_x(2, 8)]], quantize)
    ((expected,),) = check.expected
    assert check.difference(lambda inputs: [expected]) == 0
    with pytest.raises(RuntimeError, match=shapes):
        check.difference(lambda inputs: changed(expected))


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_file_of_zeros_is_refused(classes, scale):
    check = Check(_model(classes, scale), [[_x(4, 8)]], "int8")
    with pytest.raises(RuntimeError, match="without the softmax"):
        check.difference(lambda inputs: [np.zeros((4, classes))])


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_softmax_in_steps_passes(classes):
    check = Check(_model(classes), [[_x(4, 8)]], "int8")
    ((expected,),) = check.expected
    steps = np.round(expected * 256) / 256
    assert 0 < check.difference(lambda inputs: [steps]) <= 1 / 512


@on_tensorflow
def test_int8_of_many_classes(tmp_path):
    x = _x(8, 8)
    arguments = {"quantize": "int8", "representative_data": x}
    model = _model(1000)
    with pytest.raises(RuntimeError, match="without the softmax"):
        kprune.export(model, tmp_path / "model.tflite", **arguments)
    assert not list(tmp_path.iterdir())
    model.layers[0].activation = None
    kprune.export(model, tmp_path / "model.tflite", **arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_outputs_that_are_not_finite(value, quantize):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    model.layers[-1].bias.assign(np.full(3, value))
    check = Check(model, [[_x(2, 8)]], quantize)
    ((expected,),) = check.expected
    with pytest.raises(RuntimeError, match="is nan or infinite.*nan weights"):
        check.difference(lambda inputs: [expected])
    check = Check(_model(3), [[_x(2, 8)]], quantize)
    with pytest.raises(RuntimeError, match="differs by nan, where 0"):
        check.difference(lambda inputs: [np.full((2, 3), np.nan)])
