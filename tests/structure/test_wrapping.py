"""Layers that hold other layers: what is inside goes, outputs stay equal."""

import keras
import numpy as np
import pytest
from keras import layers
from models import EXACT_MEAN, assert_equal_outputs, numpy
from models import shrunk as shrunk_exactly

import kprune
from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")

NOT_ON_JAX = pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="On JAX Keras's SimpleRNN does not run in float64.",
)


def shrunk(model, x, sparsity=0.5):
    """As in `models`; on JAX `ops.tanh` computes in float32."""
    return shrunk_exactly(model, x, sparsity, tolerance=EXACT_MEAN)


def _x(*shape):
    return np.random.default_rng(1).normal(size=(4, *shape))


def _stack(*stack, shape=(5, 6)):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        (layers.LSTM, "concat"),
        (layers.GRU, "sum"),
        pytest.param(layers.SimpleRNN, "mul", marks=NOT_ON_JAX),
        (layers.GRU, "ave"),
        (layers.LSTM, None),
    ],
)
def test_both_directions_lose_units(kind, mode):
    inputs = keras.Input((5, 6))
    x = layers.Dense(6)(inputs)
    both = layers.Bidirectional(
        kind(8, return_sequences=True), merge_mode=mode, name="both"
    )
    outputs = both(x)
    outputs = outputs if mode is None else [outputs]
    model = keras.Model(inputs, [layers.Dense(3)(x) for x in outputs])
    found = shrunk(model, _x(5, 6)).get_layer("both")
    assert found.forward_layer.units == found.backward_layer.units == 4
    assert found.backward_layer.cell.kernel.shape[0] == 3


def test_nothing_left_of_units_at_a_high_sparsity():
    model = _stack(
        layers.Bidirectional(layers.LSTM(8)), layers.Dense(6), layers.Dense(3)
    )
    smaller = shrunk(model, _x(5, 6), 0.9)
    assert smaller.layers[0].forward_layer.units == 1
    assert smaller.layers[1].kernel.shape == (2, 1)


def test_states_of_both_directions():
    inputs, later = keras.Input((5, 6)), keras.Input((3, 6))
    encoder = layers.Bidirectional(layers.GRU(8, return_state=True))
    decoder = layers.Bidirectional(layers.GRU(8), name="decoder")
    x, *states = encoder(inputs)
    y = decoder(later, initial_state=states)
    outputs = [layers.Dense(3)(tensor) for tensor in (x, states[1], y)]
    model = keras.Model([inputs, later], outputs)
    smaller = shrunk(model, [_x(5, 6), _x(3, 6)])
    assert smaller.get_layer("decoder").forward_layer.units == 4


def test_a_backward_layer_of_its_own():
    both = layers.Bidirectional(
        layers.LSTM(8, name="lstm"),
        backward_layer=layers.GRU(8, go_backwards=True, activation="relu"),
    )
    smaller = shrunk(_stack(both, layers.Dense(3)), _x(5, 6))
    found = smaller.layers[0]
    assert isinstance(found.backward_layer, layers.GRU)
    assert found.forward_layer.units == found.backward_layer.units == 4


def test_directions_that_differ_stay():
    both = layers.Bidirectional(
        layers.LSTM(8, name="lstm"),
        backward_layer=layers.LSTM(6, go_backwards=True),
        merge_mode=None,
        name="both",
    )
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, [layers.Dense(3)(x) for x in both(inputs)])
    reasons = channel_graph(model).frozen_reasons(both)
    assert reasons == ["'both' holds layers that differ"]


def test_a_convolutional_lstm_in_both_directions():
    both = layers.Bidirectional(layers.ConvLSTM1D(4, 2, padding="same"))
    model = _stack(both, layers.Flatten(), layers.Dense(3), shape=(3, 5, 2))
    found = shrunk(model, _x(3, 5, 2)).layers[0]
    assert found.forward_layer.filters == found.backward_layer.filters == 2


def test_a_text_model_with_masks():
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(tokens)
    x = layers.Bidirectional(layers.LSTM(6))(x)
    model = keras.Model(tokens, layers.Dense(3)(x))
    ids = np.random.default_rng(0).integers(1, 20, (4, 7))
    ids[:2, 4:] = 0
    smaller = shrunk(model, ids)
    (both,) = [x for x in smaller.layers if isinstance(x, layers.Bidirectional)]
    assert both.forward_layer.cell.kernel.shape == (4, 12)


