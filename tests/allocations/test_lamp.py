"""Scores relative to what is left of their kernel."""

import keras
import numpy as np
import pytest

import kprune
from kprune.allocations import Lamp


def _dense(*kernels):
    found = []
    for kernel in kernels:
        kernel = np.array(kernel, np.float32)
        layer = kprune.PrunableDense(kernel.shape[1], use_bias=False)
        layer(keras.Input((kernel.shape[0],)))
        layer.layer.set_weights([kernel])
        found.append(layer)
    return found


def _by_definition(kernel):
    """score(u) = w_u^2 / sum of w_v^2 over v >= u, from low to high."""
    squares = np.sort(np.ravel(kernel) ** 2)
    return [s / squares[u:].sum() for u, s in enumerate(squares)]


def test_in_numbers():
    # Squares 1 4 9 16: 1/30 4/29 9/25 1. Squares 1 1 9 9: 1/20 1/19 1/2 1.
    layers = _dense([[1.0, -2.0], [3.0, -4.0]], [[10.0, 30.0], [-30.0, 10.0]])
    assert Lamp()(layers, 1 / 8) == [1 / 4, 0]
    assert Lamp()(layers, 2 / 8) == [1 / 4, 1 / 4]
    assert Lamp()(layers, 3 / 8) == [1 / 4, 2 / 4]
    assert Lamp()(layers, 4 / 8) == [2 / 4, 2 / 4]
    assert Lamp()(layers, 5 / 8) == [3 / 4, 2 / 4]
    assert Lamp()(layers, 6 / 8) == [3 / 4, 3 / 4]
    # The highest of a kernel always has a score of 1, and stays.
    assert Lamp()(layers, 0.99) == [3 / 4, 3 / 4]
    assert Lamp()(layers, 0.0) == [0, 0]


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.95, 0.99])
def test_as_defined_on_layers_of_any_scale(sparsity):
    generator = np.random.default_rng(0)
    kernels = [
        scale * generator.standard_t(3, size=shape)
        for scale, shape in [(1, (30, 40)), (100, (40, 10)), (1e-3, (20, 20))]
    ]
    scores = [_by_definition(np.float32(kernel)) for kernel in kernels]
    together = np.sort(np.concatenate(scores))
    removed = int(2000 * sparsity)
    wanted = [np.sum(s < together[removed]) / len(s) for s in scores]
    assert Lamp()(_dense(*kernels), sparsity) == pytest.approx(wanted)
    # As a layer's scale does not count.
    scaled = [7 * kernels[0], kernels[1] / 9, kernels[2]]
    assert Lamp()(_dense(*scaled), sparsity) == pytest.approx(wanted, abs=0.003)


def test_zeros_and_negative_scores():
    layers = _dense(np.zeros((2, 2)), [[1.0, 2.0, 3.0, 4.0]])
    assert Lamp()(layers, 0.5) == [0.75, 0.25]
    # Relative scores -9/15 -1/15 1/5 1, and 1/4 1/3 1/2 1.
    scores = [[np.array([[-3.0, -1.0], [1.0, 2.0]])], [np.full((1, 4), 5.0)]]
    assert Lamp()(layers, 2 / 8, scores=scores) == [2 / 4, 0]
    assert Lamp()(layers, 3 / 8, scores=scores) == [3 / 4, 0]


def test_prune_ranks_by_the_scores_of_its_criterion():
    def smallest_stay(kernel):
        return 1 / (1 + np.abs(kernel))

    model = keras.Sequential(_dense(np.eye(4) * 3 + 1, np.ones((4, 4))))
    model.build((None, 4))
    kprune.prune(model, 0.25, criterion=smallest_stay, allocation="lamp")
    first, second = (
        keras.ops.convert_to_numpy(layer.masks["kernel"])
        for layer in model.layers
    )
    # Scores 0.2 and 0.5: the squares of the four are 0.04, far below.
    assert not np.diag(first).any()
    assert (~first).sum() + (~second).sum() == 8
    kprune.testing.check_allocation("lamp")
