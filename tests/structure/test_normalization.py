"""Rules of norms: equal outputs, and reasons for what stays."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from models import (
    EXACT_MEAN,
    assert_equal_outputs,
    numpy,
    outputs,
    randomized,
    shrunk,
)

import kprune
from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")

PADS = {"pad_layer_norm": True}


def _x(model):
    shape = [size or 5 for size in model.inputs[0].shape[1:]]
    return np.random.default_rng(0).normal(size=(4, *shape))


def _cut(model, options=PADS, sparsity=0.5):
    """What is left of a model, equal to the masked one."""
    x = _x(model)
    return shrunk(model, x, sparsity, tolerance=EXACT_MEAN, **options)


def _stack(*middle, shape=(5, 3), width=8):
    """A Dense, what is tested, and another Dense."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Dense(width, name="first"),
            *middle,
            layers.Dense(6, activation="tanh", name="second"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def _reasons(*middle, **options):
    model = _stack(*middle)
    graph = channel_graph(model, **options)
    return graph.frozen_reasons(model.get_layer("first"))


def _transformer(norm, attends=False):
    """A small pre-norm transformer of width 8."""
    x = inputs = keras.Input((5, 3))
    x = layers.Dense(8, name="embed")(x)
    for index in range(2):
        if attends:
            y = norm()(x)
            y = layers.MultiHeadAttention(2, 4, name=f"heads{index}")(y, y)
            x = layers.Add()([x, y])
        y = norm(name=f"norm{index}")(x)
        y = layers.Dense(12, activation="gelu", name=f"up{index}")(y)
        y = layers.Dense(8, name=f"down{index}")(y)
        x = layers.Add()([x, y])
    x = norm(name="last")(x)
    x = layers.Dense(2)(layers.Flatten()(x))
    return keras.Model(inputs, x)


def _widths(model):
    names = ("embed", "up0", "down0", "up1", "down1")
    return [model.get_layer(name).units for name in names]


@pytest.mark.parametrize(
    ("norm", "options", "residual"),
    [
        (layers.LayerNormalization, {}, 8),
        (layers.LayerNormalization, PADS, 4),
        (layers.RMSNormalization, {}, 4),
        (layers.UnitNormalization, {}, 4),
    ],
)
def test_the_residual_width_of_a_transformer(norm, options, residual):
    small = _cut(_transformer(norm), options)
    assert _widths(small) == [residual, 6, residual, 6, residual]


def test_attention_between_norms():
    small = _cut(_transformer(layers.LayerNormalization, attends=True))
    assert _widths(small) == [4, 6, 4, 6, 4]
    small = _cut(_transformer(layers.RMSNormalization, attends=True))
    assert _widths(small) == [4, 6, 4, 6, 4]


@pytest.mark.parametrize(("has_stem_norm", "width"), [(False, 4), (True, 8)])
def test_a_convnext_like_net(has_stem_norm, width):
    # What a norm makes of zeros is not zero: behind the stem's it goes into
    # the sums, and from there to other norms.
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 2, strides=2, name="stem")(x)
    if has_stem_norm:
        x = layers.LayerNormalization()(x)
    for index in range(2):
        y = layers.DepthwiseConv2D(3, padding="same", name=f"mix{index}")(x)
        y = layers.LayerNormalization(epsilon=1e-6)(y)
        y = layers.Dense(16, activation="gelu", name=f"up{index}")(y)
        y = layers.Dense(8, name=f"down{index}")(y)
        x = layers.Add()([x, y])
    x = layers.LayerNormalization()(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    small = _cut(model)
    assert small.get_layer("stem").filters == width
    assert small.get_layer("mix1").bias.shape == (width,)
    assert small.get_layer("down1").units == width
    assert small.get_layer("up1").units == 8
    assert _cut(model, {}).get_layer("stem").filters == 8


@pytest.mark.parametrize(
    ("options", "sparsity"),
    [
        ({}, 0.9),
        ({"scale": False}, 0.5),
        ({"center": False}, 0.9),
        ({"scale": False, "center": False}, 0.5),
        ({"axis": 2, "epsilon": 0.5}, 0.9),
        ({"axis": [-1], "trainable": False}, 0.5),
        ({"rms_scaling": True}, 0.5),
    ],
)
def test_layer_norm_padded(options, sparsity):
    with pytest.MonkeyPatch.context() as patch:
        # Keras says that `rms_scaling` is deprecated.
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        small = _cut(
            _stack(layers.LayerNormalization(name="norm", **options), width=20),
            sparsity=sparsity,
        )
    kept = 10 if sparsity == 0.5 else 2
    assert small.get_layer("first").units == kept
    assert small.get_layer("second").get_weights()[0].shape[0] == kept
    inner = small.get_layer("norm").get_layer("norm")
    assert all(weight.shape == (20,) for weight in inner.weights)
    assert inner.trainable == options.get("trainable", True)


@pytest.mark.parametrize("shape", [(3,), (4, 4, 3)])
def test_layer_norm_padded_at_other_ranks(shape):
    norm = layers.LayerNormalization()
    assert _cut(_stack(norm, shape=shape)).layers[0].units == 4


def test_what_stands_for_a_layer_norm_is_plain_keras():
    small = _cut(_stack(layers.LayerNormalization(name="norm")))
    assert "kprune" not in json.dumps(small.get_config(), default=str)
    assert [layer.name for layer in small.layers[:3]] == [
        "first",
        "norm",
        "second",
    ]
    inner = small.get_layer("norm")
    assert type(inner).__module__.startswith("keras.")
    assert isinstance(inner.get_layer("norm"), layers.LayerNormalization)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend is enough"
)
def test_a_padded_layer_norm_in_tflite(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    model = kprune.make_prunable(_stack(layers.LayerNormalization()))
    small = kprune.strip(kprune.prune(model, 0.5, granularity="filter", **PADS))
    assert small.layers[0].units == 4
    kprune.export(small, tmp_path / "model.tflite")
    run = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()
    x = _x(small)[:1].astype("float32")
    (name,) = run.get_input_details()
    (y,) = run(**{name: x}).values()
    np.testing.assert_allclose(y, outputs(small, x)[0], atol=1e-5)


def test_a_padded_layer_norm_is_pruned_again():
    model = _transformer(layers.LayerNormalization)
    small = _cut(_cut(model))
    assert _widths(small) == [2, 3, 2, 3, 2]
    assert small.get_layer("norm0").count_params() == 16


def test_a_padded_layer_norm_in_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = kprune.make_prunable(_stack(layers.LayerNormalization()))
    kprune.prune(model, 0.5, granularity="filter", **PADS)
    small = kprune.strip(model)
    assert small.layers[1].inputs[0].dtype == "float16"
    x = _x(model)
    for one, other in zip(outputs(model, x), outputs(small, x)):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02)


