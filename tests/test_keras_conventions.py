"""Keras's own test of a layer, run on prunable layers."""

import keras
import numpy as np
import pytest
from keras import layers

# Keras exports its tests' base class nowhere else.
from keras.src import testing
from models import numpy

import kprune

_SEQUENCE, _IMAGE, _VOLUME = (2, 6, 8), (2, 8, 8, 4), (2, 5, 5, 5, 3)
_ATTENTION = {"query_shape": (2, 6, 8), "value_shape": (2, 5, 8)}


@keras.saving.register_keras_serializable(package="test_keras_conventions")
class Scaled(layers.Layer):
    """A layer of a user with several inputs, built of all their shapes."""

    def build(self, x_shape, by_shape):
        self.w = self.add_weight(shape=(x_shape[-1], by_shape[-1]), name="w")

    def call(self, x, by):
        return keras.ops.matmul(x, self.w) * by


# Name -> the layer, made with a dtype, and the shapes of its inputs.
KINDS = {
    "Dense": (lambda **k: layers.Dense(5, **k), _SEQUENCE),
    "EinsumDense": (
        lambda **k: layers.EinsumDense("abc,cd->abd", (6, 5), **k),
        _SEQUENCE,
    ),
    "Embedding": (lambda **k: layers.Embedding(20, 5, **k), (2, 6)),
    "Conv1D": (lambda **k: layers.Conv1D(6, 3, **k), _SEQUENCE),
    "Conv2D": (lambda **k: layers.Conv2D(6, 3, **k), _IMAGE),
    "Conv3D": (lambda **k: layers.Conv3D(4, 3, **k), _VOLUME),
    "Conv1DTranspose": (
        lambda **k: layers.Conv1DTranspose(6, 3, **k),
        _SEQUENCE,
    ),
    "Conv2DTranspose": (lambda **k: layers.Conv2DTranspose(6, 3, **k), _IMAGE),
    "Conv3DTranspose": (lambda **k: layers.Conv3DTranspose(4, 3, **k), _VOLUME),
    "DepthwiseConv1D": (lambda **k: layers.DepthwiseConv1D(3, **k), _SEQUENCE),
    "DepthwiseConv2D": (lambda **k: layers.DepthwiseConv2D(3, **k), _IMAGE),
    "SeparableConv1D": (
        lambda **k: layers.SeparableConv1D(6, 3, **k),
        _SEQUENCE,
    ),
    "SeparableConv2D": (lambda **k: layers.SeparableConv2D(6, 3, **k), _IMAGE),
    "SimpleRNN": (lambda **k: layers.SimpleRNN(5, **k), _SEQUENCE),
    "LSTM": (lambda **k: layers.LSTM(5, dropout=0.1, **k), _SEQUENCE),
    "GRU": (lambda **k: layers.GRU(5, **k), _SEQUENCE),
    "Bidirectional": (
        lambda **k: layers.Bidirectional(layers.LSTM(3, **k), **k),
        _SEQUENCE,
    ),
    "TimeDistributed": (
        lambda **k: layers.TimeDistributed(layers.Dense(5, **k), **k),
        _SEQUENCE,
    ),
    "ConvLSTM1D": (lambda **k: layers.ConvLSTM1D(3, 2, **k), (2, 3, 6, 2)),
    "ConvLSTM2D": (lambda **k: layers.ConvLSTM2D(3, 2, **k), (2, 3, 5, 5, 2)),
    "MultiHeadAttention": (
        lambda **k: layers.MultiHeadAttention(2, 4, **k),
        _ATTENTION,
    ),
    "GroupQueryAttention": (
        lambda **k: layers.GroupQueryAttention(4, 4, 2, **k),
        _ATTENTION,
    ),
    "a layer of a user": (
        Scaled,
        {"x_shape": (2, 6, 8), "by_shape": (2, 6, 5)},
    ),
}
# The others train in `test_every_layer.py`.
_TRAINED = ("Dense", "Conv2D", "LSTM")


class _Keras(testing.TestCase):
    def runTest(self):
        """Asked for by `unittest`, run by nobody."""


def _check(make, init_kwargs, shape, **options):
    if isinstance(shape, dict):
        options["input_dtype"] = dict.fromkeys(shape, "float32")
    _Keras().run_layer_test(make, init_kwargs, input_shape=shape, **options)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("name", KINDS)
