"""Masks of steps, from Keras and from users, are no inputs to a rule."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import EXACT_MEAN, assert_equal_outputs, outputs, randomized

import kprune
from kprune.structure import channel_graph, register_rule

pytestmark = [
    pytest.mark.usefixtures("float64"),
    # Keras says it of most kinds here.
    pytest.mark.filterwarnings("ignore:.* destroy the mask information"),
]

STEPS, WIDTH = 6, 8


@keras.saving.register_keras_serializable("test_masks")
class Double(layers.Layer):
    """A layer of one's own that has a rule and passes masks on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x, mask=None):
        return 2 * x

    def compute_output_shape(self, shape):
        return shape


@register_rule(Double)
def double(walk, call):
    (x,) = call.inputs
    return [{axis: c.varying() for axis, c in x.axes.items()}]


@keras.saving.register_keras_serializable("test_masks")
class MaskedMean(layers.Layer):
    """One that computes with the mask, and has a rule that asks for it."""

    def call(self, x, steps_mask, *, mask=None):
        given = ops.cast(steps_mask, x.dtype)[..., None]
        return ops.sum(x * given, axis=1) / ops.sum(given, axis=1)


@register_rule(MaskedMean)
def masked_mean(walk, call):
    (x,) = call.inputs
    (mask,) = call.masks
    assert mask.shape == x.shape[:2]
    return [{1: x.axes[2].varying()}]


@keras.saving.register_keras_serializable("test_masks")
class Unknown(layers.Layer):
    """One without a rule."""

    def call(self, x, mask=None):
        given = ops.cast(mask, x.dtype)[..., None]
        return ops.cumsum(x * given, axis=-1)


def _nested(*stack):
    return keras.Sequential([keras.Input((STEPS, WIDTH)), *stack])


def _functional():
    x = keras.Input((STEPS, WIDTH))
    y = layers.LSTM(WIDTH, return_sequences=True)(layers.Dense(WIDTH)(x))
    return keras.Model(x, layers.BatchNormalization()(y))


def _pair(layer):
    """A layer of two tensors, of which both or one have a mask."""

    def apply(x, mask=None):
        return layer([x, layers.Dense(WIDTH)(x)])

    return apply


def _half_masked(x, mask=None):
    bare = layers.Dense(WIDTH)(ops.copy(x))
    return layers.Concatenate()([x, bare])


def _attend(layer):
    return lambda x, **masks: layer(x, x, **masks)