def test_layer_norm_freezes_without_the_option():
    (reason,) = _reasons(layers.LayerNormalization(name="ln"))
    assert reason == (
        "'ln' (LayerNormalization) normalizes over it; "
        "`pad_layer_norm=True` of `kprune.prune` cuts it"
    )
    norm = layers.LayerNormalization(name="ln")
    assert _reasons(norm, pad_layer_norm=True) == []


def test_the_option_is_of_the_model():
    model = _stack(layers.LayerNormalization(), layers.Dense(8))
    prunable = kprune.make_prunable(model)
    kprune.prune(prunable, 0.5, granularity="filter")
    assert kprune.strip(prunable).layers[0].units == 8
    assert "pad_layer_norm" in kprune.report(prunable).layers[0].reason
    kprune.prune(prunable, 0.5, granularity="filter", **PADS)
    assert kprune.strip(prunable).layers[0].units == 4
    assert "pad_layer_norm" not in kprune.report(prunable).layers[0].reason


def test_the_option_can_change_between_updates():
    model = kprune.make_prunable(_stack(layers.LayerNormalization()))
    pruner = kprune.updating.MaskUpdater(granularity="filter", **PADS)
    pruner.update(model, 0.5)
    assert kprune.strip(model).layers[0].units == 4
    kprune.prune(model, 0.5, granularity="filter")
    assert kprune.strip(model).layers[0].units == 8


