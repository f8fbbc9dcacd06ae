"""Removals one after the other, against solving anew after each."""

import numpy as np
import pytest

from kprune.reconstruction import brain_surgeon
from kprune.reconstruction.brain_surgeon import Surgeon, losses


def _problem(inputs=8, outputs=3, rows=50, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(inputs, inputs))
    x = generator.normal(size=(rows, inputs)) @ mixing
    return x.T @ x / rows, generator.normal(size=(inputs, outputs))


def _damped(gram):
    return gram + 0.01 * np.diagonal(gram).mean() * np.eye(len(gram))


def _optimum(hessian, weights, kept):
    """The least squared error against `weights`, and who reaches it."""
    fitted = np.zeros_like(weights)
    kept = np.flatnonzero(kept)
    fitted[kept] = np.linalg.solve(
        hessian[np.ix_(kept, kept)], (hessian @ weights)[kept]
    )
    difference = weights - fitted
    return np.vdot(difference, hessian @ difference), fitted


def _one_by_one(hessian, weights):
    """The costs of one output's weights, each removal tried out."""
    kept = np.ones(len(weights), bool)
    result = np.zeros(len(weights))
    highest = before = 0.0
    while kept.any():
        errors = np.full(len(weights), np.inf)
        for index in np.flatnonzero(kept):
            kept[index] = False
            errors[index] = _optimum(hessian, weights[:, None], kept)[0]
            kept[index] = True
        chosen = np.argmin(errors)
        highest = max(highest, errors[chosen] - before)
        result[chosen] = highest
        before = errors[chosen]
        kept[chosen] = False
    return result


def test_costs_of_two_correlated_weights():
    # H = [[1, .5], [.5, 1]], damped by .01. First goes 1, for w^2 over
    # [H^-1]_00 = 1.01 / (1.01^2 - .25); the other is 2 + .5 / 1.01 then, and
    # its cost 1.01 times its square.
    found = losses(np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[1.0], [2.0]]))
    first = (1.01**2 - 0.25) / 1.01
    second = 1.01 * (2 + 0.5 / 1.01) ** 2
    np.testing.assert_allclose(found, [[first], [second]], rtol=1e-12)


def test_a_cost_is_not_below_those_before_it():
    # Alike inputs, opposite weights: what is left of the second when the
    # first has gone is nearly nothing.
    found = losses(
        np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([[1.0], [-1.01]])
    )
    assert found[1, 0] == found[0, 0] > 0.01


@pytest.mark.parametrize("block", [1, 3, 64])
def test_costs_are_those_of_trying_each(monkeypatch, block):
    monkeypatch.setattr(brain_surgeon, "_BLOCK", block)
    gram, weights = _problem()
    expected = [_one_by_one(_damped(gram), column) for column in weights.T]
    np.testing.assert_allclose(
        losses(gram, weights), np.transpose(expected), rtol=1e-8
    )


def test_few_outputs_at_once_where_memory_is_short(monkeypatch):
    gram, weights = _problem(outputs=7)
    expected = losses(gram, weights)
    monkeypatch.setattr(brain_surgeon, "_NUMBERS", 3 * 64 * 2)
    np.testing.assert_allclose(losses(gram, weights), expected, rtol=1e-12)
    monkeypatch.setattr(brain_surgeon, "_NUMBERS", 1)
    np.testing.assert_allclose(losses(gram, weights), expected, rtol=1e-12)


def test_costs_of_several_matrices_are_those_of_each():
    grams, weights = (
        np.stack(parts) for parts in zip(_problem(seed=1), _problem(seed=2))
    )
    found = brain_surgeon.losses(grams, weights)
    for index in range(2):
        np.testing.assert_array_equal(
            found[index], brain_surgeon.losses(grams[index], weights[index])
        )


def test_of_equal_weights_the_last_goes_first():
    gram = np.array([[1.0, 0.5], [0.5, 1.0]])
    found = losses(gram, np.array([[1.0], [1.0]]))
    assert found[1, 0] < found[0, 0]


@pytest.mark.parametrize("limit", ["_INPUTS", "_WORK"])
def test_large_kernels_get_the_costs_of_sparsegpt(monkeypatch, limit):
    monkeypatch.setattr(brain_surgeon, limit, 2)
    gram, weights = _problem(inputs=5)
    hessian = _damped(gram)
    expected = [
        weights[i] ** 2 / np.linalg.inv(hessian[i:, i:])[0, 0] for i in range(5)
    ]
    np.testing.assert_allclose(losses(gram, weights), expected, rtol=1e-9)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    np.testing.assert_allclose(
        losses(gram, weights),
        weights**2 / np.diagonal(upper)[:, None] ** 2,
        rtol=1e-9,
    )


@pytest.mark.parametrize("inputs_limit", [2, 1024])
def test_dead_inputs_cost_nothing(monkeypatch, inputs_limit):
    monkeypatch.setattr(brain_surgeon, "_INPUTS", inputs_limit)
    gram, weights = _problem(inputs=4)
    wide = np.zeros((6, 6))
    live = [0, 2, 3, 5]
    wide[np.ix_(live, live)] = gram
    found = losses(wide, np.ones((6, 3)))
    np.testing.assert_array_equal(found[[1, 4]], 0)
    assert (found[live] > 0).all()
    np.testing.assert_array_equal(losses(np.zeros((6, 6)), np.ones((6, 3))), 0)
    # More inputs than rows.
    rank_one = np.ones((6, 6))
    assert np.isfinite(losses(rank_one, np.ones((6, 3)))).all()


