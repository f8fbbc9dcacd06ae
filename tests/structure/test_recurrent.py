"""Recurrent layers: units go, and the outputs stay equal."""

import keras
import numpy as np
import pytest
from keras import layers
from models import EXACT_MEAN, numpy
from models import assert_equal_outputs as assert_exactly_equal_outputs
from models import shrunk as shrunk_exactly

import kprune
from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")

NOT_ON_JAX = pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="On JAX Keras's SimpleRNN does not run in float64.",
)

KINDS = {
    "LSTM": layers.LSTM,
    "GRU": layers.GRU,
    "GRU before": lambda units, **kwargs: layers.GRU(
        units, reset_after=False, **kwargs
    ),
    "SimpleRNN": layers.SimpleRNN,
}
EVERY_KIND = [
    *list(KINDS)[:-1],
    pytest.param("SimpleRNN", marks=NOT_ON_JAX),
]


def shrunk(model, x, sparsity=0.5):
    """As in `models`; on JAX `ops.tanh` computes in float32."""
    return shrunk_exactly(model, x, sparsity, tolerance=EXACT_MEAN)


def assert_equal_outputs(first, second, x):
    """As in `models`, with the tolerance of `shrunk`."""
    assert_exactly_equal_outputs(first, second, x, EXACT_MEAN)


def _x(*shape):
    return np.random.default_rng(1).normal(size=(4, *shape))


def _stack(*stack, shape=(5, 6)):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize(
    ("sparsity", "options"),
    [
        (0.5, {}),
        (0.5, {"go_backwards": True, "unroll": True, "use_bias": False}),
        (0.9, {"recurrent_dropout": 0.1, "activation": "softplus"}),
    ],
)
def test_units_go(kind, sparsity, options):
    model = _stack(
        layers.Dense(6),
        KINDS[kind](8, return_sequences=True, **options),
        KINDS[kind](10, **options),
        layers.Dense(3),
    )
    smaller = shrunk(model, 5 * _x(5, 6), sparsity)
    units = [layer.units for layer in smaller.layers]
    assert units == {0.5: [3, 4, 5, 3], 0.9: [1, 1, 1, 3]}[sparsity]
    gates = smaller.layers[1].cell.kernel.shape[1] // units[1]
    recurrent = smaller.layers[1].cell.recurrent_kernel.shape
    assert recurrent == (units[1], gates * units[1])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_decoder_starts_from_the_states_of_an_encoder(kind):
    source, target = keras.Input((5, 6)), keras.Input((3, 4))
    encoder = KINDS[kind](8, return_state=True)
    decoder = KINDS[kind](8, return_sequences=True, return_state=True)
    _, *states = encoder(source)
    x, *states = decoder(target, initial_state=states)
    rest = layers.Concatenate()(states)
    model = keras.Model(
        [source, target], [layers.Dense(3)(x), layers.Dense(2)(rest)]
    )
    graph = channel_graph(model)
    np.testing.assert_array_equal(
        graph.groups_of(encoder.cell.recurrent_kernel, 0),
        graph.groups_of(decoder.cell.recurrent_kernel, 0),
    )
    smaller = shrunk(model, [_x(5, 6), _x(3, 4)])
    found = [layer for layer in smaller.layers if hasattr(layer, "cell")]
    assert [layer.units for layer in found] == [4, 4]


def test_a_state_from_outside_keeps_the_units():
    inputs, state = keras.Input((5, 6)), keras.Input((8,))
    layer = layers.GRU(8, name="gru")
    model = keras.Model(
        [inputs, state],
        layers.Dense(3)(layer(inputs, initial_state=state)),
    )
    (reason,) = channel_graph(model).frozen_reasons(layer)
    assert reason == "'gru' starts from a state that cannot be cut"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"activation": "softmax"}, "softmax"),
        ({"recurrent_activation": "softmax"}, "softmax"),
    ],
)
def test_activations_that_mix_units_keep_them(options, name):
    layer = layers.LSTM(8, name="lstm", **options)
    model = _stack(layer, layers.Dense(3))
    (reason,) = channel_graph(model).frozen_reasons(layer)
    assert reason == f"activation '{name}' of 'lstm' can mix channels"


