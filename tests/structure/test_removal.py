"""strip and compact: smaller models, equal outputs in float64."""

import keras
import numpy as np
import pytest
from keras import layers
from models import (
    EXACT,
    assert_equal_outputs,
    convnet,
    enliven,
    numpy,
    outputs,
)

import kprune
from kprune.keras_internals import sublayers

pytestmark = pytest.mark.usefixtures("float64")


def _image(size=12, channels=3):
    generator = np.random.default_rng(0)
    return generator.normal(size=(4, size, size, channels))


def _plain():
    return [
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(12, 3, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dense(10, activation="relu"),
        layers.Dense(4),
    ]


def _normalized():
    return [
        layers.ZeroPadding2D(1),
        layers.Conv2D(8, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        layers.AveragePooling2D(2, padding="same"),
        layers.Conv2D(12, 1),
        layers.Dropout(0.5),
        layers.GlobalMaxPooling2D(),
        layers.Dense(4),
    ]


def _not_zero_at_zero():
    return [
        layers.Conv2D(8, 3, padding="same", activation="sigmoid"),
        layers.Conv2D(8, 3, padding="same", activation="softplus"),
        layers.BatchNormalization(center=False, scale=False),
        layers.Conv2D(8, 3, activation="gelu"),
        layers.Permute((2, 3, 1)),
        layers.Permute((3, 1, 2)),
        layers.Flatten(),
        layers.Dense(4),
    ]


def _reshaped():
    return [
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Conv2D(8, 1),
        layers.Reshape((8,)),
        layers.Dense(36, activation="tanh"),
        layers.Reshape((3, 3, 4)),
        layers.Conv2D(6, 2),
        layers.Reshape((4, 6)),
        layers.Reshape((-1,)),
        layers.Dense(4),
    ]


def _stack(make):
    return keras.Sequential([keras.Input((12, 12, 3)), *make()])


def _residual():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    for _ in range(2):
        y = layers.Conv2D(6, 3, padding="same")(x)
        y = layers.BatchNormalization()(y)
        y = layers.Activation("swish")(y)
        y = layers.Conv2D(8, 3, padding="same")(y)
        x = layers.Add()([x, y])
    x = layers.Concatenate()([x, layers.Conv2D(5, 1)(x), inputs])
    x = layers.Conv2D(7, 3)(x)
    return keras.Model(
        inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    )


def _squeeze_excite():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, 8))(gate)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    spatial = layers.Conv2D(1, 1, activation="sigmoid")(x)
    x = layers.Multiply()([x, spatial])
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def _hidden_output():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3)(inputs)
    y = layers.Conv2D(6, 3)(x)
    y = layers.Dense(3)(layers.Flatten()(y))
    return keras.Model(inputs, {"logits": y, "features": x})


def _nested_and_shared():
    backbone = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(6, 3, activation="relu"),
        ],
        name="backbone",
    )
    middle = keras.Input((8, 8, 6))
    head = keras.Model(
        middle, layers.Dense(5)(layers.Flatten()(middle)), name="head"
    )
    inputs = keras.Input((12, 12, 3))
    scaled = layers.Rescaling(0.5)(inputs)
    merged = layers.Concatenate()(
        [head(backbone(inputs)), head(backbone(scaled))]
    )
    return keras.Model(inputs, layers.Dense(3)(merged))


def _unknown_layers():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3)(inputs)
    x = layers.LayerNormalization()(x)
    x = layers.Conv2D(8, 3)(x)
    x = layers.UnitNormalization()(x)
    x = layers.Conv2D(8, 3)(x)
    x = layers.Conv2D(4, 1, activation="softmax")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def _channels_first():
    inputs = keras.Input((3, 12, 12))
    x = inputs
    if keras.backend.backend() == "tensorflow":
        # TensorFlow has no channels-first convolution on CPUs.
        x = layers.Permute((2, 3, 1))(x)
        x = layers.Conv2D(6, 3)(x)
        x = layers.Permute((3, 1, 2))(x)
    else:
        x = layers.Conv2D(6, 3, data_format="channels_first")(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.Flatten(data_format="channels_first")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(5)(x)))


