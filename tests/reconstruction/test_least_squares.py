"""Least squares on the kept weights, against sums made the slow way."""

import numpy as np
import pytest

from kprune.reconstruction import least_squares
from kprune.reconstruction.least_squares import error, fit


def _problem(rows=64, inputs=12, outputs=5, density=0.5, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(inputs, inputs))
    x = np.maximum(generator.normal(size=(rows, inputs)) @ mixing, 0)
    y = generator.normal(size=(rows, outputs))
    prior = generator.normal(size=(inputs, outputs))
    mask = generator.random((inputs, outputs)) < density
    return x, y, prior, mask


def _moments(x, y):
    return x.T @ x / len(x), x.T @ y / len(x)


def _by_lstsq(x, y, prior, mask, damping):
    """Each output by itself, the damping as rows of their own."""
    level = damping * np.mean(x**2)
    weights = np.zeros(prior.shape)
    for output in range(mask.shape[1]):
        kept = np.flatnonzero(mask[:, output])
        a = np.vstack(
            [
                x[:, kept] / np.sqrt(len(x)),
                np.sqrt(level) * np.eye(len(kept)),
            ]
        )
        b = np.concatenate(
            [
                y[:, output] / np.sqrt(len(x)),
                np.sqrt(level) * prior[kept, output],
            ]
        )
        weights[kept, output] = np.linalg.lstsq(a, b, rcond=None)[0]
    return weights


@pytest.fixture
def iterates(monkeypatch):
    """Nothing is cheap enough to be solved exactly."""
    monkeypatch.setattr(least_squares, "_CHEAP", 0.0)
    monkeypatch.setattr(least_squares, "_operations", lambda _: np.inf)


def test_a_hand_made_system():
    # Kept are both inputs of the first output, the second of the other.
    # mean(diag) is 2, so l is 1: [[3, 1], [1, 3]] w = [5, 3] + [0, 4].
    weights = fit(
        gram=np.array([[2.0, 1.0], [1.0, 2.0]]),
        cross=np.array([[5.0, 9.0], [3.0, 5.0]]),
        prior=np.array([[0.0, 7.0], [4.0, 1.0]]),
        mask=np.array([[True, False], [True, True]]),
        damping=0.5,
    )
    np.testing.assert_allclose(weights, [[1.0, 0.0], [2.0, 2.0]], rtol=1e-12)


@pytest.mark.parametrize("damping", [1e-3, 0.1])
@pytest.mark.parametrize("rows", [64, 6])
def test_fit_is_least_squares_of_each_output(rows, damping):
    x, y, prior, mask = _problem(rows)
    weights = fit(*_moments(x, y), prior, mask, damping=damping)
    expected = _by_lstsq(x, y, prior, mask, damping)
    np.testing.assert_allclose(weights, expected, rtol=1e-8, atol=1e-10)
    assert weights.dtype == np.float64
    assert not weights[~mask].any()


@pytest.mark.parametrize("rows", [200, 20])
def test_conjugate_gradients_find_the_same(iterates, rows):
    x, y, prior, mask = _problem(rows, inputs=40, outputs=9)
    weights = fit(*_moments(x, y), prior, mask, damping=1e-2)
    expected = _by_lstsq(x, y, prior, mask, 1e-2)
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-5)
    assert not weights[~mask].any()


def test_conjugate_gradients_stop_at_their_limit(iterates, monkeypatch):
    x, y, prior, mask = _problem(200, inputs=40, outputs=9)
    gram, cross = _moments(x, y)
    energy = np.sum(y**2) / len(y)
    errors = []
    for steps in (0, 5, 20):
        monkeypatch.setattr(least_squares, "_STEPS", steps)
        weights = fit(gram, cross, prior, mask)
        errors.append(error(gram, cross, energy, weights))
    assert errors[0] == error(gram, cross, energy, np.where(mask, prior, 0))
    assert errors[0] > errors[1] > errors[2]


