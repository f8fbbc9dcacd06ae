"""Depthwise and separable convolutions: each channel is filtered alone."""

import pytest
from keras import layers
from models import assert_equal_outputs, randomized, shrunk
from stacks import read_out, samples, sizes, stack

import kprune

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("conv", "depthwise", "shape"),
    [
        (layers.Conv1D, layers.DepthwiseConv1D, (9, 3)),
        (layers.Conv2D, layers.DepthwiseConv2D, (7, 7, 3)),
    ],
)
def test_a_depth_multiplier(conv, depthwise, shape):
    model = stack(
        shape,
        conv(8, 3, activation="sigmoid"),
        depthwise(
            3, depth_multiplier=3, padding="same", activation="relu", name="dw"
        ),
        conv(6, 3),
        *read_out(),
    )
    for sparsity, left in ((0.5, 4), (0.9, 1)):
        smaller = shrunk(model, samples(model), sparsity)
        assert sizes(smaller, "dw", "depth_multiplier") == [3]
        kernel = smaller.get_layer("dw").kernel
        assert tuple(kernel.shape[-2:]) == (left, 3)


@pytest.mark.parametrize(
    ("conv", "separable", "shape"),
    [
        (layers.Conv1D, layers.SeparableConv1D, (9, 3)),
        (layers.Conv2D, layers.SeparableConv2D, (7, 7, 3)),
    ],
)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_separable_convolutions(conv, separable, shape, multiplier):
    model = stack(
        shape,
        separable(8, 3, depth_multiplier=multiplier, name="on_input"),
        separable(
            6,
            3,
            depth_multiplier=multiplier,
            activation="relu",
            padding="same",
            name="separable",
        ),
        conv(4, 3),
        *read_out(),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "on_input", "filters") == [4]
    assert sizes(smaller, "separable", "filters") == [3]
    kernel = smaller.get_layer("separable").depthwise_kernel
    assert tuple(kernel.shape[-2:]) == (4, multiplier)
    kernel = smaller.get_layer("on_input").depthwise_kernel
    assert tuple(kernel.shape[-2:]) == (3, multiplier)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kind", ["depthwise", "separable"])
def test_constants_through_depthwise_kernels(kind, padding):
    middle = (
        layers.DepthwiseConv2D(3, padding=padding, depth_multiplier=2)
        if kind == "depthwise"
        else layers.SeparableConv2D(6, 3, padding=padding, depth_multiplier=2)
    )
    model = stack(
        (8, 8, 2),
        layers.Conv2D(5, 3, name="first"),
        middle,
        layers.Conv2D(4, 3),
        *read_out(),
    )
    randomized(model)
    first = model.layers[0]
    kernel, bias = first.get_weights()
    kernel[..., 1] = 0  # a constant
    first.set_weights([kernel, bias])
    kernel, *others = middle.get_weights()
    kernel[:, :, 3] = 0  # what varies is not looked at
    middle.set_weights([kernel, *others])
    smaller = kprune.compact(model)
    assert_equal_outputs(model, smaller, samples(model))
    left = 3 if padding == "valid" else 4
    assert sizes(smaller, "first", "filters") == [left]


def test_a_depthwise_convolution_of_the_input_of_the_model_stays():
    model = stack(
        (8, 8, 3),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw"),
        layers.Conv2D(6, 3, name="conv"),
        *read_out(),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "conv", "filters") == [3]
    assert tuple(smaller.get_layer("dw").kernel.shape) == (3, 3, 3, 2)
