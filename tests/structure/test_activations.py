"""Layers of activations: PReLU, softmax, and functions that mix channels."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import EXACT_MEAN, assert_equal_outputs, randomized, shrunk
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


def _random(x):
    return x + keras.random.normal(ops.shape(x))


def _seeded(x):
    return x + keras.random.normal(ops.shape(x), seed=3)


def _top(x):
    return ops.where(x >= ops.max(x, axis=-1, keepdims=True), x, 0.0)


class Scaled:
    """An activation that is an object."""

    def __call__(self, x):
        return ops.tanh(0.7 * x)


ELEMENTWISE = {
    "keras.ops": ops.gelu,
    "lambda": lambda x: keras.activations.gelu(x, approximate=True),
    "partial": functools.partial(
        keras.activations.leaky_relu, negative_slope=0.3
    ),
    "f(0) is not 0": lambda x: ops.cos(x) + 0.5,
    "object": Scaled(),
    "branches": lambda x: ops.where(x > 1.0, x * x, ops.relu(x)),
    "Activation by name": layers.Activation("tanh"),
}
OTHER = {
    "softmax": (lambda x: ops.softmax(x), "can mix channels"),
    "over space": (lambda x: ops.softmax(x, axis=1), "can mix channels"),
    "norm": (lambda x: x / (1 + ops.max(ops.abs(x))), "can mix channels"),
    "centred": (lambda x: x - ops.mean(x, -1, keepdims=True), "can mix"),
    "over batch": (lambda x: x - ops.mean(x, 0, keepdims=True), "can mix"),
    "winner": (_top, "can mix channels"),
    "shared mean": (lambda x: x * ops.sigmoid(ops.mean(x)), "can mix"),
    "cumsum": (lambda x: ops.cumsum(x, axis=-1), "can mix channels"),
    "rolled": (lambda x: ops.roll(x, 1, axis=-1), "can mix channels"),
    "sorted": (lambda x: ops.sort(x, axis=-1), "can mix channels"),
    "gate": (lambda x: x[..., :4] * ops.sigmoid(x[..., 4:]), "can mix"),
    "by place": (
        lambda x: x * ops.arange(x.shape[-1], dtype=x.dtype),
        "can mix",
    ),
    "first only": (
        lambda x: ops.concatenate([ops.relu(x[..., :6]), x[..., 6:]], -1),
        "can mix channels",
    ),
    "by width": (lambda x: x / x.shape[-1], "can mix channels"),
    "of one size": (
        lambda x: x + np.linspace(0, 1, 8).astype(keras.config.floatx()),
        "can mix channels",
    ),
    "of one rank": (
        lambda x: ops.transpose(ops.transpose(x, (0, 2, 1)), (0, 2, 1)),
        "cannot be tried (",
    ),
    "one number": (lambda x: ops.sum(x), "can mix channels"),
    "random": (_random, "differs from call to call"),
    "seeded": (_seeded, "can mix channels"),
    "root": (lambda x: ops.sqrt(x), "may not be finite where it is masked"),
    "logarithm": (lambda x: ops.log(ops.abs(x)), "may not be finite"),
    "steep": (
        lambda x: ops.sign(x) * ops.abs(x) ** (1 / 3),
        "has no finite slope at 0",
    ),
    "step": (lambda x: ops.cast(x > 0, x.dtype), "has no finite slope at 0"),
}


def _activated(function, where):
    if where == "Dense":
        made = [layers.Dense(8, activation=function, name="first")]
    else:
        made = [layers.Conv1D(8, 2, name="first"), layers.Activation(function)]
    return stack(
        (5, 6), *made, layers.Dense(4), layers.Flatten(), layers.Dense(3)
    )


@pytest.mark.filterwarnings("ignore:.* includes a `lambda`")
@pytest.mark.parametrize("where", ["Dense", "Activation"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_function_that_acts_on_each_element_is_recognised(name, where):
    model = randomized(_activated(ELEMENTWISE[name], where))
    assert reasons(model, "first") == []
    prunable = kprune.prune(
        kprune.make_prunable(model), 0.5, granularity="filter"
    )
    stripped = kprune.strip(prunable)
    assert stripped.count_params() < 0.7 * model.count_params()
    assert_equal_outputs(prunable, stripped, samples(model), EXACT_MEAN)


# A function of NumPy is called with a tensor of torch.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")
@pytest.mark.parametrize("name", OTHER)
def test_of_other_functions_the_reason_says_what_they_do(name):
    function, problem = OTHER[name]
    inputs = keras.Input((5, 6))
    x = layers.Dense(8, name="first")(inputs)
    x = layers.Activation(function, name="act")(x)
    (reason,) = reasons(keras.Model(inputs, layers.Dense(3)(x)), "first")
    assert f"of 'act' {problem}" in reason


def test_tensorflow_functions_are_recognised():
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("They are functions of another backend.")
    for function in (tf.nn.gelu, tf.nn.relu, tf.nn.silu, tf.math.tanh):
        assert reasons(_activated(function, "Dense"), "first") == []
    (reason,) = reasons(_activated(tf.nn.softmax, "Dense"), "first")
    assert "can mix channels" in reason


@pytest.mark.filterwarnings("ignore:.* includes a `lambda`")
@pytest.mark.parametrize("option", ["activation", "recurrent_activation"])
def test_functions_in_recurrent_layers(option):
    for kind in (layers.LSTM, layers.GRU):
        layer = kind(8, name="first", **{option: lambda x: ops.tanh(x / 2)})
        model = randomized(stack((5, 6), layer, layers.Dense(3)))
        prunable = kprune.prune(
            kprune.make_prunable(model), 0.5, granularity="filter"
        )
        stripped = kprune.strip(prunable)
        assert stripped.get_layer("first").units == 4
        assert_equal_outputs(prunable, stripped, samples(model), EXACT_MEAN)
        layer = kind(8, name="first", **{option: lambda x: x - ops.mean(x)})
        (reason,) = reasons(stack((5, 6), layer, layers.Dense(3)), "first")
        assert "can mix channels" in reason


def test_channels_of_a_function_are_tried_in_their_full_length():
    def late(x):
        return ops.concatenate([ops.relu(x[..., :300]), x[..., 300:]], -1)

    model = stack(
        (6,), layers.Dense(320, activation=late, name="first"), layers.Dense(3)
    )
    (reason,) = reasons(model, "first")
    assert reason == "activation 'late' of 'first' can mix channels"