@pytest.mark.parametrize("axis", [1, [1, 2]])
@pytest.mark.parametrize(
    "kind", [layers.LayerNormalization, layers.RMSNormalization]
)
def test_norms_over_other_axes(kind, axis):
    # Keras scales the last axis, so both must be as long.
    model = _stack(kind(axis=axis, name="norm"), shape=(8, 3))
    graph = channel_graph(model, pad_layer_norm=True)
    assert graph.frozen_reasons(model.get_layer("first")) == [
        f"'norm' ({kind.__name__}) has other axes"
    ]


@pytest.mark.parametrize(
    "kind", [layers.LayerNormalization, layers.RMSNormalization]
)
def test_channels_on_an_axis_that_is_not_normalized_over(kind):
    model = _stack(
        layers.Permute((2, 1)), kind(), layers.Permute((2, 1)), kind()
    )
    with_beta = kind is layers.LayerNormalization
    # Zeros become beta, and the second norm cannot do without them.
    assert _cut(model).layers[0].units == (8 if with_beta else 4)
    model = _stack(layers.Permute((2, 1)), kind(), layers.Permute((2, 1)))
    assert _cut(model).layers[0].units == 4


def _twice(norm, second, width=4):
    """A model in which a norm is called on two tensors."""
    inputs = keras.Input((5, width))
    x = layers.Dense(width, name="first")(inputs)
    y = layers.Dense(width, name="other")(inputs)
    both = {
        "other": lambda: y,
        "input": lambda: inputs,
        "pooled": lambda: layers.GlobalMaxPooling1D()(y),
    }[second]()
    parts = [layers.Flatten()(norm(x)), layers.Flatten()(norm(both))]
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(parts)))


@pytest.mark.parametrize(
    "norm",
    [
        lambda: layers.BatchNormalization(name="norm"),
        lambda: layers.GroupNormalization(4, scale=False, center=False),
        lambda: layers.LayerNormalization(name="norm"),
        lambda: layers.LayerNormalization(scale=False, center=False),
        lambda: layers.RMSNormalization(name="norm"),
    ],
)
def test_shared_norms(norm):
    small = _cut(_twice(norm(), "other"))
    assert small.get_layer("first").units == 2
    assert small.get_layer("other").units == 2
    model = _twice(norm(), "input")
    graph = channel_graph(model, pad_layer_norm=True)
    (reason,) = graph.frozen_reasons(model.get_layer("first"))
    assert "also takes what cannot be cut" in reason


def test_a_layer_norm_at_two_ranks():
    model = _twice(layers.LayerNormalization(name="norm"), "pooled")
    graph = channel_graph(model, pad_layer_norm=True)
    assert graph.frozen_reasons(model.get_layer("first")) == [
        "'norm' takes tensors of several ranks or dtypes"
    ]


def test_a_layer_norm_in_another_layer():
    norm = layers.LayerNormalization(name="norm")
    (reason,) = _reasons(
        layers.TimeDistributed(norm, name="each"), pad_layer_norm=True
    )
    assert "'norm'" in reason or "'each'" in reason


@pytest.mark.filterwarnings("ignore:.* destroy the mask information")
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_layer_norm_that_passes_a_mask_on(is_nested):
    norm = layers.LayerNormalization(name="norm")
    if is_nested:
        inner = keras.Input((5, 8))
        norm = keras.Model(inner, norm(inner))
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Embedding(7, 8, mask_zero=True, name="first"),
            norm,
            layers.LSTM(3),
            layers.Dense(2),
        ]
    )
    graph = channel_graph(model, pad_layer_norm=True)
    reasons = graph.frozen_reasons(model.get_layer("first"))
    assert reasons == ["'norm' (LayerNormalization) passes a mask on"]


