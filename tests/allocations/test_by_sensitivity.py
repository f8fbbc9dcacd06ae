"""Losses that were measured, levelled over layers."""

import keras
import numpy as np
import pytest

import kprune
from kprune.allocations import BySensitivity


def _dense():
    """Kernels of 100 and 300 weights."""
    return keras.Sequential(
        [
            keras.Input((10,)),
            kprune.PrunableDense(10, name="first"),
            kprune.PrunableDense(30, name="second"),
        ],
        name="two",
    )


def _found(scores, filters=(), dense=1.0):
    return kprune.Sensitivity("two", dense, scores, filters)


def test_the_loss_is_levelled():
    # The second loses three times as much by the same sparsity.
    allocation = BySensitivity(
        _found({"first": {0.5: 0.9, 0.9: 0.8}, "second": {0.5: 0.7}})
    )
    model = _dense()
    first, second = allocation(model.layers, 0.2)
    assert second == pytest.approx(first / 3, abs=0.003)
    assert 100 * first + 300 * second == pytest.approx(80)
    # At each sparsity it is met, and no layer gets weights back.
    last = [0.0, 0.0]
    for sparsity in np.linspace(0, 0.999, 50):
        shares = allocation(model.layers, sparsity)
        gone = 100 * shares[0] + 300 * shares[1]
        assert gone == pytest.approx(min(np.floor(400 * sparsity + 1e-6), 398))
        assert all(a <= b + 1e-12 < 1 for a, b in zip(last, shares))
        last = shares
    kprune.prune(model, 0.6, allocation=allocation)
    assert kprune.sparsity(model) == pytest.approx(0.6, abs=0.006)


def test_layers_of_equal_losses_lose_the_same():
    # Scores that are higher than that of the dense model are no gain.
    flat = _found({"first": {0.5: 1.0}, "second": {0.5: 1.2}}, dense=1.0)
    assert flat.allocation()(_dense().layers, 0.5) == pytest.approx([0.5, 0.5])


def test_what_was_not_measured_loses_the_sparsity_itself():
    allocation = _found({"first": {0.5: 0.9}}).allocation()
    assert allocation(_dense().layers, 0.4) == pytest.approx([0.4, 0.4])
    with pytest.raises(ValueError, match="single weights go of none"):
        allocation([kprune.PrunableDense(3, name="logits")], 0.4)
    of_filters = _found({"first": {0.5: 0.9}}, filters=("first",))
    with pytest.raises(ValueError, match="single weights go of none"):
        of_filters.allocation()(_dense().layers, 0.4)
    with pytest.raises(ValueError, match="takes what `kprune.sensitivity"):
        BySensitivity({"first": {0.5: 0.9}})


def test_exactly_so_many_filters_go():
    allocation = _found(
        {"first": {0.5: 0.9}, "second": {0.5: 0.5}},
        filters=("first", "second"),
    ).allocation()
    model = _dense()
    gone = []
    for sparsity in np.linspace(0, 0.95, 20):
        shares = allocation.over_groups(
            [np.zeros(7), np.zeros(12)],
            sparsity,
            makers=[[model.layers[0]], [model.layers[1]]],
            least=[1, 3],
        )
        gone.append(np.round(np.multiply(shares, [7, 12]), 9))
        wanted = min(np.floor(19 * sparsity + 1e-6), 15)
        assert gone[-1].sum() == wanted
    assert (np.diff(gone, axis=0) >= 0).all() and (np.mod(gone, 1) == 0).all()
    assert gone[5].tolist() == [3, 1]