# Each reads a tensor of shape (batch, steps, width) that carries a mask.
KINDS = {
    "Dense": lambda: layers.Dense(6),
    "EinsumDense": lambda: layers.EinsumDense("abc,cd->abd", (STEPS, 6)),
    "Conv1D": lambda: layers.Conv1D(6, 3, padding="same"),
    "Conv1D in groups": lambda: layers.Conv1D(WIDTH, 3, groups=WIDTH),
    "Conv1DTranspose": lambda: layers.Conv1DTranspose(6, 3, padding="same"),
    "DepthwiseConv1D": lambda: layers.DepthwiseConv1D(3, padding="same"),
    "SeparableConv1D": lambda: layers.SeparableConv1D(6, 3, padding="same"),
    "LSTM": lambda: layers.LSTM(6, return_sequences=True),
    "LSTM, last": lambda: layers.LSTM(6),
    "GRU": lambda: layers.GRU(6, return_sequences=True),
    "SimpleRNN": lambda: layers.SimpleRNN(6, return_sequences=True),
    "Bidirectional": lambda: layers.Bidirectional(
        layers.LSTM(6, return_sequences=True)
    ),
    "Bidirectional, last": lambda: layers.Bidirectional(
        layers.GRU(6), merge_mode="sum"
    ),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(6)),
    "TimeDistributed Double": lambda: layers.TimeDistributed(Double()),
    "BatchNormalization": layers.BatchNormalization,
    "LayerNormalization": layers.LayerNormalization,
    "RMSNormalization": layers.RMSNormalization,
    "GroupNormalization": lambda: layers.GroupNormalization(WIDTH),
    "UnitNormalization": lambda: layers.UnitNormalization(axis=1),
    "Activation": lambda: layers.Activation("tanh"),
    "PReLU": lambda: layers.PReLU(shared_axes=[1]),
    "Dropout": lambda: layers.Dropout(0.3),
    "SpatialDropout1D": lambda: layers.SpatialDropout1D(0.3),
    "ActivityRegularization": lambda: layers.ActivityRegularization(l2=0.1),
    "GlobalAveragePooling1D": layers.GlobalAveragePooling1D,
    "GlobalAveragePooling1D, kept": lambda: layers.GlobalAveragePooling1D(
        keepdims=True
    ),
    "GlobalMaxPooling1D": layers.GlobalMaxPooling1D,
    "AveragePooling1D": lambda: layers.AveragePooling1D(2),
    "MaxPooling1D": lambda: layers.MaxPooling1D(2),
    "UpSampling1D": lambda: layers.UpSampling1D(2),
    "ZeroPadding1D": lambda: layers.ZeroPadding1D(1),
    "Cropping1D": lambda: layers.Cropping1D(1),
    "Flatten": layers.Flatten,
    "Reshape": lambda: layers.Reshape((STEPS, 2, WIDTH // 2)),
    "Permute": lambda: lambda x: layers.Flatten()(layers.Permute((2, 1))(x)),
    "Rescaling": lambda: layers.Rescaling(0.5),
    "Masking": lambda: layers.Masking(),
    "Add": lambda: _pair(layers.Add()),
    "Multiply": lambda: _pair(layers.Multiply()),
    "Concatenate": lambda: _pair(layers.Concatenate()),
    "Concatenate, one masked": lambda: _half_masked,
    "Dot": lambda: _pair(layers.Dot(axes=2)),
    "Attention": lambda: _pair(layers.Attention()),
    "AdditiveAttention": lambda: _pair(layers.AdditiveAttention()),
    "MultiHeadAttention": lambda: _attend(layers.MultiHeadAttention(2, 3)),
    "GroupQueryAttention": lambda: _attend(layers.GroupQueryAttention(4, 4, 2)),
    "operations": lambda: lambda x: ops.tanh(x) * 2 + ops.mean(x, 1, True),
    "nested": lambda: _nested(layers.LSTM(6, return_sequences=True)),
    "nested twice": lambda: _nested(
        layers.BatchNormalization(), _nested(layers.GRU(6))
    ),
    "Functional": _functional,
    "of one's own": Double,
    "without a rule": Unknown,
}
# They keep all channels. Keras makes the mask of what a Concatenate makes by
# looking through its channels.
WHOLE = {"Concatenate", "Concatenate, one masked", "LayerNormalization"}
WHOLE |= {"Masking", "without a rule"}
# These take a mask as an argument too.
EXPLICIT = [
    *("LSTM", "LSTM, last", "GRU", "SimpleRNN", "Bidirectional"),
    *("TimeDistributed", "TimeDistributed Double", "BatchNormalization"),
    *("GlobalAveragePooling1D", "nested", "nested twice", "Functional"),
    *("of one's own", "without a rule"),
]
SLOW_ON_JAX = pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="On JAX Keras's SimpleRNN does not run in float64.",
)


def _each(kinds):
    return [
        pytest.param(kind, marks=SLOW_ON_JAX if kind == "SimpleRNN" else ())
        for kind in kinds
    ]


def _tokens():
    """Samples of 2 to 6 tokens, with 0 behind them."""
    tokens = np.random.default_rng(1).integers(1, 9, (4, STEPS))
    return np.where(np.arange(STEPS) < [[2], [3], [5], [6]], tokens, 0)


def _head(y):
    """Outputs, of a model whose masks matter up to the end."""
    if len(y.shape) == 3:
        y = layers.GlobalAveragePooling1D()(layers.Dense(5)(y))
    elif len(y.shape) > 3:
        y = layers.Flatten()(y)
    return layers.Dense(3)(y)


def _assert_shrinks(model, x, is_whole=False):
    """Pruned by filters and stripped it is equal, and every door stands."""
    model = kprune.make_prunable(randomized(model))
    kprune.prune(model, 0.5, granularity="filter")
    stripped = kprune.strip(model)
    assert_equal_outputs(model, stripped, x, EXACT_MEAN)
    report = kprune.report(model, dense=stripped)
    assert report.macs is not None or "without a rule" in report.model
    assert str(channel_graph(model))
    # Of the layer in front of the kind.
    row = report.layers[1]
    assert (row.filters_removed == 0) == bool(row.reason) == is_whole
    return model, stripped