MODELS = {
    "plain": lambda: _stack(_plain),
    "normalized": lambda: _stack(_normalized),
    "not_zero_at_zero": lambda: _stack(_not_zero_at_zero),
    "reshaped": lambda: _stack(_reshaped),
    "residual": _residual,
    "squeeze_excite": _squeeze_excite,
    "hidden_output": _hidden_output,
    "nested_and_shared": _nested_and_shared,
    "unknown_layers": _unknown_layers,
    "channels_first": _channels_first,
}


def _x(model):
    shape = model.inputs[0].shape[1:]
    return np.random.default_rng(1).normal(size=(4, *shape))


# Of what 0.9 leaves no third can go.
@pytest.mark.filterwarnings("ignore:Nothing was pruned")
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("name", MODELS)
def test_removal_of_masked_units_is_exact(name, sparsity, tmp_path):
    model = MODELS[name]()
    x = _x(model)
    enliven(model, x)
    prunable = kprune.make_prunable(model)
    kprune.prune(prunable, sparsity, granularity="filter")
    # The mask does something, or equality would be no news.
    one, other = outputs(model, x)[-1], outputs(prunable, x)[-1]
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()
    stripped = kprune.strip(prunable)
    assert_equal_outputs(prunable, stripped, x)
    assert stripped.count_params() < model.count_params()
    stripped.save(tmp_path / "stripped.keras")
    loaded = keras.saving.load_model(tmp_path / "stripped.keras")
    for one, other in zip(
        outputs(stripped, x), outputs(loaded, x), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    again = kprune.make_prunable(stripped)
    kprune.prune(again, 0.3, granularity="filter")
    assert_equal_outputs(again, kprune.strip(again), x)


def test_the_right_channels_go():
    model = convnet()
    kprune.prune(model, 0.5)
    kept = numpy(model.layers[0].masks["bias"])
    stripped = kprune.strip(model)
    conv1, _, conv2, _, _, hidden, logits = stripped.layers
    assert (conv1.filters, conv2.filters) == (4, 8)
    assert (hidden.units, logits.units) == (32, 10)
    assert hidden.kernel.shape == (25 * 8, 32)
    np.testing.assert_array_equal(
        numpy(conv1.kernel), numpy(model.layers[0].layer.kernel)[..., kept]
    )
    names = [layer.name for layer in stripped.layers]
    assert names[0] == "conv1" and names[-1] == "logits"


def test_nothing_of_kprune_is_left(tmp_path):
    stripped = kprune.strip(kprune.prune(convnet(), 0.5))
    assert "kprune" not in stripped.to_json()
    assert "mask" not in stripped.to_json()
    for layer in sublayers(stripped):
        assert type(layer).__module__.startswith("keras.")


def test_strip_without_compaction_keeps_shapes():
    model = kprune.prune(convnet(), 0.5)
    stripped = kprune.strip(model, compact=False)
    x = _image(28, 1)
    for one, other in zip(outputs(model, x), outputs(stripped, x)):
        np.testing.assert_array_equal(one, other)
    assert stripped.layers[0].filters == 8
    assert kprune.sparsity(stripped) == kprune.sparsity(model)


def test_the_model_that_is_stripped_stays_as_it_was():
    model = kprune.prune(convnet(), 0.5)
    before = [numpy(variable) for variable in model.weights]
    kprune.strip(model)
    for old, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, numpy(variable))


def _mlp(*units, activation="relu"):
    return keras.Sequential(
        [
            keras.Input((6,)),
            *(layers.Dense(n, activation=activation) for n in units[:-1]),
            layers.Dense(units[-1]),
        ]
    )


def test_neurons_without_outputs_go_and_so_do_those_that_feed_them():
    model = _mlp(5, 4, 3, 2)
    weights = model.get_weights()
    weights[4][1] = 0  # nothing reads neuron 1 of the second layer,
    weights[2][2, [0, 2, 3]] = 0  # the only reader of neuron 2 of the first
    model.set_weights(weights)
    smaller = kprune.compact(model)
    assert [layer.units for layer in smaller.layers] == [4, 3, 3, 2]
    x = np.random.default_rng(0).normal(size=(8, 6))
    assert_equal_outputs(model, smaller, x)


