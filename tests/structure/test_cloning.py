"""Layers whose config is not all that it should be."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import assert_equal_outputs, numpy

import kprune
from kprune.prunable import prunable_layers


class _Scoring(layers.Layer):
    """Weighs the steps of a sequence by a Dense of its own."""

    def __init__(self, units=1, **kwargs):
        super().__init__(**kwargs)
        self.score = layers.Dense(units, name="score")

    def call(self, x):
        return ops.sum(ops.softmax(self.score(x), axis=1) * x, axis=1)


class NoArguments(_Scoring):
    """As tutorials write it: trained and called by Keras, not saved."""

    def __init__(self):
        super().__init__()


class OneArgument(_Scoring):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def call(self, x):
        return super().call(x) * self.scale

    def get_config(self):
        return {"scale": self.scale}


class Raises(_Scoring):
    """As after a renamed attribute; what it was made with is known."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, x):
        return super().call(x) * self.scale

    def get_config(self):
        return {**super().get_config(), "scale": self.missing}


class ReturnsNone(Raises):
    """The `return` was forgotten."""

    def get_config(self):
        {**super().get_config()}


class NoConfig(Raises):
    """Written without `get_config`, with an argument that is no plain value."""

    get_config = layers.Layer.get_config

    def __init__(self, scale, **kwargs):
        super().__init__(float(scale), **kwargs)


class ForgetsAnArgument(_Scoring):
    def get_config(self):
        return super().get_config()


class ForgetsALayer(ForgetsAnArgument):
    def __init__(self, deep=False, **kwargs):
        super().__init__(**kwargs)
        self.second = layers.Dense(16) if deep else None

    def call(self, x):
        return super().call(x if self.second is None else self.second(x))


class Patches(layers.Layer):
    """Without weights, and without a config."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def call(self, x):
        return ops.reshape(x, (-1, *self.sizes))


class Kernel(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(2)

    def build(self, shape):
        self.kernel = self.add_weight(shape=(80, 4), name="kernel")
        self.inner.build((None, 4))

    def call(self, x):
        return self.inner(ops.matmul(ops.reshape(x, (-1, 80)), self.kernel))


def _model(layer, name="own"):
    if name is not None:
        layer.name = name
    inputs = keras.Input((5, 8))
    x = layers.Dense(16, activation="relu", name="before")(inputs)
    x = layers.Dense(6, name="after")(layer(x))
    return keras.Model(inputs, x)


def _nested(layer):
    inputs = keras.Input((5, 8))
    return keras.Model(inputs, layers.Dense(2)(_model(layer)(inputs)))


def _dense(layer):
    return isinstance(layer, layers.Dense)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("where", [None, _dense])
@pytest.mark.parametrize("model", [_model, _nested])
@pytest.mark.parametrize(
    "make",
    [
        NoArguments,
        lambda: OneArgument(0.5),
        lambda: Raises(0.5),
        lambda: ReturnsNone(scale=0.5),
        lambda: Patches(np.array([80])),
        lambda: ForgetsAnArgument(1),
    ],
)
def test_layers_that_can_be_made_again(make, model, where):
    model = model(make())
    x = np.random.default_rng(0).normal(size=(4, 5, 8))
    expected = numpy(model(x))
    prunable = kprune.make_prunable(model, where=where)
    assert_equal_outputs(model, prunable, x)
    kprune.prune(prunable, 0.5, granularity="unstructured")
    stripped = kprune.strip(prunable)
    assert_equal_outputs(prunable, stripped, x)
    for made in (prunable, stripped):
        assert [layer.name for layer in made.layers] == [
            layer.name for layer in model.layers
        ]
        for variable in made.weights:
            variable.assign(numpy(variable) * 0)
    np.testing.assert_array_equal(numpy(model(x)), expected)


def test_what_a_constructor_does_not_take_is_kept():
    layer = Kernel()
    layer.dtype_policy = "mixed_bfloat16"
    model = _model(layer, "mine")
    layer.trainable = False
    own = kprune.make_prunable(model, where=_dense).get_layer("mine")
    assert own is not layer and type(own) is Kernel
    assert own.dtype_policy.name == "mixed_bfloat16"
    assert not own.trainable and not own.inner.trainable


def test_a_layer_without_state_that_cannot_be_made_again_is_kept():
    layer = Patches(np.array([80]))
    model = _model(layer)
    prunable = kprune.make_prunable(model)
    assert prunable.get_layer("own") is layer
    assert len(prunable_layers(prunable)) == 2


@pytest.mark.parametrize("model", [_model, _nested])
@pytest.mark.parametrize("where", [None, _dense])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: NoConfig(np.float32(0.5)), "non-serializable argument"),
        (
            lambda: Raises(np.float32(0.5)),
            "AttributeError: .* no attribute 'missing'",
        ),
        (lambda: ReturnsNone(np.float32(0.5)), "AttributeError"),
        (lambda: ForgetsAnArgument(16), r"score|kernel.*\(16, 16\).*\(16, 1\)"),
        (lambda: ForgetsALayer(True), "it had 4 weights, .* again has 2"),
    ],
)
def test_layers_that_cannot_are_named(make, problem, model, where):
    kind = type(make()).__name__
    message = (
        rf"(?s)Layer 'own' of type {kind} cannot be made again from its "
        rf"config: .*{problem}.*`get_config` that returns"
    )
    with pytest.raises(ValueError, match=message):
        kprune.make_prunable(model(make()), where=where)
