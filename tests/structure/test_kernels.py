"""Convolutions of every kind: what goes and what stays, equal outputs."""

import keras
import numpy as np
import pytest
from keras import layers
from models import EXACT_MEAN, assert_equal_outputs, outputs, randomized, shrunk
from stacks import read_out, samples, sizes, stack

import kprune

pytestmark = pytest.mark.usefixtures("float64")


# Grouped convolutions.


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("times", [1, 3])
def test_a_group_per_channel_goes_with_its_channel(rank, times):
    conv = (layers.Conv1D, layers.Conv2D, layers.Conv3D)[rank - 1]
    model = stack(
        (5,) * rank + (3,),
        conv(8, 2, activation="sigmoid", name="first"),
        conv(8 * times, 2, groups=8, activation="tanh", name="grouped"),
        conv(6, 2, padding="same"),
        *read_out(),
    )
    smaller = shrunk(model, samples(model), 0.9 if rank == 1 else 0.5)
    left = 1 if rank == 1 else 4
    assert sizes(smaller, "first", "filters") == [left]
    grouped = sizes(smaller, "grouped", "groups", "filters")
    assert grouped == [left, left * times]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_equal_positions_of_groups_go_together(rank):
    conv = (layers.Conv1D, layers.Conv2D, layers.Conv3D)[rank - 1]
    model = stack(
        (5,) * rank + (3,),
        conv(12, 2, activation="relu", name="first"),
        conv(18, 2, groups=3, activation="relu", name="grouped"),
        conv(6, 2, padding="same"),
        *read_out(),
    )
    positions = (1, 1) if rank == 1 else (2, 3)
    smaller = shrunk(model, samples(model), 0.9 if rank == 1 else 0.5)
    assert sizes(smaller, "first", "filters") == [3 * positions[0]]
    grouped = sizes(smaller, "grouped", "groups", "filters")
    assert grouped == [3, 3 * positions[1]]
    kernel = smaller.get_layer("grouped").kernel
    assert kernel.shape[-2:] == (positions[0], 3 * positions[1])


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_on_the_input_of_the_model(groups):
    model = stack(
        (6, 6, 4),
        layers.Conv2D(16, 3, groups=groups, activation="relu", name="grouped"),
        layers.Conv2D(5, 3),
        *read_out(),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "grouped", "groups", "filters") == [groups, 8]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("groups", [2, 8])
def test_constants_through_groups(groups, padding):
    model = stack(
        (8, 8, 2),
        layers.Conv2D(8, 3, name="first"),
        layers.Conv2D(8, 3, groups=groups, padding=padding, name="grouped"),
        layers.Conv2D(5, 3, name="reader"),
        *read_out(),
    )
    randomized(model)
    first, grouped = model.layers[:2]
    kernel, bias = first.get_weights()
    kernel[..., [1, 5]] = 0  # constants that are not 0
    first.set_weights([kernel, bias])
    kernel, bias = grouped.get_weights()
    kernel[..., [2, 6]] = 0
    grouped.set_weights([kernel, bias])
    smaller = kprune.compact(model)
    assert_equal_outputs(model, smaller, samples(model))
    if groups == 8:
        # Channels that are constant on all sides, and nothing at the borders.
        gone = 4 if padding == "valid" else 2
        left = [8 - gone]
        assert sizes(smaller, "first", "filters") == left
    else:
        # Two positions of four are constant behind, none goes in front:
        # a bias per group takes in nothing.
        left = [6]
        assert sizes(smaller, "first", "filters") == [8]
    assert sizes(smaller, "grouped", "filters") == left


def test_channels_in_groups_that_nothing_reads_go():
    model = stack(
        (8, 8, 2),
        layers.Conv2D(8, 3, name="first"),
        layers.Conv2D(8, 3, groups=2, name="grouped"),
        layers.Conv2D(5, 3, name="reader"),
        *read_out(),
    )
    randomized(model)
    grouped, reader = model.layers[1:3]
    kernel, bias = grouped.get_weights()
    kernel[:, :, 1, :] = 0  # position 1 in both groups
    kernel[:, :, 2, :4] = 0  # position 2 in one group only
    grouped.set_weights([kernel, bias])
    kernel, bias = reader.get_weights()
    kernel[:, :, [0, 4, 7]] = 0  # position 0 in both, position 3 in one
    reader.set_weights([kernel, bias])
    smaller = kprune.compact(model)
    assert sizes(smaller, "first", "filters") == [6]
    assert sizes(smaller, "grouped", "groups", "filters") == [2, 6]
    assert_equal_outputs(model, smaller, samples(model))


# Transposed convolutions.


@pytest.mark.parametrize(
    ("rank", "arguments"),
    [
        (1, {"padding": "valid", "strides": 3, "output_padding": 1}),
        (2, {"padding": "valid"}),
        (2, {"padding": "same", "strides": 2}),
        (3, {"padding": "same"}),
    ],
)
def test_transposed_convolutions(rank, arguments):
    conv = (
        layers.Conv1DTranspose,
        layers.Conv2DTranspose,
        layers.Conv3DTranspose,
    )[rank - 1]
    model = stack(
        (3,) * rank + (2,),
        conv(8, 2, activation="sigmoid", name="first"),
        conv(6, 2, activation="relu", name="second", **arguments),
        *read_out(),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "filters") == [4]
    assert sizes(smaller, "second", "filters") == [3]
    assert tuple(smaller.get_layer("second").kernel.shape[-2:]) == (3, 4)