# Groups of one size, of several sizes, some that never go, an empty one.
MEMBERS = {
    "single": [0, 1, 2, 3, 4, 5, 6, 7],
    "pairs": [0, 1, 2, 3, 0, 1, 2, 3],
    "uneven": [0, 0, 0, 1, 2, 2, 3, 3],
    "some stay": [0, -1, 1, 1, -1, 0, 2, 3],
    "an empty one": [0, 0, 1, 1, 3, 3, 3, -1],
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_surgeon_is_right_after_each_removal(name):
    members = np.array(MEMBERS[name])
    gram, weights = _problem()
    hessian = _damped(gram)
    surgeon = Surgeon(gram, weights, members)
    kept, before, gone = np.ones(8, bool), 0.0, set()
    for group in (2, 0, 3):
        expected = np.full(members.max() + 1, np.inf)
        for other in range(len(expected)):
            # A group is gone once it was removed, an empty one too.
            if (kept & (members == other)).any() or not np.isin(other, members):
                rise = _optimum(hessian, weights, kept & (members != other))[0]
                expected[other] = (rise - before) / 2
        expected[list(gone)] = np.inf
        found = surgeon.losses()
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
        loss = surgeon.remove(group)
        np.testing.assert_allclose(loss, found[group], rtol=1e-9, atol=1e-12)
        gone.add(group)
        kept &= members != group
        error, fitted = _optimum(hessian, weights, kept)
        np.testing.assert_allclose(loss, (error - before) / 2, atol=1e-9)
        np.testing.assert_allclose(surgeon.weights, fitted, atol=1e-9)
        assert not surgeon.weights[~kept].any()
        before = error


def test_a_surgeon_by_hand():
    # No correlations: nothing is made up for. H is diag(1, 2, 3) + .02.
    surgeon = Surgeon(
        np.diag([1.0, 2.0, 3.0]),
        np.array([[1.0, 1.0], [2.0, 0.0], [1.0, 3.0]]),
        np.array([1, 0, 1]),
    )
    # 1/2 (4 * 2.02) and 1/2 (2 * 1.02 + 10 * 3.02).
    np.testing.assert_allclose(surgeon.losses(), [4.04, 16.12], rtol=1e-12)
    assert surgeon.remove(1) == pytest.approx(16.12, rel=1e-12)
    np.testing.assert_array_equal(surgeon.weights, [[0, 0], [2, 0], [0, 0]])
    np.testing.assert_allclose(surgeon.losses(), [4.04, np.inf], rtol=1e-12)


def test_a_surgeon_that_removes_all():
    gram, weights = _problem()
    surgeon = Surgeon(gram, weights, np.arange(8) // 2)
    total = sum(surgeon.remove(group) for group in range(4))
    assert not surgeon.weights.any()
    assert np.isinf(surgeon.losses()).all()
    expected = np.vdot(weights, _damped(gram) @ weights) / 2
    assert total == pytest.approx(expected, rel=1e-9)


def test_a_surgeon_leaves_dead_inputs_alone():
    gram, weights = _problem(inputs=4)
    wide, kernel = np.zeros((6, 6)), np.ones((6, 3))
    live = [0, 2, 3, 5]
    wide[np.ix_(live, live)] = gram
    kernel[live] = weights
    # Group 0 is dead as a whole, group 1 in part.
    surgeon = Surgeon(wide, kernel, np.array([1, 0, 1, 2, 1, 2]))
    found = surgeon.losses()
    assert found[0] == 0 and found[1] > 0
    assert surgeon.remove(2) == pytest.approx(found[2], rel=1e-12)
    np.testing.assert_array_equal(surgeon.weights[[1, 4]], 1)
    assert surgeon.remove(0) == 0
    np.testing.assert_array_equal(surgeon.weights[[1, 4], 0], [0, 1])
    empty = Surgeon(np.zeros((6, 6)), kernel, np.arange(6))
    np.testing.assert_array_equal(empty.losses(), 0)
    assert empty.remove(3) == 0 and np.isfinite(empty.weights).all()


def test_a_surgeon_of_no_groups():
    gram, weights = _problem()
    surgeon = Surgeon(gram, weights, np.full(8, -1))
    assert surgeon.losses().shape == (0,)
    np.testing.assert_array_equal(surgeon.weights, weights)


def test_rank_deficient_moments_give_finite_repairs():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(5, 72))
    weights = generator.normal(size=(72, 4))
    surgeon = Surgeon(x.T @ x / 5, weights, np.arange(72) % 8)
    for _ in range(7):
        surgeon.remove(int(np.argmin(surgeon.losses())))
    assert np.isfinite(surgeon.weights).all()
    assert np.count_nonzero(surgeon.weights.any(axis=1)) == 9
    assert np.isfinite(surgeon.losses()).sum() == 1


def test_what_is_given_stays():
    gram, weights = _problem()
    before = gram.copy(), weights.copy()
    losses(gram, weights)
    Surgeon(gram, weights, np.arange(8)).remove(3)
    np.testing.assert_array_equal(gram, before[0])
    np.testing.assert_array_equal(weights, before[1])