@pytest.mark.parametrize(("mode", "left"), [("concat", 2), ("sum", 3)])
def test_compact_keeps_both_directions_equally_wide(mode, left):
    both = layers.Bidirectional(layers.LSTM(4), merge_mode=mode)
    model = _stack(both, layers.Dense(3))
    kernel = numpy(model.layers[1].kernel).copy()
    # Three units of one direction go, and two of the other.
    kernel[[1, 2, 3, 4, 5] if mode == "concat" else [1]] = 0
    model.layers[1].kernel.assign(kernel)
    for layer in (both.forward_layer, both.backward_layer):
        layer.cell.recurrent_kernel.assign(
            np.zeros(layer.cell.recurrent_kernel.shape)
        )
    smaller = kprune.compact(model)
    found = smaller.layers[0]
    assert found.forward_layer.units == found.backward_layer.units == left
    assert_equal_outputs(model, smaller, _x(5, 6), EXACT_MEAN)


def test_a_dense_at_each_step():
    model = _stack(
        layers.TimeDistributed(layers.Dense(8, activation="sigmoid")),
        layers.TimeDistributed(layers.Dense(6)),
        layers.LSTM(4),
        layers.Dense(3),
    )
    smaller = shrunk(model, _x(5, 6))
    assert smaller.layers[0].layer.units == 4
    assert smaller.layers[1].layer.kernel.shape == (4, 3)


@pytest.mark.parametrize("steps", [3, None])
def test_a_convolution_at_each_step(steps):
    model = _stack(
        layers.TimeDistributed(layers.Conv2D(6, 3, padding="same")),
        layers.TimeDistributed(layers.BatchNormalization()),
        layers.TimeDistributed(layers.DepthwiseConv2D(3)),
        layers.TimeDistributed(layers.Reshape((16, 6))),
        layers.TimeDistributed(layers.Flatten()),
        layers.TimeDistributed(layers.Dense(8)),
        layers.GRU(4),
        layers.Dense(3),
        shape=(steps, 6, 6, 2),
    )
    smaller = shrunk(model, _x(3, 6, 6, 2))
    assert smaller.layers[0].layer.filters == 3
    assert smaller.layers[3].layer.target_shape == (16, 3)
    assert smaller.layers[5].layer.kernel.shape == (48, 4)


def test_a_layer_in_a_layer_in_a_layer():
    words = layers.TimeDistributed(layers.Dense(8))
    model = _stack(
        layers.TimeDistributed(words),
        layers.TimeDistributed(layers.Bidirectional(layers.GRU(6))),
        layers.LSTM(4),
        layers.Dense(3),
        shape=(3, 5, 6),
    )
    smaller = shrunk(model, _x(3, 5, 6))
    assert smaller.layers[0].layer.layer.units == 4
    inner = smaller.layers[1].layer
    assert inner.forward_layer.units == inner.backward_layer.units == 3
    assert smaller.layers[2].cell.kernel.shape == (6, 8)


def test_steps_that_are_channels_go_along():
    model = _stack(
        layers.Dense(8),
        layers.Permute((2, 1)),
        layers.TimeDistributed(layers.Dense(4)),
        layers.Flatten(),
        layers.Dense(3),
    )
    smaller = shrunk(model, _x(5, 6))
    assert smaller.layers[0].units == 4
    # Flatten keeps the shorter of two axes.
    assert smaller.layers[2].layer.kernel.shape == (5, 4)


class Mixing(layers.Layer):
    """A layer of a user that has no rule."""

    def call(self, x):
        return keras.ops.flip(x, axis=-1)

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (Mixing(name="mix"), "'mix' (Mixing) has no rule"),
        (
            keras.Sequential([keras.Input((6,)), layers.Dense(4)], name="m"),
            "'m' (Sequential) has no rule",
        ),
    ],
)
def test_what_has_no_rule_inside_is_named(inner, reason):
    dense = layers.Dense(6)
    model = _stack(
        dense, layers.TimeDistributed(inner), layers.LSTM(2), layers.Dense(3)
    )
    assert channel_graph(model).frozen_reasons(dense) == [reason]


def test_a_cell_in_both_directions_is_named():
    dense = layers.Dense(6)
    both = layers.Bidirectional(layers.RNN(layers.LSTMCell(4), name="rnn"))
    model = _stack(dense, both, layers.Dense(3))
    reasons = channel_graph(model).frozen_reasons(dense)
    assert reasons == ["'forward_rnn' (RNN) has no rule"]


def test_a_held_layer_that_is_called_elsewhere_too_stays():
    inputs = keras.Input((5, 6))
    first = layers.Dense(6, name="first")
    x = first(inputs)
    dense = layers.Dense(6, name="twice")
    held = layers.TimeDistributed(dense, name="held")
    x = layers.Concatenate()([dense(x), held(x)])
    model = keras.Model(inputs, layers.Dense(3)(x))
    reasons = channel_graph(model).frozen_reasons(first)
    assert reasons == ["'twice' and 'held' share weights"]