def test_a_transposed_convolution_takes_in_only_zeros():
    model = stack(
        (6, 6, 2),
        layers.Conv2D(5, 3, activation="relu", name="first"),
        layers.Conv2DTranspose(4, 3, name="transposed"),
        layers.Conv2D(4, 3, name="reader"),
        *read_out(),
    )
    randomized(model)
    first, transposed = model.layers[:2]
    kernel, bias = first.get_weights()
    kernel[..., [0, 1]] = 0
    bias[[0, 1]] = [0.5, -0.5]  # behind relu a constant, and a 0
    first.set_weights([kernel, bias])
    kernel, bias = transposed.get_weights()
    kernel[:, :, 2] = 0  # its bias is all that is left of output 2
    transposed.set_weights([kernel, bias])
    smaller = kprune.compact(model)
    assert sizes(smaller, "first", "filters") == [4]
    assert sizes(smaller, "transposed", "filters") == [3]
    assert_equal_outputs(model, smaller, samples(model))


# Strides, dilation, causal padding, channels first, precision.


@pytest.mark.parametrize(
    "arguments",
    [
        {"dilation_rate": 2},
        {"strides": 2},
        {"padding": "same", "dilation_rate": 2},
        {"padding": "same", "strides": 2},
        {"padding": "causal"},
        {"padding": "causal", "dilation_rate": 3},
        {"padding": "causal", "strides": 2},
    ],
)
def test_strides_dilation_and_causal_padding(arguments):
    model = stack(
        (16, 2),
        layers.Conv1D(8, 3, activation="sigmoid", name="first", **arguments),
        layers.BatchNormalization(),
        layers.Conv1D(6, 3, name="second", **arguments),
        *read_out(),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "filters") == [4]
    assert sizes(smaller, "second", "filters") == [3]
    # Of a constant only what is not padded can be folded.
    randomized(model)
    kernel, bias = model.layers[0].get_weights()
    kernel[..., 2] = 0
    model.layers[0].set_weights([kernel, bias])
    smaller = kprune.compact(model)
    assert_equal_outputs(model, smaller, samples(model))
    left = 8 if "padding" in arguments else 7
    assert sizes(smaller, "first", "filters") == [left]


def _channels_first_net():
    first = {"data_format": "channels_first"}
    return stack(
        (3, 12, 12),
        layers.Conv2D(8, 3, name="first", **first),
        layers.BatchNormalization(axis=1),
        layers.DepthwiseConv2D(3, depth_multiplier=2, **first),
        layers.MaxPooling2D(2, **first),
        layers.SeparableConv2D(6, 3, padding="same", name="second", **first),
        layers.Conv2DTranspose(8, 2, strides=2, name="third", **first),
        layers.AveragePooling2D(2, padding="same", **first),
        layers.ZeroPadding2D(1, **first),
        layers.Conv2D(8, 3, groups=2, name="fourth", **first),
        layers.PReLU(shared_axes=[2, 3]),
        layers.Flatten(**first),
        layers.Dense(3),
    )


def test_channels_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels-first convolutions on CPUs")
    model = _channels_first_net()
    smaller = shrunk(model, samples(model))
    for name, left in (("first", 4), ("second", 3), ("third", 4)):
        assert sizes(smaller, name, "filters") == [left]
    assert sizes(smaller, "fourth", "groups", "filters") == [2, 4]


def test_channels_first_without_convolutions():
    first = {"data_format": "channels_first"}
    model = stack(
        (6, 6, 2),
        layers.Conv2D(8, 3, name="first"),
        layers.Permute((3, 1, 2)),
        layers.BatchNormalization(axis=1),
        layers.UpSampling2D(2, **first),
        layers.Cropping2D(1, **first),
        layers.PReLU(shared_axes=[2, 3]),
        layers.AveragePooling2D(2, padding="same", **first),
        layers.GlobalAveragePooling2D(**first),
        layers.Dense(3),
    )
    smaller = shrunk(model, samples(model), tolerance=EXACT_MEAN)
    assert sizes(smaller, "first", "filters") == [4]


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 4e-3), ("mixed_bfloat16", 2e-2)]
)
def test_mixed_precision(policy, tolerance):
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    model = stack(
        (8, 8, 3),
        layers.Conv2D(8, 3, name="first"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(8, 3, groups=2, activation="relu", name="second"),
        layers.Flatten(),
        layers.Dense(12, activation="sigmoid", name="hidden"),
        layers.Dense(3, dtype="float32"),
    )
    x = 5 * samples(model).astype("float32")
    randomized(model)
    prunable = kprune.make_prunable(model)
    kprune.prune(prunable, 0.5, granularity="filter")
    stripped = kprune.strip(prunable)
    assert sizes(stripped, "first", "filters") == [4]
    assert sizes(stripped, "second", "filters") == [4]
    assert sizes(stripped, "hidden", "units") == [6]
    for layer in stripped.layers[:-1]:
        assert layer.dtype_policy.name == policy
    (dense,) = outputs(model, x)
    (masked,) = outputs(prunable, x)
    (small,) = outputs(stripped, x)
    scale = np.abs(masked).max()
    np.testing.assert_allclose(small, masked, atol=tolerance * scale)
    # Samples and the masks make a difference that is no rounding.
    assert np.ptp(masked, axis=0).max() > 5 * tolerance * scale
    assert np.abs(dense - masked).max() > 5 * tolerance * scale
