"""Layers that are called twice, tied, quantized or adapted."""

import keras
import numpy as np
import pytest
from keras import layers
from models import assert_equal_outputs, randomized, shrunk
from stacks import read_out, reasons, samples, sizes, stack

import kprune

pytestmark = pytest.mark.usefixtures("float64")


def _shared_by_input_and_channels(layer, width, rank=2):
    conv = (layers.Conv1D, layers.Conv2D)[rank - 1]
    inputs = keras.Input((6,) * rank + (width,))
    x = conv(width, 1, name="first")(inputs)
    x = layers.Concatenate()([layer(x), layer(inputs)])
    x = conv(4, 1, name="last")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("layer", "left"),
    [
        (lambda: layers.Dense(8), 4),
        (lambda: layers.Conv2D(8, 3), 4),
        (lambda: layers.Conv2D(8, 3, groups=2), 4),
        (lambda: layers.Conv2D(8, 3, groups=4), 8),
        (lambda: layers.SeparableConv2D(8, 3), 4),
        (lambda: layers.Conv2DTranspose(8, 3), 4),
        (lambda: layers.EinsumDense("...x,xy->...y", 8), 4),
    ],
)
def test_a_layer_on_the_input_and_on_channels(layer, left):
    model = _shared_by_input_and_channels(layer(), 4)
    assert reasons(model, "first") or left == 8
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "filters") == [4]
    # The reader of both has two input channels for each that the layer makes.
    assert smaller.get_layer("last").kernel.shape[2] == 2 * left


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.DepthwiseConv2D(3),
        lambda: layers.PReLU(shared_axes=[1, 2]),
        lambda: layers.PReLU(),
        lambda: layers.EinsumDense("abcd,de->abcde", (6, 6, 4, 3)),
    ],
)
def test_a_layer_that_keeps_channels_on_the_input_too(layer):
    layer = layer()
    layer.name = "shared"
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 1, name="first")(inputs)
    ends = [layers.Flatten()(layer(y)) for y in (x, inputs)]
    model = keras.Model(inputs, [layers.Dense(3)(end) for end in ends])
    (reason,) = reasons(model, "first")
    assert reason == "'shared' also takes what cannot be cut"


def test_shared_grouped_convolutions():
    shared = layers.Conv2D(8, 3, groups=8, padding="same", name="shared")
    inputs = keras.Input((6, 6, 2))
    x = shared(layers.Conv2D(8, 3, activation="relu", name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(shared(x))))
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "filters") == [4]
    assert sizes(smaller, "shared", "groups", "filters") == [4, 4]


def test_layers_that_hold_the_same_variable_stay(monkeypatch):
    first = layers.Dense(6, use_bias=False, name="one")
    second = layers.Dense(6, use_bias=False, name="two")
    inputs = keras.Input((6,))
    x = first(layers.Dense(6, name="before")(inputs))
    monkeypatch.setattr(second, "add_weight", lambda **_: first.weights[0])
    x = second(layers.Dense(6, name="between")(x))
    x = layers.Dense(5, name="after")(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    for name in ("before", "between"):
        assert reasons(model, name) == ["'one' and 'two' share weights"]
    # No config says so: the new model would have the variable twice.
    with pytest.raises(ValueError, match="'two' shares 'one/kernel'"):
        kprune.compact(model)


def _weights_of_others(kind):
    return stack(
        (6,) if kind != "embedding" else (5,),
        *(
            [layers.Embedding(7, 6, name="changed")]
            if kind == "embedding"
            else [
                layers.Dense(8, name="before"),
                layers.EinsumDense("ab,bc->ac", 8, name="changed")
                if kind == "einsum"
                else layers.Dense(8, name="changed"),
            ]
        ),
        layers.Dense(6, name="after"),
        layers.Dense(5, name="last"),
        *read_out(),
        dtype="int32" if kind == "embedding" else None,
    )


@pytest.mark.parametrize("kind", ["dense", "einsum", "embedding"])
def test_layers_with_lora_stay(kind):
    model = _weights_of_others(kind)
    model.get_layer("changed").enable_lora(2)
    for variable in model.get_layer("changed").weights:
        value = np.random.default_rng(0).normal(size=variable.shape)
        variable.assign(value)
    kernel, bias = model.get_layer("after").get_weights()
    kernel[:, 0] = 0
    model.get_layer("after").set_weights([kernel, bias])
    if kind != "embedding":
        (reason,) = reasons(model, "before")
        assert reason == "'changed' has LoRA weights; merge them first"
    smaller = kprune.compact(model)
    assert sizes(smaller, "after", "units") == [5]
    assert_equal_outputs(model, smaller, samples(model))


@pytest.mark.parametrize("kind", ["dense", "einsum", "embedding"])
def test_quantized_layers_stay(kind):
    model = _weights_of_others(kind)
    randomized(model)
    kernel, bias = model.get_layer("after").get_weights()
    kernel[:, 0] = 0
    model.get_layer("after").set_weights([kernel, bias])
    model.get_layer("changed").quantize("int8")
    if kind != "embedding":
        (reason,) = reasons(model, "before")
        assert reason == "'changed' is quantized"
    smaller = kprune.compact(model)
    assert sizes(smaller, "after", "units") == [5]
    assert_equal_outputs(model, smaller, samples(model))
