"""Sparsities of single layers by a dict from their names."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune import testing
from kprune.allocations import Capped, PerLayer


def _dense():
    return keras.Sequential(
        [
            keras.Input((10,)),
            kprune.PrunableDense(20, name="first"),
            kprune.PrunableDense(10, name="second"),
            kprune.PrunableDense(10, name="third"),
        ]
    )


def _sparsities(model):
    return {
        layer.name: layer.sparsity
        for layer in model.layers
        if isinstance(layer, kprune.PrunableLayer)
    }


def test_layers_that_are_not_named_get_the_sparsity():
    model = _dense()
    kprune.prune(model, 0.5, allocation={"second": 0.2, "third": 0.0})
    assert _sparsities(model) == {"first": 0.5, "second": 0.2, "third": 0.0}
    # A mapping is read once.
    asked = {"first": 0.9}
    allocation = PerLayer(asked)
    asked.clear()
    assert allocation(model.layers, 0.5) == [0.9, 0.5, 0.5]
    testing.check_allocation(PerLayer({}))


def test_what_is_named_grows_with_the_schedule():
    model = _dense()
    pruner = kprune.Pruner(
        kprune.schedules.Linear(final_sparsity=0.8, end=1.0),
        allocation={"first": 0.4},
    )
    pruner.update(model, 0.5)
    assert _sparsities(model) == {"first": 0.2, "second": 0.4, "third": 0.4}
    pruner.update(model, 1.0)
    assert _sparsities(model) == {"first": 0.4, "second": 0.8, "third": 0.8}
    model = kprune.prune(_dense(), 0.0, allocation={"first": 0.4})
    assert kprune.sparsity(model) == 0.0


def test_within_rules_for_first_and_last_layers():
    allocation = Capped({"second": 0.2}, first=0.0, last=1.0)
    shares = allocation(_dense().layers, 0.4)
    # The 80 that the first keeps are those of the others; the second has its
    # own.
    assert shares[:2] == [0.0, 0.2] and shares[2] == pytest.approx(2 / 3)


def _residual():
    x = inputs = keras.Input((8, 8, 3))
    stem = kprune.PrunableConv2D(10, 3, padding="same", name="stem")(x)
    x = kprune.PrunableConv2D(20, 3, padding="same", name="inner")(stem)
    x = kprune.PrunableConv2D(10, 3, padding="same", name="back")(x)
    x = layers.GlobalAveragePooling2D()(layers.Add()([stem, x]))
    x = kprune.PrunableDense(20, name="hidden")(x)
    return keras.Model(inputs, kprune.PrunableDense(2, name="logits")(x))


def _filters(model):
    stripped = kprune.strip(model)
    return [stripped.get_layer(n).filters for n in ("stem", "inner", "back")]


@pytest.mark.parametrize("name", ["stem", "back"])
def test_filters_that_go_together_lose_what_is_said_of_one_layer(name):
    model = _residual()
    # `hidden` loses single weights, beside layers that lose groups.
    kprune.prune(model, 0.5, allocation={name: 0.2, "hidden": 0.4})
    assert _filters(model) == [8, 10, 8]
    assert model.get_layer("hidden").sparsity == 0.4


def test_layers_that_go_together_have_one_sparsity():
    model = _residual()
    said = {"stem": 0.2, "back": 0.5}
    before = [np.asarray(w) for w in model.get_weights()]
    with pytest.raises(ValueError, match=r"\['stem', 'back'\].*together"):
        kprune.prune(model, 0.5, allocation=said)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Single weights go alone.
    kprune.prune(model, 0.5, allocation=said, granularity="unstructured")
    assert model.get_layer("stem").sparsity == 0.2


@pytest.mark.parametrize(
    "said", [{"conv": 1.0}, {"conv": -0.1}, {"conv": "half"}, {0: 0.5}]
)
def test_bad_numbers_and_names(said):
    with pytest.raises(ValueError, match=r"a sparsity in \[0, 1\)"):
        kprune.Pruner(0.5, allocation=said)


def test_names_of_layers_that_are_not_pruned():
    model = _dense()
    model.get_layer("third").trainable = False
    for allocation in ({"third": 0.5}, {"conv": 0.5}):
        with pytest.raises(ValueError, match=r"some of \['first', 'second'\]"):
            kprune.prune(model, 0.5, allocation=allocation)
