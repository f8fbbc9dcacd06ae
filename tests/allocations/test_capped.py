"""Rules for the first and the last layer."""

import keras
import numpy as np
import pytest

import kprune
from kprune.allocations import Capped


def _convolutions():
    """Kernels of 180, 3600 and 360 weights."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            kprune.PrunableConv2D(20, 3),
            kprune.PrunableConv2D(20, 3),
            kprune.PrunableConv2D(2, 3),
        ]
    )
    return model


SIZES = np.array([180, 3600, 360])


def test_uniform_plus_in_numbers():
    layers = _convolutions().layers
    # The first stays dense: 2070 of 3960.
    low = Capped("uniform")(layers, 0.5)
    assert low == pytest.approx([0, 2070 / 3960, 2070 / 3960])
    # The last one keeps a fifth: 3726 - 288 of 3600.
    high = Capped("uniform")(layers, 0.9)
    assert high == pytest.approx([0, 3438 / 3600, 0.8])
    only_last = Capped("uniform", first=1.0)(layers, 0.9)
    assert only_last == pytest.approx([3438 / 3780, 3438 / 3780, 0.8])
    assert Capped("uniform", 1.0, 1.0)(layers, 0.9) == [0.9, 0.9, 0.9]
    assert Capped("uniform")(layers, 0.0) == [0, 0, 0]


@pytest.mark.parametrize(
    "allocation", ["uniform", "global", "lamp", "erdos_renyi"]
)
@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.9])
def test_the_total_is_kept_around_any_allocation(allocation, sparsity):
    model = _convolutions()
    capped = Capped(allocation, first=0.2, last=0.5)
    kprune.prune(model, sparsity, granularity="unstructured", allocation=capped)
    shares = np.array([layer.sparsity for layer in model.layers])
    assert shares[0] <= 0.2 and shares[-1] <= 0.5
    total = SIZES.sum() * sparsity
    assert total - 3 <= SIZES @ shares <= total + 1e-6


def test_the_inner_allocation_gets_what_it_asks_for():
    seen = []

    def rising(layers, sparsity, *, progress, scores):
        seen.append((len(layers), progress, [s.shape for s in scores[0]]))
        return [sparsity] * len(layers)

    model = _convolutions()
    updater = kprune.pruning.MaskUpdater(allocation=Capped(rising))
    updater.update(model, 0.5, progress=0.25)
    assert seen == [(2, 0.25, [(3, 3, 20, 20)])]
    assert model.layers[0].sparsity == 0


def test_what_cannot_be_reached_is_refused_with_what_can():
    message = r"0.97 cannot be reached .* comes to 0.939. Ask for less"
    with pytest.raises(ValueError, match=message):
        Capped("uniform")(_convolutions().layers, 0.97)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allocation": "best"}, "Unknown allocation"),
        (
            {"allocation": lambda layers, s, *, weather: []},
            "asks for `weather`",
        ),
        ({"first": -0.1}, r"`first` must be a number in \[0, 1\].*first=-0.1"),
        ({"last": True}, "last=True"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Capped(**options)