def test_only_what_is_large_is_iterated(monkeypatch):
    used = []
    for name in ("_solve", "_iterate"):
        call = getattr(least_squares, name)
        monkeypatch.setattr(
            least_squares,
            name,
            lambda *a, name=name, call=call: used.append(name) or call(*a),
        )
    monkeypatch.setattr(least_squares, "_CHEAP", 1e4)
    monkeypatch.setattr(least_squares, "_STEPS_WORTH", 1)
    x, y, prior, mask = _problem(200, inputs=40, outputs=9)
    fit(*_moments(x, y), prior, mask)
    # The same inputs for all outputs: one factorization.
    mask[:] = mask[:, :1]
    fit(*_moments(x, y), prior, mask)
    assert used == ["_iterate", "_solve"]


@pytest.mark.parametrize("large", [False, True])
def test_dead_inputs_keep_their_prior(large, request):
    if large:
        request.getfixturevalue("iterates")
    x, y, prior, mask = _problem()
    x[:, [2, 5]] = 0
    weights = fit(*_moments(x, y), prior, mask)
    kept_prior = np.where(mask, prior, 0)
    np.testing.assert_array_equal(weights[[2, 5]], kept_prior[[2, 5]])
    live = np.setdiff1d(np.arange(12), [2, 5])
    expected = _by_lstsq(x, y, prior, mask, 1e-3)
    np.testing.assert_allclose(weights[live], expected[live], atol=1e-4)


@pytest.mark.parametrize("large", [False, True])
def test_degenerate_inputs_give_no_nan(large, request):
    if large:
        request.getfixturevalue("iterates")
    x, y, prior, mask = _problem()
    kept_prior = np.where(mask, prior, 0)
    gram, cross = np.zeros((12, 12)), np.zeros((12, 5))
    np.testing.assert_array_equal(fit(gram, cross, prior, mask), kept_prior)
    nothing = np.zeros_like(mask)
    assert not fit(*_moments(x, y), prior, nothing).any()
    mask[:, 3] = False
    x[:] = x[:, :1]  # rank 1
    x[0] += 1e-9
    weights = fit(*_moments(x, y), prior, mask)
    assert np.isfinite(weights).all() and not weights[:, 3].any()
    # One row, in single precision.
    one = [array[:1].astype(np.float32) for array in (x, y)]
    weights = fit(*_moments(*one), prior.astype(np.float32), mask)
    assert np.isfinite(weights).all() and weights.dtype == np.float64


def test_what_is_given_stays():
    x, y, prior, mask = _problem()
    given = [*_moments(x, y), prior, mask]
    before = [array.copy() for array in given]
    fit(*given)
    for array, copy in zip(given, before):
        np.testing.assert_array_equal(array, copy)


def test_error_is_the_mean_squared_error():
    # Outputs 1 and 3 where 2 and 1 were asked: (1 + 4) / 2 rows.
    x, y = np.array([[1.0], [3.0]]), np.array([[2.0], [1.0]])
    assert error(*_moments(x, y), 2.5, np.array([[1.0]])) == 2.5
    x, y, prior, _ = _problem()
    expected = np.sum((x @ prior - y) ** 2) / len(x)
    found = error(*_moments(x, y), np.sum(y**2) / len(x), prior)
    assert found == pytest.approx(expected, rel=1e-12)


def test_error_is_never_below_zero():
    x, _, weights, _ = _problem()
    y = x @ weights
    gram, cross = _moments(x, y)
    energy = np.sum(y**2) / len(y)
    for share in (1.0, 1.0 - 1e-14):
        found = error(gram, cross, share * energy, weights)
        assert 0 <= found < 1e-10 * energy


@pytest.mark.parametrize("large", [False, True])
def test_a_fit_is_never_worse_than_the_prior(large, request):
    if large:
        request.getfixturevalue("iterates")
    for seed in range(10):
        x, y, prior, mask = _problem(rows=20, seed=seed)
        gram, cross = _moments(x, y)
        energy = np.sum(y**2) / len(y)
        fitted = error(gram, cross, energy, fit(gram, cross, prior, mask))
        assert fitted < error(gram, cross, energy, np.where(mask, prior, 0))
