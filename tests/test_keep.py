"""Filters that a user names stay, with all that is coupled to them."""

import keras
import numpy as np
import pytest
from keras import layers
from models import Untraceable, numpy

import kprune


def _net():
    """Filters of `stem` and `back` go together; the first ones are weakest."""
    x = inputs = keras.Input((6, 6, 3))
    stem = layers.Conv2D(10, 3, padding="same", name="stem")(x)
    x = layers.Conv2D(20, 3, activation="relu", name="inner")(stem)
    x = layers.Conv2D(10, 3, padding="same", name="back")(x)
    x = layers.Add()([layers.Cropping2D(1)(stem), x])
    x = layers.Dense(8, name="hidden")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x), name="net")
    for layer in model.layers:
        if layer.weights:
            kernel = np.ones(layer.kernel.shape)
            kernel *= np.arange(1, kernel.shape[-1] + 1)
            layer.kernel.assign(kernel)
    return kprune.make_prunable(model)


def _left(model, name):
    """Which filters of a layer are left."""
    mask = numpy(model.get_layer(name).masks["kernel"])
    return np.flatnonzero(mask.any(axis=(0, 1, 2))).tolist()


@pytest.mark.parametrize("name", ["stem", "back"])
def test_what_is_named_stays_and_of_the_others_the_sparsity_goes(name):
    model = _net()
    assert kprune.prune(model, 0.5) is model
    assert _left(model, "stem") == [5, 6, 7, 8, 9]
    kprune.prune(model, 0.5, keep={name: [1, 0]})
    # Of the other 8 half go.
    for coupled in ("stem", "back"):
        assert _left(model, coupled) == [0, 1, 6, 7, 8, 9]
    assert _left(model, "inner") == list(range(10, 20))
    assert kprune.strip(model).get_layer("stem").filters == 6


def test_every_way_to_prune_takes_it():
    keep = {"inner": np.arange(5)}
    model = _net()
    kprune.prune(model, 0.5, allocation="global", keep=keep)
    left = _left(model, "inner"), _left(model, "stem")
    assert left[0][:5] == [0, 1, 2, 3, 4]
    # Of the 10 and 15 that can go 12 do.
    assert len(left[0]) + len(left[1]) == 30 - 12
    model = _net()
    kprune.prune(model, 0.5, allocation={"inner": 0.8}, keep=keep)
    assert _left(model, "inner") == [0, 1, 2, 3, 4, 17, 18, 19]
    model = _net()
    kprune.Pruner(0.8, keep=keep).update(model, 1.0)
    assert _left(model, "inner") == [0, 1, 2, 3, 4, 17, 18, 19]
    model = _net()
    model.compile("sgd", "mse")
    model.fit(
        np.ones((2, 6, 6, 3)),
        np.ones((2, 2)),
        epochs=2,
        verbose=0,
        callbacks=[kprune.PruningScheduler(0.8, keep=keep)],
    )
    assert _left(model, "inner")[:5] == [0, 1, 2, 3, 4]
    assert len(_left(model, "inner")) == 8


def test_what_is_gone_for_good_cannot_be_kept():
    model = _net()
    kprune.prune(model, 0.5, keep={"stem": [0]})
    model.get_layer("back").apply_masks()
    kprune.prune(model, 0.5, keep={"stem": [0]})
    assert _left(model, "stem") == [0, 5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match=r"\[2, 3\] of layer 'back'.*for good"):
        kprune.prune(model, 0.5, keep={"back": [0, 2, 3]})


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"steam": [0]}, "no layer 'steam' with channels"),
        ({"stem": [10]}, "from 0 to 9"),
        ({"stem": 3}, "in a list. Received: 3"),
        ({3: [0]}, "Name a layer by a string"),
        (
            {"hidden": [0]},
            r"layers \['hidden'\] of model 'net'.*single weights",
        ),
        (["stem"], "`keep` must map names"),
        (
            {"stem": range(10), "inner": range(20)},
            "No filter of model 'net' can be removed: `keep` names it",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(keep, message):
    model = _net()
    if isinstance(keep, dict) and "inner" in keep:
        for name in ("hidden", "logits"):
            model.get_layer(name).trainable = False
    with pytest.raises(ValueError, match=message):
        kprune.prune(model, 0.5, keep=keep)
    assert kprune.sparsity(model) == 0


def test_without_groups_nothing_can_be_kept():
    model = Untraceable()
    model(np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match="no graph that can be read"):
        kprune.prune(model, 0.5, granularity="filter", keep={"only": [0]})
    with pytest.raises(ValueError, match="lose single weights"):
        kprune.prune(
            _net(), 0.5, granularity="unstructured", keep={"stem": [0]}
        )
