"""A residual net that trains while it loses filters, and what is left."""

import keras
import numpy as np
import pytest
from keras import layers
from models import EXACT_MEAN, assert_equal_outputs, compiled, numpy

import kprune
from kprune.prunable import prunable_layers

pytestmark = pytest.mark.usefixtures("float64")


def _normalized(x, activation=None):
    x = layers.BatchNormalization(momentum=0.8)(x)
    return x if activation is None else layers.Activation(activation)(x)


def _residual_net():
    """Two blocks that share a layer, a projection, an inverted residual."""
    inputs = keras.Input((7, 7, 1))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = _normalized(x, "relu")
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    for _ in range(2):
        y = _normalized(shared(x))
        x = layers.Activation("relu")(layers.Add()([x, y]))
    y = layers.Conv2D(6, 3, 2, padding="same", use_bias=False, name="inner")(x)
    y = _normalized(y, "relu")
    y = layers.Conv2D(12, 3, padding="same", use_bias=False, name="outer")(y)
    shortcut = layers.Conv2D(12, 1, 2, name="shortcut")(x)
    x = layers.Activation("relu")(layers.Add()([shortcut, _normalized(y)]))
    y = layers.Conv2D(16, 1, use_bias=False, name="expand")(x)
    y = _normalized(y, "relu6")
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = _normalized(y, "relu6")
    y = layers.Conv2D(12, 1, use_bias=False, name="project")(y)
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, _normalized(y)]))
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


@pytest.fixture
def trained(digits, float64):
    """The net after three epochs in which half of it went, and its history."""
    images, labels = digits
    model = compiled(kprune.make_prunable(_residual_net()), 1e-2)
    history = model.fit(
        images[:400, ::4, ::4],
        labels[:400],
        batch_size=20,
        epochs=3,
        verbose=0,
        callbacks=[kprune.PruningScheduler(0.5, granularity="filter")],
    )
    return model, history.history


def _masks(model):
    """Dict: name of a layer -> its masks as arrays."""
    return {
        layer.layer.name: {
            name: numpy(mask) for name, mask in layer.masks.items()
        }
        for layer in prunable_layers(model)
    }


def test_a_trained_net_is_saved_and_stripped_exactly(trained, digits, tmp_path):
    model, history = trained
    assert history["loss"][-1] < 0.95 * history["loss"][0]
    x = digits[0][400:, ::4, ::4].astype("float64")
    stripped = kprune.strip(model)
    assert_equal_outputs(model, stripped, x, EXACT_MEAN)
    filters = {
        layer.name: layer.filters
        for layer in stripped.layers
        if type(layer) is layers.Conv2D
    }
    assert filters == {
        "stem": 4,
        "shared": 4,
        "inner": 3,
        "outer": 6,
        "shortcut": 6,
        "expand": 8,
        "project": 6,
    }
    assert stripped.get_layer("depthwise").kernel.shape == (3, 3, 8, 1)
    assert stripped.get_layer("logits").kernel.shape == (6, 10)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    keras.tree.map_structure(
        np.testing.assert_array_equal, _masks(loaded), _masks(model)
    )
    assert_equal_outputs(loaded, stripped, x, EXACT_MEAN)


def test_masks_of_producers_and_readers_agree(trained):
    model, history = trained
    masks = _masks(model)
    first = masks["stem"]["bias"]
    inner = masks["inner"]["kernel"].any(axis=(0, 1, 2))
    second = masks["shortcut"]["bias"]
    expanded = masks["depthwise"]["bias"]
    kept = [int(units.sum()) for units in (first, inner, second, expanded)]
    assert kept == [4, 3, 6, 8]

    expected = {
        "stem": (np.ones(1, bool), first),
        "shared": (first, first),
        "inner": (first, inner),
        "outer": (inner, second),
        "shortcut": (first, second),
        "expand": (second, expanded),
        "depthwise": (expanded, np.ones(1, bool)),
        "project": (expanded, second),
        "logits": (second, np.ones(10, bool)),
    }
    assert set(masks) == set(expected)
    for name, (rows, columns) in expected.items():
        mask = masks[name]["kernel"]
        both = np.broadcast_to(rows[:, None] & columns, mask.shape)
        np.testing.assert_array_equal(mask, both, name)
    np.testing.assert_array_equal(masks["shared"]["bias"], first)
    assert masks["logits"]["bias"].all()

    # The shared layer counts once: 576 weights, of which 144 stay.
    left = 36 + 144 + 108 + 162 + 24 + 48 + 72 + 48 + 60
    weights = 72 + 576 + 432 + 648 + 96 + 192 + 144 + 192 + 120
    assert kprune.sparsity(model) == pytest.approx(1 - left / weights)
    assert history["sparsity"][-1] == kprune.sparsity(model)
    report = kprune.report(model)
    assert (report.weights, report.zeros) == (weights, weights - left)