@pytest.mark.parametrize("kind", _each(KINDS))
def test_the_mask_of_an_embedding(kind):
    x = keras.Input((STEPS,))
    y = layers.Embedding(9, WIDTH, mask_zero=True)(x)
    # The second layer of the report, of which the kind reads the channels.
    y = KINDS[kind]()(layers.Dense(WIDTH)(y))
    _assert_shrinks(keras.Model(x, _head(y)), _tokens(), kind in WHOLE)


@pytest.mark.parametrize("kind", _each(EXPLICIT))
def test_a_mask_that_is_passed(kind):
    x = keras.Input((STEPS, 4))
    mask = keras.Input((STEPS,), dtype="bool")
    y = layers.Dense(WIDTH)(layers.Dense(5)(x))
    y = KINDS[kind]()(y, mask=mask)
    model = keras.Model([x, mask], _head(y))
    values = np.random.default_rng(0).normal(size=(4, STEPS, 4))
    data = [values, _tokens() > 0]
    prunable, _ = _assert_shrinks(model, data, kind in WHOLE)
    # The mask does something, or equality would be no news.
    if kind not in ("BatchNormalization", "of one's own", *WHOLE):
        others = outputs(prunable, [values, np.ones_like(data[1])])[0]
        assert np.abs(outputs(prunable, data)[0] - others).max() > 1e-6


def test_a_mask_of_each_step_goes_to_the_layer_that_is_held():
    x, mask = keras.Input((3, STEPS, 4)), keras.Input((3, STEPS), dtype="bool")
    y = layers.TimeDistributed(layers.LSTM(WIDTH, name="held"))(x, mask=mask)
    y = layers.Dense(3)(layers.Flatten()(layers.Dense(6)(y)))
    model = kprune.make_prunable(randomized(keras.Model([x, mask], y)))
    kprune.prune(model, 0.5, granularity="filter")
    stripped = kprune.strip(model)
    data = np.random.default_rng(0).normal(size=(4, 3, STEPS, 4))
    seen = np.broadcast_to((_tokens() > 0)[:, None], (4, 3, STEPS))
    assert_equal_outputs(model, stripped, [data, seen], EXACT_MEAN)
    assert [x for x in stripped.layers if hasattr(x, "layer")][
        0
    ].layer.units == WIDTH // 2


def test_a_mask_along_channels_that_a_held_softmax_gets():
    x, mask = keras.Input((3, 4)), keras.Input((3, WIDTH), dtype="bool")
    y = layers.Dense(WIDTH, name="first")(x)
    y = layers.TimeDistributed(layers.Softmax(name="held"))(y, mask=mask)
    model = keras.Model([x, mask], layers.Dense(3)(y))
    graph = channel_graph(model)
    (reason,) = graph.frozen_reasons(model.get_layer("first"))
    assert reason == "'held' normalizes over it"


def test_a_mask_made_of_channels_keeps_them():
    x = keras.Input((STEPS, 4))
    first = layers.Dense(STEPS, name="first")
    mask = layers.Flatten()(layers.Dense(1, name="second")(first(x)) > 0)
    y = layers.LSTM(5, name="lstm")(x, mask=mask)
    wide = layers.Dense(STEPS, name="wide")
    y = layers.LSTM(5, name="last")(
        layers.RepeatVector(STEPS)(y), mask=wide(y) > 0
    )
    graph = channel_graph(keras.Model(x, layers.Dense(3)(y)))
    assert graph.frozen_reasons(first) == []
    assert graph.frozen_reasons(wide) == ["'last' takes it for a mask"]


@pytest.mark.parametrize("suffix", ["keras", "tflite"])
def test_a_file_of_a_model_with_masks(suffix, tmp_path):
    if suffix == "tflite" and keras.backend.backend() != "tensorflow":
        pytest.skip("A worker of TensorFlow writes it, which takes long.")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    x = keras.Input((STEPS,), dtype="int32")
    y = layers.Embedding(9, WIDTH, mask_zero=True)(x)
    y = layers.BatchNormalization()(layers.Dense(WIDTH)(y))
    y = layers.GlobalAveragePooling1D()(
        layers.LSTM(WIDTH, return_sequences=True, unroll=True)(y)
    )
    model = kprune.make_prunable(keras.Model(x, layers.Dense(3)(y)))
    kprune.prune(model, 0.5, granularity="filter")
    result = kprune.export(model, tmp_path / f"model.{suffix}")
    assert result.bytes > 0
