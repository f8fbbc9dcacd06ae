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


@pytest.mark.parametrize(
    ("dtype", "passes", "refused"),
    [
        # Of the largest output; the model rounds in two layers.
        ("bfloat16", 0.02, 0.1),
        ("mixed_bfloat16", 0.02, 0.1),
        ("float16", 0.004, 0.02),
        ("mixed_float16", 0.004, 0.02),
        ("float32", 0.0005, 0.002),
    ],
)
@pytest.mark.parametrize("last", ["float32", None])
def test_precision_counts_and_not_the_dtype_of_the_outputs(
    dtype, passes, refused, last
):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8, activation="tanh", dtype=dtype),
            layers.Dense(8, dtype=dtype),
            layers.Activation("linear", dtype=last or dtype),
        ]
    )
    check = Check(model, [[_x(2, 8)]])
    ((expected,),) = check.expected
    expected = np.asarray(expected, "float32")
    largest = np.abs(expected).max()
    check.difference(lambda inputs: [expected + passes * largest])
    with pytest.raises(RuntimeError, match="does not compute"):
        check.difference(lambda inputs: [expected + refused * largest])


def test_half_precision_hides_no_wrong_weight():
    half, exact = (
        keras.Sequential([keras.Input((8,)), layers.Dense(8, dtype=dtype)])
        for dtype in ("bfloat16", "float32")
    )
    exact.set_weights(half.get_weights())
    check = Check(half, [[_x(2, 8)]], exact=exact)
    right = keras.ops.convert_to_numpy(exact(_x(2, 8)))
    assert 0 < check.difference(lambda inputs: [right]) < 0.02
    # As far as the half precision model is itself.
    with pytest.raises(RuntimeError, match="does not compute"):
        check.difference(lambda inputs: [1.01 * right])
    with pytest.raises(RuntimeError, match="does not compute"):
        check.difference(lambda inputs: check.expected[0])


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
