"""The layers that only keras.applications has."""

import keras
import pytest
from keras import layers
from models import assert_equal_outputs, randomized, shrunk
from stacks import read_out, reasons, samples, sizes, stack

import kprune
from kprune.keras_internals import application_layer
from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")


def _scaled_residual():
    scale = application_layer("LayerScale")(1e-6, 8, name="scale")
    drop = application_layer("StochasticDepth")(0.2)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    y = layers.Conv2D(8, 3, padding="same", groups=8, name="depthwise")(x)
    y = layers.Dense(12, activation="gelu", name="expand")(y)
    y = drop(scale(layers.Dense(8)(y)))
    x = layers.Add()([x, y])
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def test_a_block_of_convnext():
    model = _scaled_residual()
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "filters") == [4]
    assert sizes(smaller, "depthwise", "groups", "filters") == [4, 4]
    assert sizes(smaller, "expand", "units") == [6]
    assert sizes(smaller, "scale", "projection_dim") == [4]


def test_what_a_scale_makes_of_constants():
    model = stack(
        (6, 6, 2),
        layers.Conv2D(6, 3, name="first"),
        application_layer("LayerScale")(1.0, 6),
        layers.Conv2D(4, 3),
        *read_out(),
    )
    randomized(model)
    first, scale = model.layers[:2]
    kernel, bias = first.get_weights()
    kernel[..., 1] = 0
    first.set_weights([kernel, bias])
    (gamma,) = scale.get_weights()
    gamma[2] = 0
    scale.set_weights([gamma])
    smaller = kprune.compact(model)
    assert sizes(smaller, "first", "filters") == [4]
    assert_equal_outputs(model, smaller, samples(model))


def test_a_scale_on_the_input_of_the_model_too():
    scale = application_layer("LayerScale")(1.0, 2, name="scale")
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(2, 3, name="first")(inputs)
    ends = [layers.Flatten()(scale(y)) for y in (x, inputs)]
    model = keras.Model(inputs, [layers.Dense(3)(end) for end in ends])
    found = reasons(model, "first")
    assert found == ["'scale' also takes what cannot be cut"]


def _inception_residual():
    add = application_layer("CustomScaleLayer")(0.17)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    y = layers.Conv2D(5, 1, activation="relu", name="branch")(x)
    x = layers.ReLU()(add([x, layers.Conv2D(8, 1, name="back")(y)]))
    x = layers.Conv2D(4, 3, name="reader")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def test_a_block_of_inception_resnet():
    model = _inception_residual()
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "filters") == [4]
    assert sizes(smaller, "branch", "filters") == [3]
    assert sizes(smaller, "back", "filters") == [4]


def test_constants_through_a_scaled_sum():
    model = randomized(_inception_residual())
    for name in ("first", "back"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[..., 3] = 0
        bias[3] = 0.9  # the sum is a constant
        model.get_layer(name).set_weights([kernel, bias])
    kernel, bias = model.get_layer("branch").get_weights()
    kernel[:, :, 3] = 0
    model.get_layer("branch").set_weights([kernel, bias])
    smaller = kprune.compact(model)
    assert sizes(smaller, "first", "filters") == [7]
    assert_equal_outputs(model, smaller, samples(model))


@pytest.mark.parametrize(
    ("architecture", "size"), [("ConvNeXtTiny", 32), ("InceptionResNetV2", 75)]
)
def test_every_layer_has_a_rule(architecture, size):
    model = getattr(keras.applications, architecture)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    found = channel_graph(model).groups.reasons
    assert not [reason for reason in found if "no rule" in reason]