@pytest.mark.parametrize("bias", [0.7, -0.7])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_neurons_without_inputs_are_folded_into_biases(activation, bias):
    model = _mlp(5, 4, 2, activation=activation)
    weights = model.get_weights()
    weights[0][:, [0, 3]] = 0
    weights[1][[0, 3]] = bias
    model.set_weights(weights)
    smaller = kprune.compact(model)
    assert smaller.layers[0].units == 3
    x = np.random.default_rng(0).normal(size=(8, 6))
    assert_equal_outputs(model, smaller, x)


@pytest.mark.parametrize(("padding", "left"), [("valid", 3), ("same", 4)])
def test_a_constant_channel_is_folded_only_where_that_is_exact(padding, left):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Conv2D(3, 3, padding=padding),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 2))
    enliven(model, x)
    kernel, bias = model.layers[0].get_weights()
    kernel[..., 1] = 0
    model.layers[0].set_weights([kernel, bias])
    smaller = kprune.compact(model)
    assert smaller.layers[0].filters == left
    assert_equal_outputs(model, smaller, x)


def test_channels_that_are_zero_at_their_reader_go():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(3, 3, padding="same"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    kernel, bias = model.layers[0].get_weights()
    kernel[..., :2] = 0
    bias[:2] = [0.0, -1.0]
    model.layers[0].set_weights([kernel, bias])
    smaller = kprune.compact(model)
    assert smaller.layers[0].filters == 2
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 2))
    assert_equal_outputs(model, smaller, x)


def test_unstructured_pruning_leaves_dead_neurons_that_go():
    keras.utils.set_random_seed(0)
    model = kprune.make_prunable(_mlp(64, 64, 3))
    kprune.prune(model, 0.96)
    stripped = kprune.strip(model)
    assert stripped.layers[0].units < 64
    x = np.random.default_rng(0).normal(size=(8, 6))
    assert_equal_outputs(model, stripped, x)


def test_one_channel_stays_where_all_are_dead():
    model = _mlp(5, 4, 2)
    weights = model.get_weights()
    weights[2][:] = 0
    weights[5][:] = [1.0, 2.0]
    model.set_weights(weights)
    smaller = kprune.compact(model)
    assert [layer.units for layer in smaller.layers] == [1, 1, 2]
    x = np.random.default_rng(0).normal(size=(8, 6))
    for one, other in zip(outputs(model, x), outputs(smaller, x)):
        np.testing.assert_allclose(one, other, rtol=EXACT)


def test_layers_wrapped_by_hand_go_where_their_channels_are_zero():
    conv = kprune.PrunableConv2D(8, 3, activation="relu", name="conv")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            conv,
            layers.MaxPooling2D(),
            layers.Conv2D(4, 3, padding="same", name="reader"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    conv.layer.bias.assign(np.linspace(-1, 1, 8))
    kprune.prune(model, 0.5)
    stripped = kprune.strip(model)
    assert stripped.layers[0].filters == 4
    assert_equal_outputs(model, stripped, _image(8, 2))


def test_float64_is_float64():
    (output,) = outputs(_mlp(3, 2), np.ones((1, 6)))
    assert output.dtype == np.float64


def test_a_model_cut_out_of_another():
    whole = _stack(_plain)
    part = keras.Model(whole.layers[1].output, whole.outputs)
    x = np.random.default_rng(0).normal(size=(4, 5, 5, 8))
    prunable = kprune.make_prunable(part)
    kprune.prune(prunable, 0.5, granularity="filter")
    stripped = kprune.strip(prunable)
    assert stripped.count_params() < part.count_params()
    assert_equal_outputs(prunable, stripped, x)


@pytest.mark.parametrize("compact", [True, False])
def test_prunable_layers_inside_of_other_layers_are_named(compact):
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            layers.TimeDistributed(kprune.PrunableDense(2, name="inner")),
        ]
    )
    with pytest.raises(ValueError, match="inner.*Wrap the outer"):
        kprune.strip(model, compact=compact)


@pytest.mark.parametrize("function", [kprune.strip, kprune.compact])
def test_bad_models(function):
    with pytest.raises(ValueError, match="not built.*keras.Input"):
        function(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="Expected a `keras.Model`"):
        function("model.keras")


def test_compact_sends_prunable_models_to_strip():
    with pytest.raises(ValueError, match=r"kprune.strip\(model\)"):
        kprune.compact(convnet())
