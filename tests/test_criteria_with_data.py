"""Criteria that see gradients and inputs, called with arrays."""

import numpy as np
import pytest

import kprune
from kprune import criteria, ranking
from kprune.observing import requests
from kprune.reconstruction import alps, brain_surgeon

ASKED = {
    "taylor": ("gradient",),
    "fisher": ("squared_gradient",),
    "snip": ("gradient",),
    "wanda": ("input_norm",),
    "obs": ("gram",),
    "alps": ("gram", "sparsity"),
}


@pytest.mark.parametrize("name", ASKED)
def test_names_and_what_they_ask_for(name):
    criterion = criteria.get(name)
    assert criterion is getattr(kprune.criteria, name)
    assert criteria.get(name.upper()) is criterion
    assert requests.names(criterion, "criterion") == ASKED[name]


def test_taylor():
    scores = criteria.taylor(
        np.array([[-2.0, 0.5], [3.0, 0.0]]),
        gradient=np.array([[0.5, 4.0], [-1.0, 9.0]]),
    )
    np.testing.assert_array_equal(scores, [[1.0, 2.0], [3.0, 0.0]])


def test_fisher():
    scores = criteria.fisher(
        np.array([[-2.0, 0.5], [3.0, 0.0]]),
        squared_gradient=np.array([[0.5, 4.0], [1.0, 9.0]]),
    )
    np.testing.assert_array_equal(scores, [[1.0, 0.5], [4.5, 0.0]])


def test_snip_is_taylor_as_shares():
    kernel = np.array([[-2.0, 0.5], [3.0, 0.0]])
    gradient = np.array([[0.5, 4.0], [-1.0, 9.0]])
    scores = criteria.snip(kernel, gradient=gradient)
    np.testing.assert_allclose(scores, [[1 / 6, 1 / 3], [0.5, 0.0]])
    # Nothing has an effect: no division by 0.
    scores = criteria.snip(kernel, gradient=np.zeros((2, 2)))
    np.testing.assert_array_equal(scores, np.zeros((2, 2)))


def test_wanda():
    kernel = np.array([[-2.0, 0.5], [3.0, 0.0]])
    # One norm an input, or one a weight.
    for norm in ([[0.5], [2.0]], [[0.5, 0.5], [2.0, 2.0]]):
        scores = criteria.wanda(kernel, input_norm=np.array(norm))
        np.testing.assert_array_equal(scores, [[1.0, 0.25], [6.0, 0.0]])


def _matrices():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 4)) @ generator.normal(size=(4, 10))
    x += 0.2 * generator.normal(size=x.shape)
    return x.T @ x / len(x), generator.normal(size=(10, 5))


def test_obs():
    # By hand: H = diag(1, 4) + .025, so that nothing is made up for.
    scores = criteria.obs(
        np.array([[2.0, 1.0], [1.5, 1.0]]), gram=np.diag([1.0, 4.0])
    )
    np.testing.assert_allclose(
        scores, [[4.1, 1.025], [9.05625, 4.025]], rtol=1e-12
    )
    gram, kernel = _matrices()
    scores = criteria.obs(kernel, gram=gram)
    np.testing.assert_array_equal(scores, brain_surgeon.losses(gram, kernel))


@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 0.9, 0.99])
def test_the_highest_scores_of_alps_are_its_support(sparsity):
    gram, kernel = _matrices()
    scores = criteria.alps(kernel, gram=gram, sparsity=sparsity)
    removed = ranking.removed_count(50, sparsity)
    mask = kprune.granularities.Unstructured()(scores, sparsity)
    assert np.count_nonzero(~mask) == removed
    np.testing.assert_array_equal(
        mask, alps.support(gram, kernel, 50 - removed)
    )


@pytest.mark.parametrize("name", ASKED)
def test_they_keep_the_contract(name):
    kprune.testing.check_criterion(name)