def test_the_axis_of_time_stays():
    dense = layers.Dense(5)
    model = _stack(
        dense,
        layers.Permute((2, 1)),
        layers.LSTM(4, name="lstm"),
        layers.Dense(3),
    )
    reasons = channel_graph(model).frozen_reasons(dense)
    assert reasons == ["'lstm' runs over this axis"]


def test_cells_have_no_rule():
    dense = layers.Dense(6)
    cell = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(4)])
    model = _stack(dense, layers.RNN(cell, name="rnn"), layers.Dense(3))
    reasons = channel_graph(model).frozen_reasons(dense)
    assert reasons == ["'rnn' (RNN) has no rule"]


@pytest.mark.parametrize(
    ("rank", "padding"), [(1, "valid"), (2, "same"), (3, "valid")]
)
def test_filters_of_convolutional_lstms_go(rank, padding):
    kind = getattr(layers, f"ConvLSTM{rank}D")
    space = (4,) * rank
    model = _stack(
        kind(4, 2, padding=padding, return_sequences=True),
        kind(6, 2, padding=padding),
        layers.Flatten(),
        layers.Dense(3),
        shape=(3, *space, 2),
    )
    smaller = shrunk(model, _x(3, *space, 2))
    assert [layer.filters for layer in smaller.layers[:2]] == [2, 3]
    assert smaller.layers[1].cell.recurrent_kernel.shape[-2:] == (3, 12)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow has no channels-first convolution on CPUs.",
)
def test_a_convolutional_lstm_with_channels_first():
    model = _stack(
        layers.ConvLSTM2D(
            4, 2, data_format="channels_first", return_sequences=True
        ),
        layers.ConvLSTM2D(6, 2, data_format="channels_first"),
        layers.Flatten(data_format="channels_first"),
        layers.Dense(3),
        shape=(3, 2, 4, 4),
    )
    smaller = shrunk(model, _x(3, 2, 4, 4))
    assert [layer.filters for layer in smaller.layers[:2]] == [2, 3]


def test_masks_zero_all_gates_of_a_unit():
    model = _stack(layers.LSTM(6), layers.Dense(3))
    prunable = kprune.make_prunable(model)
    kprune.prune(prunable, 0.5, granularity="filter")
    masks = {n: numpy(m) for n, m in prunable.layers[0].masks.items()}
    kept = masks["recurrent_kernel"].any(axis=1)
    assert kept.sum() == 3
    columns = np.tile(kept, 4)
    for name in ("kernel", "recurrent_kernel"):
        np.testing.assert_array_equal(masks[name].any(axis=0), columns)
    np.testing.assert_array_equal(masks["bias"], columns)


def test_masked_states_are_zero():
    model = _stack(layers.LSTM(6, return_state=True), shape=(5, 4))
    prunable = kprune.make_prunable(
        keras.Model(model.inputs, [layers.Dense(2)(x) for x in model.outputs])
    )
    assert len(prunable.outputs) == 3
    kprune.prune(prunable, 0.5, granularity="filter")
    kept = numpy(prunable.layers[1].masks["recurrent_kernel"]).any(axis=1)
    for state in prunable.layers[1](_x(5, 4)):
        assert (numpy(state)[:, ~kept] == 0).all()
        assert (numpy(state)[:, kept] != 0).all()


def _set(layer, changes):
    """Sets slices of a recurrent layer's weights."""
    for name, index, value in changes:
        variable = getattr(layer.cell, name)
        array = numpy(variable).copy()
        array[index] = value
        variable.assign(array)


