"""make_prunable: equal outputs, and the caller's model stays as it is."""

import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import Untraceable, compiled, numpy, outputs

import kprune
from kprune.prunable import prunable_layers


def _x(shape=(4, 8, 8, 3)):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(5, name="dense"),
        ],
        name="small",
    )


def _functional():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    y = layers.Conv2D(4, 1)(inputs)
    x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, {"a": layers.Dense(3)(x), "b": x})


def _shared():
    encoder = layers.Dense(6, activation="relu", name="encoder")
    first, second = keras.Input((5,)), keras.Input((5,))
    merged = layers.Concatenate()([encoder(first), encoder(second)])
    return keras.Model([first, second], layers.Dense(2)(merged))


def _nested():
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten()],
        name="backbone",
    )
    inputs = keras.Input((8, 8, 3))
    both = layers.Add()([inner(inputs), inner(inputs)])
    return keras.Model(inputs, layers.Dense(2, name="head")(both))


MODELS = {
    "sequential": (_sequential, 3),
    "functional": (_functional, 3),
    "nested": (_nested, 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_equal_and_the_kind_stays(name):
    make, wrapped = MODELS[name]
    model = make()
    prunable = kprune.make_prunable(model)
    assert type(prunable) is type(model) and prunable.name == model.name
    assert len(prunable_layers(prunable)) == wrapped
    x = _x()
    for one, other in zip(outputs(model, x), outputs(prunable, x), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not prunable.compiled


def test_shared_layers_are_wrapped_once():
    model = _shared()
    prunable = kprune.make_prunable(model)
    assert len(prunable_layers(prunable)) == 2
    x = [_x((4, 5)), 2 * _x((4, 5))]
    np.testing.assert_array_equal(numpy(model(x)), numpy(prunable(x)))


def test_the_callers_model_is_not_touched():
    model = compiled(_sequential())
    x, y = _x((32, 8, 8, 3)), np.arange(32) % 5
    before = [w.copy() for w in model.get_weights()]
    config = model.get_config()
    prunable = compiled(kprune.make_prunable(model))
    prunable.fit(
        x, y, epochs=2, verbose=0, callbacks=[kprune.PruningScheduler(0.5)]
    )
    kprune.strip(prunable)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.get_config() == config
    assert model.compiled


def test_where_selects_layers():
    prunable = kprune.make_prunable(
        _sequential(), where=lambda layer: layer.name != "dense"
    )
    names = [layer.name for layer in prunable.layers]
    assert names[0] == "conv" and names[-1] == "dense"
    assert isinstance(prunable.layers[0], kprune.PrunableConv2D)
    assert type(prunable.layers[1]) is kprune.PrunableLayer


def test_frozen_layers_stay_frozen():
    model = _sequential()
    model.get_layer("conv").trainable = False
    prunable = kprune.make_prunable(model)
    kprune.prune(prunable, 0.5)
    assert prunable.get_layer("conv").sparsity == 0
    assert prunable.get_layer("dense").sparsity == 0.5


def test_live_functions_survive():
    def double(x):
        return 2 * x

    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation=double),
            layers.Lambda(lambda x: x + 1),
            layers.Dense(2),
        ]
    )
    prunable = kprune.make_prunable(model)
    x = _x((3, 4))
    np.testing.assert_array_equal(numpy(model(x)), numpy(prunable(x)))
    stripped = kprune.strip(prunable)
    np.testing.assert_allclose(numpy(model(x)), numpy(stripped(x)), rtol=1e-6)


class Scale(layers.Lambda):
    def __init__(self, factor, **kwargs):
        super().__init__(lambda x: factor * x, **kwargs)


def test_lambdas_keep_all_that_they_were_made_with():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3),
            Scale(2.0),
            layers.Lambda(
                lambda x, shift: x + shift,
                output_shape=lambda shape: shape,
                arguments={"shift": 3.0},
                activity_regularizer="l2",
                trainable=False,
                name="shifted",
            ),
            layers.Dense(2),
        ]
    )
    prunable = kprune.make_prunable(model)
    x = _x((3, 4))
    np.testing.assert_array_equal(numpy(model(x)), numpy(prunable(x)))
    assert numpy(prunable.losses[0]) == numpy(model.losses[0]) > 0
    assert not prunable.get_layer("shifted").trainable


