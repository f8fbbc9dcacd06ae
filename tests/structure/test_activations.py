"""Layers of activations: PReLU, softmax, and functions that mix channels."""

import keras
import numpy as np
import pytest
from keras import layers
from models import assert_equal_outputs, shrunk
from stacks import read_out, reasons, samples, sizes, stack

import kprune

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("shared", [None, [1, 2], [1], [3]])
def test_prelu(shared):
    model = stack(
        (6, 6, 2),
        layers.Conv2D(8, 3, name="first"),
        layers.PReLU("uniform", shared_axes=shared, name="prelu"),
        layers.Conv2D(6, 3, padding="same"),
        *read_out(),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "filters") == [4]
    width = 1 if shared == [3] else 4
    assert smaller.get_layer("prelu").alpha.shape[-1] == width


@pytest.mark.parametrize(("shared", "left"), [([1, 2], 2), (None, 3)])
def test_constants_through_prelu(shared, left):
    model = stack(
        (6, 6, 2),
        layers.Conv2D(4, 3, name="first"),
        layers.PReLU("uniform", shared_axes=shared),
        layers.Conv2D(6, 3),
        *read_out(),
    )
    kernel, bias = model.layers[0].get_weights()
    kernel[..., [0, 1]] = 0
    bias[[0, 1]] = [0.5, -0.5]  # where slopes differ only 0.5 is constant
    model.layers[0].set_weights([kernel, bias])
    smaller = kprune.compact(model)
    assert sizes(smaller, "first", "filters") == [left]
    assert_equal_outputs(model, smaller, samples(model))


def test_a_softmax_over_another_axis():
    model = stack(
        (6, 6, 2),
        layers.Conv2D(8, 3, name="first"),
        layers.Softmax(axis=[1, 2]),
        layers.Conv2D(6, 3, name="second"),
        layers.Softmax(axis=-2),
        *read_out(),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "filters") == [4]
    assert sizes(smaller, "second", "filters") == [3]


@pytest.mark.parametrize("axis", [-1, 3, [2, 3]])
def test_a_softmax_over_channels_stays(axis):
    model = stack(
        (6, 6, 2),
        layers.Conv2D(8, 3, name="first"),
        layers.Softmax(axis=axis, name="softmax"),
        *read_out(),
    )
    assert reasons(model, "first") == ["'softmax' normalizes over it"]


@pytest.mark.parametrize(("length", "frozen"), [(1, False), (8, True)])
def test_a_softmax_with_a_mask(length, frozen):
    inputs = keras.Input((5, 3))
    mask = keras.Input((5, length), dtype="bool")
    x = layers.Dense(8, name="first")(inputs)
    x = layers.Softmax(axis=1, name="softmax")(x, mask)
    x = layers.Dense(3)(layers.Flatten()(x))
    model = keras.Model([inputs, mask], x)
    found = reasons(model, "first")
    assert found == ["'softmax' has a mask along it"] * frozen
    if not frozen:
        shape = (4, 5, length)
        masks = np.random.default_rng(0).integers(0, 2, shape).astype(bool)
        x = [np.random.default_rng(1).normal(size=(4, 5, 3)), masks]
        assert sizes(shrunk(model, x), "first", "units") == [4]


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax"])
def test_activations_that_mix_channels_stay(name):
    model = stack(
        (6,), layers.Dense(8, activation=name, name="first"), layers.Dense(3)
    )
    (reason,) = reasons(model, "first")
    assert reason == f"activation '{name}' of 'first' can mix channels"


def test_glu_stays():
    model = stack(
        (6,),
        layers.Dense(8, name="first"),
        layers.Activation(keras.activations.glu, name="glu"),
        layers.Dense(3),
    )
    (reason,) = reasons(model, "first")
    assert reason == "activation 'glu' of 'glu' can mix channels"


def test_a_layer_as_activation():
    model = stack(
        (6,),
        layers.Dense(8, activation=layers.LeakyReLU(0.2), name="first"),
        layers.Dense(3),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "units") == [4]


def test_a_layer_with_weights_as_activation_stays():
    model = stack(
        (6,),
        layers.Dense(8, activation=layers.PReLU(name="slopes"), name="first"),
        layers.Dense(3),
    )
    (reason,) = reasons(model, "first")
    assert "'first' can mix channels" in reason
