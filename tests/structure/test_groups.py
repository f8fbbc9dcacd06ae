"""The scores of groups can be compared, and no branch is starved."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops
from live import enliven
from models import EXACT_MEAN, assert_equal_outputs, numpy

import kprune
from kprune.granularities import Filter, mean_square


def test_mean_square_in_numbers():
    scores = np.array([[1.0, 3.0], [-1.0, 3.0]])
    np.testing.assert_allclose(mean_square(scores, 1), [0.0, 9 / 5])
    np.testing.assert_allclose(mean_square(scores, 0), [1.0, 4 / 5])
    # The scale and the size of the kernel do not count.
    wide = np.tile(7 * np.abs(scores), (50, 1))
    np.testing.assert_allclose(
        mean_square(wide, 1), mean_square(np.abs(scores), 1)
    )
    assert (mean_square(np.zeros((2, 3)), 1) == 0).all()
    lower, higher = mean_square(-np.abs(scores), 1)[[1, 0]]
    assert lower < higher < 0


def _normal(model):
    """Weights of one size everywhere, so that no part matters more."""
    generator = np.random.default_rng(0)
    model.set_weights(
        [generator.normal(size=w.shape) * 0.1 for w in model.weights]
    )
    return kprune.make_prunable(model)


def _kept(model, name, sparsity, granularity="filter"):
    kprune.prune(model, sparsity, granularity=granularity)
    (layer,) = (
        x
        for x in model.layers
        if isinstance(x, kprune.PrunableLayer) and x.layer.name == name
    )
    mask = numpy(layer.masks["kernel"])
    return mask.any(axis=tuple(range(mask.ndim - 1)))


def _split(parts, tied):
    """A convolution whose output is split; the first two parts are tied."""
    inputs = keras.Input((7, 7, 16))
    wide = layers.Conv2D(sum(parts), 1, name="wide")(inputs)
    bounds = [parts[0], parts[0] + parts[1]]
    first, second, third = ops.split(wide, bounds, axis=-1)
    shared = layers.Conv2D(16, 1)
    others = shared if tied else layers.Conv2D(16, 3)
    alone = layers.Conv2D(4, 1)(layers.Conv2D(16, 1)(third))
    heads = [
        layers.Conv2D(4, 1)(c(x))
        for c, x in [(shared, first), (others, second)]
    ]
    return _normal(keras.Model(inputs, [*heads, alone]))


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("tied", [True, False])
def test_parts_of_a_split(sparsity, tied):
    kept = _kept(_split([16, 16, 32], tied), "wide", sparsity)
    assert kept.sum() == 64 - np.floor(64 * sparsity) - (
        # Of the tied ones two go or none.
        (64 - np.floor(64 * sparsity)) % 2 if not kept[32:].any() else 0
    )
    parts = kept[:16].sum(), kept[16:32].sum(), kept[32:].sum()
    assert min(parts) >= 1
    if sparsity <= 0.75:
        assert min(parts[0] / 16, parts[2] / 32) > 0.3 * (1 - sparsity)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_neither_half_of_a_skip_goes_first(seed, size):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 16, 16))
    x = layers.Conv2D(64, 1, activation="relu", name="first")(inputs)
    skipping, entering = ops.split(x, 2, axis=-1)
    deeper = entering
    for _ in range(2):
        deeper = layers.Conv2D(32, size, padding="same")(deeper)
    x = layers.Concatenate()([skipping, entering, deeper])
    model = keras.Model(inputs, layers.Conv2D(32, 1)(x))
    # With Keras's own initial weights, which differ from kernel to kernel.
    kept = _kept(kprune.make_prunable(model), "first", 0.5)
    assert kept.sum() == 32
    assert 8 <= kept[:32].sum() <= 24


def test_one_channel_of_each_branch_stays_however_weak(float64):
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(8, 1, name="first")(inputs)
    weak, strong = ops.split(x, 2, axis=-1)
    outputs = [
        layers.Conv2D(3, 1, name="weak")(weak),
        layers.Conv2D(3, 1, name="strong")(strong),
    ]
    model = _normal(keras.Model(inputs, outputs))
    for name in ("first", "weak"):
        layer = model.get_layer(
            next(x.name for x in model.layers if x.name.endswith(name))
        ).layer
        kernel = numpy(layer.kernel).copy()
        if name == "first":
            kernel[..., :4] *= 0.1
        else:
            kernel[...] = 0.1
            kernel[:, :, 1] = 0.15
        layer.kernel.assign(kernel)
    kept = _kept(model, "first", 0.75)
    assert kept[:4].sum() == 1 and kept[4:].sum() == 1
    assert kept[1]
    x = np.random.default_rng(1).normal(size=(3, 4, 4, 3))
    assert_equal_outputs(model, kprune.strip(model), x, EXACT_MEAN)


def test_layers_of_one_class_agree_on_a_number():
    inputs = keras.Input((5,))
    x = kprune.PrunableDense(12, granularity=Filter(2), name="two")(inputs)
    y = kprune.PrunableDense(12, granularity=Filter(3), name="three")(inputs)
    z = layers.Dense(2)(layers.Add()([x, y]))
    model = kprune.prune(keras.Model(inputs, z), 0.75)
    # 3 stay of 12: 4 for the one, and 6 for both.
    assert kprune.strip(model).get_layer("two").units == 6


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.99])
def test_counts_of_gates_and_of_tied_filters(multiple, sparsity, float64):
    inputs = keras.Input((6, 5))
    x = layers.Dense(16, name="first")(inputs)
    y = layers.LSTM(16, return_sequences=True, name="lstm")(x)
    x = layers.Add()([x, y])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    model = enliven(
        kprune.make_prunable(model),
        np.random.default_rng(0).normal(size=(4, 6, 5)),
    )
    left = 16 - int(np.floor(round(16 * sparsity, 6)))
    left = max(-(-left // multiple) * multiple, 1)
    with contextlib.ExitStack() as stack:
        if left == 16:
            warns = pytest.warns(UserWarning, match="Nothing was pruned")
            stack.enter_context(warns)
        kprune.prune(model, sparsity, granularity=Filter(multiple))
    small = kprune.strip(model)
    assert small.get_layer("first").units == left
    assert small.get_layer("lstm").units == left
