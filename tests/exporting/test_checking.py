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


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_file_of_zeros_is_refused(classes):
    check = Check(_model(classes), [[_x(4, 8)]], "int8")
    with pytest.raises(RuntimeError, match="without the softmax"):
        check.difference(lambda inputs: [np.zeros((4, classes))])


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_softmax_in_steps_passes(classes):
    check = Check(_model(classes), [[_x(4, 8)]], "int8")
    ((expected,),) = check.expected
    steps = np.round(expected * 256) / 256
    assert 0 < check.difference(lambda inputs: [steps]) <= 1 / 512


@on_tensorflow
@pytest.mark.parametrize(("classes", "is_small"), [(1000, True), (10, False)])
def test_outputs_that_int8_is_too_coarse_for_are_named(
    tmp_path, classes, is_small
):
    result = kprune.export(
        _model(classes, 0.1),
        tmp_path / "model.tflite",
        quantize="int8",
        representative_data=_x(8, 8),
    )
    assert ("can return zeros" in result.note) == is_small


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
