"""Layers that merge and reshape: what shrinks exactly, what stays and why."""

import keras
import numpy as np
import pytest
from keras import layers
from models import EXACT_MEAN, assert_equal_outputs, branched, shrunk, units

import kprune
from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")


def _data(*inputs):
    generator = np.random.default_rng(1)
    data = [generator.normal(size=(4, *i.shape[1:])) for i in inputs]
    return data[0] if len(data) == 1 else data


def _between(function, shape):
    """A model with `function` between two layers that make channels."""
    inputs = keras.Input(shape)
    if len(shape) == 3:
        x = layers.Conv2D(8, 3, name="made")(inputs)
    else:
        x = layers.Dense(8, name="made")(inputs)
    x = function(x)
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    x = layers.Dense(5)(x)
    return keras.Model(inputs, layers.Dense(3)(x)), _data(inputs)


def _size(model):
    made = model.get_layer("made")
    return getattr(made, "filters", getattr(made, "units", None))


MERGING = {
    "add": layers.Add,
    "average": layers.Average,
    "maximum": layers.Maximum,
    "minimum": layers.Minimum,
    "multiply": layers.Multiply,
    "subtract": layers.Subtract,
    "concatenate": layers.Concatenate,
    "concatenate_from_the_right": lambda: layers.Concatenate(axis=-2),
    "concatenate_in_time": lambda: layers.Concatenate(axis=1),
}


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_merging_layers(sparsity):
    def merged(make):
        def function(x):
            return make()([x, layers.Dense(8, activation="tanh")(x)])

        return function

    branches = {name: merged(make) for name, make in MERGING.items()}
    model, x = branched(branches, (6, 3))
    small = shrunk(model, x, sparsity)
    left = 4 if sparsity == 0.5 else 1
    assert units(small, branches) == dict.fromkeys(branches, left)


@pytest.mark.parametrize("kind", [layers.Add, layers.Multiply, layers.Maximum])
def test_merging_tensors_of_other_ranks(kind):
    def function(x):
        pooled = layers.GlobalMaxPooling2D()(x)
        rows = layers.Reshape((6, 8))(layers.MaxPooling2D((1, 6))(x))
        return kind()([rows, x, pooled])

    model, x = _between(function, (8, 8, 3))
    assert _size(shrunk(model, x)) == 4


def test_a_merge_of_three_with_one_broadcast():
    def function(x):
        gate = layers.Conv2D(1, 1, name="gate")(x)
        return layers.Average()([x, gate, layers.ReLU()(x)])

    model, x = _between(function, (8, 8, 3))
    small = shrunk(model, x)
    assert _size(small) == 4 and small.get_layer("gate").filters == 1
    (reason,) = channel_graph(model).frozen_reasons(model.get_layer("gate"))
    assert "broadcasts it over an axis" in reason


@pytest.mark.parametrize("axis", [-1, 3])
def test_parts_that_cannot_be_cut_stay(axis):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 1, name="made")(inputs)
    x = layers.Concatenate(axis=axis)([inputs, x, layers.Softmax()(x)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    (reason,) = channel_graph(model).frozen_reasons(model.get_layer("made"))
    assert "'softmax' normalizes over it" in reason
    x = layers.Conv2D(8, 1, name="made")(inputs)
    x = layers.Concatenate(axis=axis)([inputs, x])
    x = layers.Conv2D(4, 1, name="read")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    small = shrunk(model, _data(inputs))
    assert small.get_layer("read").kernel.shape == (1, 1, 3 + 4, 2)


def test_a_sum_with_what_cannot_be_cut_freezes():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="made")(inputs)
    x = layers.Subtract(name="minus")([x, inputs])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    (reason,) = channel_graph(model).frozen_reasons(model.get_layer("made"))
    assert "'minus' merges it with a tensor that cannot be cut" in reason


SEQUENCES = {
    "cropping": lambda x: layers.Cropping1D((1, 2))(x),
    "padding": lambda x: layers.ZeroPadding1D((1, 2))(x),
    "upsampling": lambda x: layers.UpSampling1D(2)(x),
    "pooling": lambda x: layers.MaxPooling1D(2)(x),
    "permute": lambda x: layers.Permute((2, 1))(x),
    "flatten": lambda x: layers.Flatten()(x),
    "reshape": lambda x: layers.Reshape((3, 2, 8))(x),
    "reshape_with_rest": lambda x: layers.Reshape((-1, 8))(x),
    "reshape_to_groups": lambda x: layers.Reshape((6, 2, 4))(x),
}
IMAGES = {
    "cropping": lambda x: layers.Cropping2D(1)(x),
    "padding": lambda x: layers.ZeroPadding2D((1, 2))(x),
    "upsampling": lambda x: layers.UpSampling2D(2, interpolation="bilinear")(x),
    "resizing": lambda x: layers.Resizing(4, 5)(x),
    "resizing_with_border": lambda x: layers.Resizing(
        4, 9, pad_to_aspect_ratio=True, fill_value=0.3
    )(x),
    "permute": lambda x: layers.Permute((3, 1, 2))(x),
    "reshape": lambda x: layers.Reshape((36, 8))(x),
    "reshape_with_ones": lambda x: layers.Reshape((1, 36, 1, 8))(x),
    **{
        name: lambda x, name=name: getattr(layers, name)((2, 3))(x)
        for name in ("AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D")
        if hasattr(layers, name)
    },
}


@pytest.mark.parametrize(
    ("branches", "shape"), [(SEQUENCES, (6, 3)), (IMAGES, (6, 6, 3))]
)
def test_layers_between_others(branches, shape):
    model, x = branched(branches, shape)
    small = shrunk(model, x, tolerance=EXACT_MEAN)
    assert units(small, branches) == dict.fromkeys(branches, 4)


def test_a_repeated_vector():
    def function(x):
        return layers.RepeatVector(3)(layers.GlobalMaxPooling1D()(x))

    model, x = _between(function, (6, 3))
    assert _size(shrunk(model, x)) == 4


def test_reshape_of_unknown_space_keeps_channels():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, name="made")(inputs)
    x = keras.ops.reshape(x, (-1, 1, 8))
    x = layers.Dense(5, name="read")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    x = np.random.default_rng(0).normal(size=(4, 6, 5, 3))
    assert _size(shrunk(model, x)) == 4