def _with_zeros(model, name, channels, biases=True):
    """Sets output channels of a Dense to zero."""
    layer = randomized(model).get_layer(name)
    kernel, bias = layer.get_weights()
    kernel[:, channels] = 0
    if biases:
        bias[channels] = 0
    layer.set_weights([kernel, bias])


def _without_input(model, name, channels):
    """Sets the weights of a Dense that read channels to zero."""
    layer = model.get_layer(name)
    kernel, bias = layer.get_weights()
    kernel[channels] = 0
    layer.set_weights([kernel, bias])


def _compacted(model):
    small = kprune.compact(model)
    assert_equal_outputs(model, small, _x(model), EXACT_MEAN)
    return small


@pytest.mark.parametrize(
    "kind", [layers.LayerNormalization, layers.RMSNormalization]
)
def test_compact_needs_zeros_in_front_of_a_norm(kind):
    model = _stack(kind())
    _with_zeros(model, "first", [0, 3], biases=False)
    _without_input(model, "second", [0, 3])
    assert _compacted(model).layers[0].units == 8
    _with_zeros(model, "first", [0, 3])
    _without_input(model, "second", [0, 3])
    assert _compacted(model).layers[0].units == 6


def test_compact_needs_nothing_to_read_beta():
    model = _stack(layers.LayerNormalization(name="norm"))
    _with_zeros(model, "first", [0, 3])
    assert _compacted(model).layers[0].units == 8
    # Scaled by 0 it is beta, a constant that goes into the next bias.
    gamma, beta = model.get_layer("norm").get_weights()
    gamma[3] = 0
    model.get_layer("norm").set_weights([gamma, beta])
    assert _compacted(model).layers[0].units == 7


def test_rms_norm_is_scaled_and_its_epsilon_grows():
    model = _stack(layers.RMSNormalization(epsilon=0.3, name="norm"))
    _with_zeros(model, "first", [0, 3, 4, 5, 6, 7])
    norm = model.get_layer("norm")
    norm.scale.assign(np.arange(1.0, 9.0))
    small = _compacted(model).get_layer("norm")
    assert small.epsilon == pytest.approx(0.3 * 4)
    np.testing.assert_allclose(numpy(small.scale), [2 * 2, 3 * 2])


@pytest.mark.parametrize(
    "kind", [layers.RMSNormalization, layers.UnitNormalization]
)
def test_norms_of_what_is_not_zero_once_masked(kind):
    reasons = _reasons(layers.Activation("sigmoid"), kind(name="norm"))
    assert reasons == ["'norm' sums over it, and masked it is not 0"]


def test_report_names_a_sum_that_needs_what_is_masked():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            kprune.PrunableDense(8, granularity="filter", name="first"),
            layers.Activation("sigmoid"),
            layers.RMSNormalization(name="norm"),
            layers.Dense(2),
        ]
    )
    layer = model.layers[0]
    layer.masks["kernel"].assign(np.arange(24).reshape(3, 8) % 8 > 2)
    layer.masks["bias"].assign(np.arange(8) > 2)
    assert (
        "masked filters stay: 'norm' sums over them, and they are not 0"
        in kprune.report(model).layers[0].reason
    )


def test_unit_norm_over_several_axes():
    model = _stack(layers.UnitNormalization(axis=[1, -1]))
    assert _cut(model).layers[0].units == 4
    model = _stack(layers.UnitNormalization(axis=1))
    assert _cut(model).layers[0].units == 4