def _with_operations():
    """Operations that are no layers, which Keras links to what they read."""
    inputs = keras.Input((8,))
    x = layers.Dense(8)(inputs)
    x = ops.relu(x + layers.Lambda(lambda y: 2 * y, (8,))(x))
    return keras.Model(inputs, layers.Dense(2)(x))


def test_what_is_made_does_not_keep_the_old_model_in_memory():
    model = _with_operations()
    x = _x((3, 8))
    expected = numpy(model(x))
    kernel = weakref.ref(model.layers[1].kernel)
    prunable = kprune.make_prunable(model)
    del model
    gc.collect()
    assert kernel() is None
    np.testing.assert_allclose(numpy(prunable(x)), expected, rtol=1e-6)

    kernel = weakref.ref(prunable_layers(prunable)[0].layer.kernel)
    stripped = kprune.strip(prunable)
    del prunable
    gc.collect()
    assert kernel() is None
    np.testing.assert_allclose(numpy(stripped(x)), expected, rtol=1e-6)


def test_adapted_normalization_keeps_its_statistics():
    norm = layers.Normalization()
    norm.adapt(3 + 2 * _x((64, 4)))
    model = keras.Sequential([keras.Input((4,)), norm, layers.Dense(2)])
    prunable = kprune.make_prunable(model)
    x = _x((3, 4))
    np.testing.assert_allclose(numpy(model(x)), numpy(prunable(x)), rtol=1e-6)


class Custom(keras.Model):
    """A functional model of a class of its own."""

    def __init__(self):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(2)(inputs))


def test_a_class_that_is_lost_is_named():
    with pytest.warns(UserWarning, match="class Custom"):
        prunable = kprune.make_prunable(Custom())
    assert len(prunable_layers(prunable)) == 1


class OwnSequential(keras.Sequential):
    """A sequential model that trains in its own way."""

    def train_step(self, *args, **kwargs):
        raise NotImplementedError


class OwnStep(keras.Model):
    """A subclassed model that trains in its own way."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, *args, **kwargs):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: OwnSequential([keras.Input((4,)), layers.Dense(2)]),
            "class OwnSequential",
        ),
        (
            lambda: _built(OwnStep()),
            r"own compute_loss.*constructor of OwnStep.*PrunableDense\(64\)",
        ),
    ],
)
def test_training_of_its_own_that_is_lost_is_named(make, message):
    model = make()
    with pytest.warns(UserWarning, match=message):
        prunable = kprune.make_prunable(model)
    assert len(prunable_layers(prunable)) == 1


def _built(model, shape=(1, 4)):
    model(np.ones(shape, "float32"))
    return model


def _quantized():
    layer = layers.Dense(2, name="small")
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.quantize("int8")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _built(Untraceable()), "subclass Untraceable.*keras.Model"),
        (lambda: keras.Sequential([layers.Dense(2)]), "not built.*keras.Input"),
        (lambda: layers.Dense(2), "Expected a `keras.Model`"),
        (
            lambda: keras.Sequential([keras.Input((2,)), layers.ReLU()]),
            "no layer to prune",
        ),
        (
            lambda: _quantized(),
            "no layer to prune: none has kernels. 'small': quantized",
        ),
        (
            lambda: kprune.make_prunable(_functional()),
            "prunable layers already",
        ),
    ],
)
def test_bad_models(make, message):
    with pytest.raises(ValueError, match=message):
        kprune.make_prunable(make())


def test_bad_where():
    with pytest.raises(ValueError, match="callable from a layer"):
        kprune.make_prunable(_sequential(), where="dense")
    with pytest.raises(ValueError, match="for which `where` is true"):
        kprune.make_prunable(_sequential(), where=lambda layer: False)