def _scaled(x):
    return 2.0 * x


FROZEN = {
    "masking": ([layers.Masking], "compares all channels of a step"),
    "lambda": ([lambda: layers.Lambda(_scaled)], "(Lambda) has no rule"),
    "contrast": (
        [lambda: layers.RandomContrast(0.5)],
        "(RandomContrast) has no rule",
    ),
    "permuted": (
        [lambda: layers.Permute((1, 3, 2)), layers.MaxPooling2D],
        "acts on this axis",
    ),
}


@pytest.mark.filterwarnings("ignore:.* destroy the mask information")
@pytest.mark.parametrize("name", FROZEN)
def test_what_stays_and_why(name):
    stack, expected = FROZEN[name]

    def function(x):
        for make in stack:
            x = make()(x)
        return x

    model, _ = _between(function, (8, 8, 3))
    graph = channel_graph(model)
    reasons = [
        reason
        for layer in model.layers
        for reason in graph.frozen_reasons(layer)
        if "output of the model" not in reason
    ]
    assert len(set(reasons)) == 1 and expected in reasons[0]


def test_two_axes_of_channels_that_merge_freeze_the_shorter():
    def function(x):
        x = layers.Dense(6, name="wide")(layers.Permute((2, 1))(x))
        return layers.Reshape((48,))(x)

    model, x = _between(function, (4, 3))
    (reason,) = channel_graph(model).frozen_reasons(model.get_layer("wide"))
    assert "merges it with a longer axis" in reason
    assert _size(shrunk(model, x)) == 4


@pytest.mark.filterwarnings("ignore:.* destroy the mask information")
def test_layers_on_inputs_do_no_harm():
    inputs = keras.Input((8, 8, 3))
    x = layers.RandomFlip()(layers.Resizing(6, 6)(inputs))
    x = layers.Masking()(layers.Lambda(_scaled)(x))
    x = layers.Conv2D(8, 3, name="made")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert channel_graph(model).frozen_reasons(model.get_layer("made")) == []


def test_a_shared_reshape_with_what_cannot_be_cut():
    inputs = keras.Input((6, 8))
    reshape = layers.Reshape((48,), name="shared")
    made = layers.Dense(8, name="made")
    x = layers.Concatenate()([reshape(inputs), reshape(made(inputs))])
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(6)(x)))
    (reason,) = channel_graph(model).frozen_reasons(made)
    assert "'shared' also takes what cannot be cut" in reason
    shrunk(model, _data(inputs))


@pytest.mark.parametrize(
    "kind", [layers.Average, layers.Maximum, layers.Subtract, layers.Multiply]
)
def test_constants_through_merging_layers_are_folded(kind):
    inputs = keras.Input((4,))
    one, two = layers.Dense(6, name="made"), layers.Dense(6)
    x = kind()([one(inputs), two(inputs)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(3)(x)))
    for layer, zeros in ((one, [1, 3, 4]), (two, [1, 4, 5])):
        kernel, bias = layer.get_weights()
        kernel[:, zeros] = 0
        layer.set_weights([kernel, np.linspace(-1, 0.7, 6)])
    small = kprune.compact(model)
    assert _size(small) == 4
    assert_equal_outputs(model, small, _data(inputs))