@pytest.mark.parametrize(
    ("options", "sparsity", "groups", "channels"),
    [
        ({"groups": 4}, 0.5, 2, 4),
        ({"groups": 4, "scale": False, "center": False}, 0.9, 1, 2),
        ({"groups": 2, "center": False}, 0.9, 1, 4),
        ({"groups": -1}, 0.5, 4, 4),
        ({"groups": 8, "axis": 2}, 0.5, 4, 4),
    ],
)
def test_group_norm_loses_whole_groups(options, sparsity, groups, channels):
    norm = layers.GroupNormalization(name="norm", **options)
    small = _cut(_stack(norm), sparsity=sparsity)
    assert small.layers[0].units == channels
    assert small.get_layer("norm").groups == groups
    weights = small.get_layer("norm").get_weights()
    assert all(weight.shape == (channels,) for weight in weights)


def test_group_norm_on_another_axis():
    model = _stack(
        layers.Permute((2, 1)),
        layers.GroupNormalization(4, axis=1, name="norm"),
        layers.Permute((2, 1)),
    )
    small = _cut(model)
    assert small.layers[0].units == 4
    assert small.get_layer("norm").groups == 2


def test_group_norm_freezes_what_it_averages_over():
    (reason,) = _reasons(layers.GroupNormalization(1, name="norm"))
    assert reason == "'norm' (GroupNormalization) has a single group"
    (reason,) = _reasons(
        layers.Permute((2, 1)), layers.GroupNormalization(5, name="norm")
    )
    assert reason == "'norm' averages over this axis"


def test_compact_of_groups():
    model = _stack(layers.GroupNormalization(4, name="norm"))
    _with_zeros(model, "first", [0, 1, 2])
    small = _compacted(model)
    # A group of zeros is beta, which goes into the next bias.
    assert small.layers[0].units == 6
    assert small.get_layer("norm").groups == 3


@pytest.mark.parametrize("is_scaled", [True, False])
def test_compact_of_what_batch_norm_makes_constant(is_scaled):
    norm = layers.BatchNormalization(scale=is_scaled, name="norm")
    model = _stack(norm)
    _with_zeros(model, "first", [2], biases=False)
    norm.moving_mean.assign(np.linspace(-1, 1, 8))
    assert _compacted(model).layers[0].units == 7
    if is_scaled:
        norm.gamma.assign(np.arange(8) % 4 > 0)
        assert _compacted(model).layers[0].units == 5


def test_rescaling():
    model = _stack(layers.Rescaling(2.0), layers.RMSNormalization())
    assert _cut(model).layers[0].units == 4
    model = _stack(layers.Rescaling(2.0, offset=1.0), layers.ReLU())
    assert _cut(model).layers[0].units == 4
    reasons = _reasons(
        layers.Rescaling(2.0, offset=1.0), layers.RMSNormalization(name="norm")
    )
    assert reasons == ["'norm' sums over it, and masked it is not 0"]
    (reason,) = _reasons(layers.Rescaling([1.0, 2.0] * 4, name="scaled"))
    assert reason == "'scaled' (Rescaling) has a scale per channel"


def test_normalization():
    norm = layers.Normalization(
        name="norm", mean=np.arange(8.0), variance=[2] * 8
    )
    (reason,) = _reasons(norm)
    assert reason == "'norm' (Normalization) has statistics along it"
    for norm in (
        layers.Normalization(mean=0.5, variance=2.0),
        layers.Normalization(axis=None, mean=0.5, variance=2.0),
    ):
        assert _cut(_stack(norm)).layers[0].units == 4
    inputs = keras.Input((5, 3))
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(1).normal(size=(9, 5, 3)))
    x = layers.Dense(8, name="first")(norm(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert _cut(model).get_layer("first").units == 4


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.SpectralNormalization(layers.Dense(8), name="other"),
        lambda: layers.Discretization([0.0, 1.0], name="other"),
    ],
)
def test_layers_without_a_rule_are_named(layer):
    layer = layer()
    reasons = _reasons(layer)
    assert reasons == [f"'other' ({type(layer).__name__}) has no rule"]