def test_a_prunable_layer(name):
    make, shape = KINDS[name]

    def wrapped(dtype=None):
        return kprune.PrunableLayer(make(dtype=dtype))

    _check(wrapped, {}, shape, run_training_check=name in _TRAINED)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize(
    ("kind", "arguments", "shape"),
    [
        (kprune.PrunableDense, {"units": 5, "activation": "relu"}, (2, 8)),
        (kprune.PrunableDense, {"units": 5, "use_bias": False}, _SEQUENCE),
        (
            kprune.PrunableDense,
            {
                "units": 4,
                "granularity": kprune.granularities.NM(2, 4),
                "trainable": False,
            },
            _SEQUENCE,
        ),
        (kprune.PrunableConv2D, {"filters": 4, "kernel_size": 3}, _IMAGE),
        (
            kprune.PrunableConv2D,
            {"filters": 4, "kernel_size": (1, 3), "padding": "same"},
            _IMAGE,
        ),
    ],
)
def test_a_shorthand(kind, arguments, shape):
    trains = arguments.get("trainable", True)
    _check(kind, arguments, shape, run_training_check=trains)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_built_as_the_plain_layer_is(name):
    """By position or by name, as Keras does, and again from a config."""
    make, shape = KINDS[name]

    def build(layer):
        layer.build(**shape) if isinstance(shape, dict) else layer.build(shape)
        return layer

    plain = build(make(name="same"))
    wrapper = build(kprune.PrunableLayer(make(name="same")))
    assert [v.path for v in wrapper.layer.weights] == [
        v.path for v in plain.weights
    ]
    assert wrapper.get_build_config() == plain.get_build_config()
    again = kprune.PrunableLayer(make(name="same"))
    again.build_from_config(wrapper.get_build_config())
    assert [tuple(v.shape) for v in again.weights] == [
        tuple(v.shape) for v in wrapper.weights
    ]
    assert list(again.masks) == list(wrapper.masks)


def _frozen_base():
    base = keras.Sequential(
        [
            keras.Input((6,), name="inner"),
            layers.Dense(5, name="inside"),
            layers.BatchNormalization(name="norm"),
        ],
        name="base",
    )
    inputs = keras.Input((6,), name="outer")
    outputs = layers.Dense(2, name="head")(base(inputs))
    model = keras.Model(inputs, outputs, name="whole")
    base.trainable = False
    return model


def _thawed_inside():
    model = _frozen_base()
    model.get_layer("base").get_layer("inside").trainable = True
    return model


def _frozen_whole():
    model = _frozen_base()
    model.trainable = False
    return model


@keras.saving.register_keras_serializable(package="test_keras_conventions")
class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(6, name="first")
        self.second = layers.Dense(6, name="second")

    def call(self, x):
        return self.second(self.first(x))


def _frozen_in_a_layer():
    block = Block(name="block")
    model = keras.Sequential([keras.Input((6,)), block, layers.Dense(2)])
    block.first.trainable = False
    return model


def _trains(model):
    """What reads as trained, and is: layers and variables by their names."""
    parts = {}
    for layer in [model, *model._flatten_layers(include_self=False)]:
        if isinstance(layer, kprune.PrunableLayer):
            assert layer.trainable == layer.layer.trainable
            continue
        parts[layer.name] = layer.trainable
    return parts, {
        v.path.rpartition("/")[0].rpartition("/")[2] + "/" + v.name
        for v in model.trainable_variables
    }


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer")
@pytest.mark.parametrize(
    "make", [_frozen_base, _thawed_inside, _frozen_whole, _frozen_in_a_layer]
)
def test_what_is_frozen_stays_frozen_and_reads_so(tmp_path, make):
    model = make()
    x = np.ones((2, 6), "float32")
    prunable = kprune.make_prunable(model)
    stripped = kprune.strip(prunable)
    assert _trains(prunable) == _trains(stripped) == _trains(model)
    assert not all(_trains(model)[0].values())
    for made in (prunable, stripped):
        np.testing.assert_allclose(numpy(made(x)), numpy(model(x)), rtol=1e-6)
    # As far as Keras itself keeps it in a file and in a copy.
    copies = []
    for index, each in enumerate((model, prunable)):
        each.save(tmp_path / f"{index}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{index}.keras")
        cloned = keras.models.clone_model(each)
        copies.append([_trains(loaded), _trains(cloned)])
    assert copies[0] == copies[1]


def test_a_wrapper_trains_as_its_layer_does():
    layer = layers.Dense(3, trainable=False)
    wrapper = kprune.PrunableDense(layer)
    wrapper.build((None, 4))
    assert not wrapper.trainable and not wrapper.trainable_variables
    layer.trainable = True
    assert wrapper.trainable and len(wrapper.trainable_variables) == 2
    wrapper.trainable = False
    assert not layer.trainable and not wrapper.trainable_variables
    assert not kprune.PrunableDense(3, trainable=False).layer.trainable
    frozen = kprune.PrunableDense(layers.Dense(3), trainable=False)
    assert not frozen.trainable and not frozen.layer.trainable


def test_a_layer_of_ones_own_in_mixed_precision():
    x, by = keras.Input((6, 8)), keras.Input((6, 5))
    policy = "mixed_bfloat16"
    plain = Scaled(dtype=policy)(x, by)
    wrapped = kprune.PrunableLayer(Scaled(dtype=policy))(x, by)
    assert wrapped.dtype == plain.dtype
    assert wrapped.shape == plain.shape