@pytest.mark.parametrize(
    ("kind", "candidate"),
    [
        ("LSTM", slice(16, 24)),
        ("GRU", slice(16, 24)),
        ("GRU before", slice(16, 24)),
        pytest.param("SimpleRNN", slice(0, 8), marks=NOT_ON_JAX),
    ],
)
def test_compact_takes_units_whose_state_stays_zero(kind, candidate):
    layer = KINDS[kind](8)
    model = _stack(layer, layers.Dense(3))
    start = candidate.start
    generator = np.random.default_rng(0)
    layer.cell.bias.assign(generator.normal(size=layer.cell.bias.shape))
    # Units 1 and 2 get nothing, but for unit 2 from unit 1.
    for unit in (1, 2):
        _set(
            layer,
            [
                ("kernel", np.s_[:, start + unit], 0),
                ("recurrent_kernel", np.s_[:, start + unit], 0),
                ("bias", np.s_[..., start + unit], 0),
            ],
        )
    _set(layer, [("recurrent_kernel", np.s_[1, start + 2], 0.7)])
    smaller = kprune.compact(model)
    assert smaller.layers[0].units == 6
    assert_equal_outputs(model, smaller, _x(5, 6))


def test_compact_keeps_units_that_start_from_a_state():
    inputs, state = keras.Input((5, 6)), keras.Input((8,))
    layer = layers.SimpleRNN(8)
    start = layers.Dense(8)(state)
    model = keras.Model(
        [inputs, state],
        layers.Dense(3)(layer(inputs, initial_state=start)),
    )
    _set(
        layer,
        [("kernel", np.s_[:, :2], 0), ("recurrent_kernel", np.s_[:, 0], 0)],
    )
    smaller = kprune.compact(model)
    (found,) = [x for x in smaller.layers if hasattr(x, "cell")]
    assert found.units == 8


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_compact_takes_units_that_nothing_reads(kind):
    layer = KINDS[kind](8)
    model = _stack(layer, layers.Dense(3))
    kernel = numpy(model.layers[-1].kernel).copy()
    kernel[[1, 4, 6]] = 0
    model.layers[-1].kernel.assign(kernel)
    others = np.delete(np.arange(8), [1, 4])
    gates = layer.cell.kernel.shape[1] // 8
    for unit in (1, 4):
        # It may read itself. Unit 6 is read by others, and stays.
        columns = np.add.outer(np.arange(gates) * 8, others).reshape(-1)
        _set(layer, [("recurrent_kernel", (unit, columns), 0)])
    _set(
        layer,
        [
            ("recurrent_kernel", (1, np.arange(gates) * 8 + 4), 0),
            ("recurrent_kernel", (4, np.arange(gates) * 8 + 1), 0),
        ],
    )
    smaller = kprune.compact(model)
    assert smaller.layers[0].units == 6
    assert_equal_outputs(model, smaller, _x(5, 6))


def test_a_stateful_layer_goes_on_where_it_was():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, 5, 6)),
            layers.LSTM(8, stateful=True),
            layers.Dense(3),
        ]
    )
    _, reader = model.layers
    reader.kernel.assign(numpy(reader.kernel) * (np.arange(8) > 2)[:, None])
    _set(model.layers[0], [("recurrent_kernel", np.s_[:3], 0)])
    smaller = kprune.compact(model)
    assert smaller.layers[0].units == 5
    first = numpy(model(_x(5, 6)))
    assert np.abs(first - numpy(model(_x(5, 6)))).max() > 1e-3
    model.layers[0].reset_state()
    for _ in range(2):
        assert_equal_outputs(model, smaller, _x(5, 6))


def test_a_text_model_with_masks():
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(tokens)
    x = layers.LSTM(6, return_sequences=True)(x)
    x = layers.GRU(6)(x)
    model = keras.Model(tokens, layers.Dense(3)(x))
    ids = np.random.default_rng(0).integers(1, 20, (4, 7))
    ids[:2, 4:] = 0
    smaller = shrunk(model, ids)
    widths = [x.units for x in smaller.layers if hasattr(x, "units")]
    assert widths == [3, 3, 3]
