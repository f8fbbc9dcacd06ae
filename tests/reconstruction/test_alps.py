"""ALPS's masks: their count, their ties, and how good they are."""

import numpy as np
import pytest

from kprune import ranking
from kprune.reconstruction import alps, brain_surgeon, least_squares


def _correlated(inputs=24, outputs=6, rows=200, seed=0):
    """Inputs that are mixtures of a few causes, and a kernel."""
    generator = np.random.default_rng(seed)
    causes = generator.normal(size=(rows, inputs // 4))
    x = causes @ generator.normal(size=(inputs // 4, inputs))
    x = np.maximum(x + 0.3 * generator.normal(size=x.shape), 0)
    return x.T @ x / rows, generator.normal(size=(inputs, outputs))


def _error(gram, weights, mask):
    """The squared error that is left after the repair."""
    cross = gram @ weights
    fitted = least_squares.fit(gram, cross, weights, mask)
    energy = np.vdot(weights, cross)
    return least_squares.error(gram, cross, energy, fitted)


def test_without_correlations_what_adds_most_stays():
    # Squared errors of leaving out: 4, 9, 1, 36.
    gram, weights = np.diag([1.0, 9.0]), np.array([[2.0, 1.0], [1.0, 2.0]])
    weights[0] = 2.0, 3.0
    weights[1] = 1 / 3, 2.0
    for kept, expected in (
        (1, [[False, False], [False, True]]),
        (2, [[False, True], [False, True]]),
        (3, [[True, True], [False, True]]),
    ):
        np.testing.assert_array_equal(
            alps.support(gram, weights, kept), expected
        )


def test_one_of_two_like_inputs_does_for_both():
    # The outputs 3 a + 3 b + 4 c, where b = a nearly: 6 a + 4 c is all of it,
    # while magnitude keeps c and has to choose.
    gram = np.array([[1.0, 0.999, 0.0], [0.999, 1.0, 0.0], [0.0, 0.0, 1.0]])
    weights = np.array([[3.0], [3.1], [4.0]])
    mask = alps.support(gram, weights, 2)
    assert mask[2, 0] and mask.sum() == 2
    assert not alps.support(gram, weights, 1)[2, 0]
    by_magnitude = ranking.keep_highest(np.abs(weights), 2)
    assert by_magnitude[2, 0]


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(4))
def test_it_beats_magnitude_on_correlated_inputs(sparsity, seed):
    gram, weights = _correlated(seed=seed)
    removed = ranking.removed_count(weights.size, sparsity)
    mask = alps.support(gram, weights, weights.size - removed)
    assert np.count_nonzero(~mask) == removed
    by_magnitude = ranking.keep_highest(np.abs(weights), removed)
    assert _error(gram, weights, mask) < 0.9 * _error(
        gram, weights, by_magnitude
    )


def test_every_count_is_exact():
    gram, weights = _correlated(inputs=8, outputs=3)
    for kept in range(1, 25):
        assert np.count_nonzero(alps.support(gram, weights, kept)) == kept
        found = alps.magnitudes(gram, weights, kept)
        np.testing.assert_array_equal(
            alps.support(gram, weights, kept),
            ranking.keep_highest(found, 24 - kept),
        )


def test_among_equals_the_lower_index_stays():
    for weights in (np.zeros((2, 3)), np.ones((2, 3))):
        mask = alps.support(np.eye(2), weights, 4)
        np.testing.assert_array_equal(mask.ravel(), [1, 1, 1, 1, 0, 0])


def test_the_scale_of_inputs_does_not_matter():
    gram, weights = _correlated()
    expected = alps.support(gram, weights, 40)
    for factor in (1e-12, 1e12):
        found = alps.support(factor * gram, weights, 40)
        np.testing.assert_array_equal(found, expected)


@pytest.fixture
def penalties(monkeypatch):
    """The penalty of each iteration: what eigenvalues are added to."""
    found, eigh = [], np.linalg.eigh

    class Watched(np.ndarray):
        def __add__(self, other):
            found.append(other)
            return np.asarray(self) + other

    def watching(hessian):
        values, vectors = eigh(hessian)
        return values.view(Watched), vectors

    monkeypatch.setattr(np.linalg, "eigh", watching)
    return found


def test_small_changes_before_any_growth_make_it_smaller(penalties):
    # One weight comes and one goes: that is below 0.005 of 500.
    weights = np.full((20, 50), 1e-3)
    weights[:10] = np.linspace(1, 2, 500).reshape(10, 50)
    weights[19, 49] = 0.6
    mask = alps.support(np.eye(20), weights, 500)
    np.testing.assert_array_equal(mask, weights >= 1)
    steps = np.divide(penalties[1:], penalties[:-1])
    assert penalties[0] == 0.1 and len(penalties) <= 300
    np.testing.assert_array_equal(np.delete(steps, np.s_[2::3]), 1.0)
    np.testing.assert_allclose(steps[2::3], 0.2)


def test_the_penalty_grows_by_how_much_changes(penalties):
    gram, weights = _correlated()
    alps.support(gram, weights, 40)
    steps = np.divide(penalties[1:], penalties[:-1])
    np.testing.assert_array_equal(np.delete(steps, np.s_[2::3]), 1.0)
    growths = steps[2::3]
    assert growths[0] == pytest.approx(1.3)
    for growth in growths:
        assert np.isclose(growth, [1.3, 1.2, 1.1]).any()


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_degenerate_inputs_give_no_nan(rows):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 12))
    x[:, 4] = 0
    gram = x.T @ x / max(rows, 1)
    weights = generator.normal(size=(12, 4))
    found = alps.magnitudes(gram, weights, 10)
    assert np.isfinite(found).all()
    mask = alps.support(gram, weights, 10)
    assert np.count_nonzero(mask) == 10
    if rows:
        assert not mask[4].any()


def test_large_kernels_are_ranked_by_sparsegpt(monkeypatch):
    gram, weights = _correlated()
    monkeypatch.setattr(alps, "_INPUTS", 8)
    monkeypatch.setattr(brain_surgeon, "_INPUTS", 8)
    expected = ranking.keep_highest(
        brain_surgeon.losses(gram, weights), weights.size - 30
    )
    np.testing.assert_array_equal(alps.support(gram, weights, 30), expected)


def test_what_is_given_stays():
    gram, weights = _correlated()
    before = gram.copy(), weights.copy()
    alps.support(gram, weights, 30)
    np.testing.assert_array_equal(gram, before[0])
    np.testing.assert_array_equal(weights, before[1])


def test_the_support_of_several_matrices_is_that_of_all_together():
    # Squared errors of leaving out: 4, 1 and 9 of the first, 36, 2 and 3 of
    # the second.
    grams = np.stack([np.diag([1.0, 1.0, 9.0]), np.diag([4.0, 2.0, 3.0])])
    weights = np.array([[2.0, 1.0, 1.0], [3.0, 1.0, 1.0]])[..., None]
    for kept, expected in (
        (2, [[False, False, True], [True, False, False]]),
        (4, [[True, False, True], [True, False, True]]),
    ):
        mask = alps.support(grams, weights, kept)
        np.testing.assert_array_equal(mask[..., 0], expected)
    problems = [_correlated(inputs=9, outputs=1, seed=s) for s in range(6)]
    grams, weights = (np.stack(parts) for parts in zip(*problems))
    # A channel that hardly speaks loses all before another loses much.
    weights[0] *= 1e-3
    mask = alps.support(grams, weights, 27)
    assert mask.sum() == 27 and not mask[0].any()
