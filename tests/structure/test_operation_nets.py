"""Nets written with keras.ops: attention, skips, gates, shuffles, nesting."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import EXACT_MEAN, shrunk

from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")


def _data(*inputs):
    generator = np.random.default_rng(1)
    data = [generator.normal(size=(4, *i.shape[1:])) for i in inputs]
    return data[0] if len(data) == 1 else data


def _image_model(function, x=(8, 8, 3)):
    inputs = keras.Input(x)
    y = function(inputs)
    if len(y.shape) > 2:
        y = layers.Flatten()(y)
    return keras.Model(inputs, layers.Dense(3)(y)), _data(inputs)


def _attention(inputs, heads=2):
    """Attention written by hand with matmuls."""
    time, width = inputs.shape[1:]

    def projected(size, name):
        x = layers.Dense(heads * size, name=name)(inputs)
        x = ops.reshape(x, (-1, time, heads, size))
        return ops.transpose(x, (0, 2, 1, 3))

    query, key = projected(6, "query"), projected(6, "key")
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * 6**-0.5
    x = ops.matmul(ops.softmax(scores, axis=-1), projected(4, "value"))
    x = ops.transpose(x, (0, 2, 1, 3))
    x = ops.reshape(x, (-1, time, heads * 4))
    return inputs + layers.Dense(width)(x)


def _attention_by_einsum(inputs, heads=2):
    time, width = inputs.shape[1:]

    def projected(size, name):
        x = layers.Dense(heads * size, name=name)(inputs)
        return ops.reshape(x, (-1, time, heads, size))

    query, key = projected(6, "query"), projected(6, "key")
    scores = ops.einsum("...qhd, ...khd->...hqk", query, key) / 6**0.5
    x = ops.einsum(
        "bhqk,bkhd->bqhd", ops.softmax(scores), projected(4, "value")
    )
    x = ops.reshape(x, (-1, time, heads * 4))
    return inputs + layers.Dense(width)(x)


@pytest.mark.parametrize("attention", [_attention, _attention_by_einsum])
def test_attention_by_hand_loses_widths_of_its_heads(attention):
    model, x = _image_model(attention, (5, 7))
    small = shrunk(model, x)
    sizes = [small.get_layer(n).units for n in ("query", "key", "value")]
    assert sizes == [6, 6, 4]
    sizes = [
        shrunk(model, x, 0.9).get_layer(n).units
        for n in ("query", "key", "value")
    ]
    assert sizes == [2, 2, 2]


def test_dot_product_attention_keeps_its_scale():
    def attention(inputs):
        parts = [
            layers.Reshape((5, 2, 6))(layers.Dense(12, name=name)(inputs))
            for name in ("query", "key", "value")
        ]
        x = ops.dot_product_attention(*parts)
        return layers.Dense(4)(layers.Reshape((5, -1))(x))

    model, x = _image_model(attention, (5, 7))
    # Keras computes the scores in float32.
    small = shrunk(model, x, tolerance=2e-6)
    names = ("query", "key", "value")
    assert [small.get_layer(name).units for name in names] == [6, 6, 6]


def test_packed_queries_keys_and_values():
    def attention(inputs):
        x = layers.Dense(3 * 2 * 4, name="packed")(inputs)
        x = ops.transpose(ops.reshape(x, (-1, 5, 3, 2, 4)), (2, 0, 3, 1, 4))
        query, key, value = x[0], x[1], x[2]
        scores = query @ ops.swapaxes(key, -2, -1) / 2.0
        x = ops.softmax(scores) @ value
        x = ops.reshape(ops.moveaxis(x, 1, 2), (-1, 5, 2 * 4))
        return layers.Dense(7)(x) + inputs

    model, x = _image_model(attention, (5, 7))
    assert shrunk(model, x).get_layer("packed").units == 3 * 2 * 2


def _unet(inputs):
    one = layers.Conv2D(6, 3, padding="same", name="one")(inputs)
    two = layers.Conv2D(8, 3, padding="same", strides=2, name="two")(one)
    two = ops.relu(two)
    up = layers.UpSampling2D()(two)
    x = ops.concatenate([up, one, inputs], axis=3)
    return layers.Conv2D(4, 3, name="merged")(x)


def _shuffled(inputs):
    x = layers.Conv2D(8, 1, name="one")(inputs)
    left, right = ops.split(x, 2, axis=-1)
    right = layers.Conv2D(4, 3, padding="same", name="two")(right)
    x = ops.concatenate([left, right], axis=-1)
    x = ops.reshape(x, (-1, 8, 8, 2, 4))
    x = ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, 8, 8, 8))
    return layers.Conv2D(4, 3, name="merged")(x)


def _cross_stage(inputs):
    x = layers.Conv2D(8, 1, name="one")(inputs)
    y = x[..., 4:]
    y = y + layers.Conv2D(4, 3, padding="same", name="two")(ops.relu(y))
    x = ops.concatenate([x[..., :4], y], axis=-1)
    return layers.Conv2D(4, 3, name="merged")(x)


def _squeeze_excite(inputs):
    x = layers.Conv2D(8, 3, name="one")(inputs)
    gate = ops.mean(x, axis=(1, 2), keepdims=True)
    gate = layers.Conv2D(4, 1, activation="relu", name="two")(gate)
    gate = ops.sigmoid(layers.Conv2D(8, 1)(gate))
    return layers.Conv2D(4, 3, name="merged")(x * gate)


def _gated(inputs):
    x = layers.Conv2D(16, 3, name="one")(inputs)
    value, gate = ops.split(x, 2, axis=-1)
    x = layers.Conv2D(8, 1, name="two")(value * ops.sigmoid(gate))
    shift = layers.Dense(8)(ops.max(x, axis=(1, 2)))
    x = x + ops.expand_dims(ops.expand_dims(shift, 1), 1)
    return layers.Conv2D(4, 1, name="merged")(x)


@pytest.mark.parametrize(
    ("function", "filters"),
    [
        (_unet, (3, 4, 2)),
        (_shuffled, (4, 2, 2)),
        (_cross_stage, (4, 2, 2)),
        (_squeeze_excite, (4, 2, 2)),
        (_gated, (8, 4, 2)),
    ],
)
def test_nets_written_with_operations(function, filters):
    model, x = _image_model(function)
    small = shrunk(model, x, tolerance=EXACT_MEAN)
    names = ("one", "two", "merged")
    assert tuple(small.get_layer(n).filters for n in names) == filters
    shrunk(model, x, 0.9, tolerance=EXACT_MEAN)


def test_spatial_attention_freezes_what_it_averages():
    def function(inputs):
        x = layers.Conv2D(8, 3, name="one")(inputs)
        mean = ops.mean(x, axis=-1, keepdims=True)
        gate = ops.concatenate([mean, ops.max(x, -1, keepdims=True)], -1)
        gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(gate)
        return layers.Conv2D(6, 3, name="two")(x * gate)

    model, x = _image_model(function)
    (reason,) = channel_graph(model).frozen_reasons(model.get_layer("one"))
    assert "(Mean) mixes channels" in reason or "(Max)" in reason
    small = shrunk(model, x, tolerance=EXACT_MEAN)
    assert small.get_layer("one").filters == 8
    assert small.get_layer("two").filters == 3


def test_dicts_of_inputs_and_outputs():
    inputs = {
        "a": keras.Input((4,), name="a"),
        "b": keras.Input((3,), name="b"),
    }
    a = layers.Dense(8, name="left")(inputs["a"])
    b = layers.Dense(8, name="right")(inputs["b"])
    outputs = {
        "sum": layers.Dense(2)(ops.relu(a + b)),
        "parts": [layers.Dense(3)(ops.sin(a)), layers.Dense(1)(b) ** 2],
    }
    model = keras.Model(inputs, outputs)
    a, b = _data(*inputs.values())
    small = shrunk(model, {"a": a, "b": b})
    assert [small.get_layer(n).units for n in ("left", "right")] == [4, 4]


def _nested(function, size):
    inputs = keras.Input(size)
    return keras.Model(inputs, function(inputs), name="nested")


@pytest.mark.parametrize("labelled", [True, False])
def test_calls_of_a_nested_model_take_the_same_lengths(labelled):
    nested = _nested(lambda x: ops.relu(x[:, 1:7]) * np.arange(1.0, 7), (8,))
    inputs = [keras.Input((8,)), keras.Input((8,))]
    one, two = layers.Dense(8, name="one"), layers.Dense(8, name="two")
    parts = [nested(one(inputs[0]))]
    parts.append(nested(two(inputs[1]) if labelled else inputs[1]))
    x = layers.Dense(6, name="last")(ops.concatenate(parts, axis=-1))
    model = keras.Model(inputs, layers.Dense(2)(x))
    small = shrunk(model, _data(*inputs))
    assert small.get_layer("last").units == 3
    assert small.get_layer("one").units == (4 if labelled else 8)
    if not labelled:
        (reason,) = channel_graph(model).frozen_reasons(one)
        assert "'nested' also takes what cannot be cut" in reason


def test_an_unlabelled_operand_freezes():
    model, _ = _image_model(
        lambda x: ops.multiply(layers.Conv2D(3, 1, name="one")(x), x)
    )
    (reason,) = channel_graph(model).frozen_reasons(model.get_layer("one"))
    assert "merges it with a tensor that cannot be cut" in reason
