"""Exact ranks, in one array and over many."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from kprune import ranking

# Few values, so that there are ties; both zeros; and any bits at all.
NUMBERS = strategies.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, 1e-40, np.inf])
NUMBERS |= strategies.floats(allow_nan=False, width=32)


@hypothesis.given(
    strategies.lists(
        strategies.lists(NUMBERS, max_size=6), min_size=1, max_size=4
    ).filter(any),
    strategies.randoms(use_true_random=False),
    strategies.sampled_from(["float16", "float32", "float64"]),
)
@hypothesis.settings(deadline=None)
@pytest.mark.filterwarnings("ignore:overflow")
def test_the_nth_of_many_arrays_is_that_of_all(lists, random, dtype):
    parts = [np.array(numbers, dtype) for numbers in lists]
    ordered = np.sort(np.concatenate(parts))
    n = random.randint(1, ordered.size)
    assert ranking.nth_lowest(lambda: iter(parts), n) == ordered[n - 1]


def test_the_nth_of_more_than_a_chunk():
    generator = np.random.default_rng(0)
    parts = [
        generator.normal(size=(3, ranking._CHUNK)).astype("float32"),
        np.zeros(ranking._CHUNK + 7, "float32"),
        generator.integers(-5, 5, 100),
    ]
    ordered = np.sort(np.concatenate([np.ravel(part) for part in parts]))
    for n in (1, 1000, ordered.size // 2, ordered.size - 1, ordered.size):
        assert ranking.nth_lowest(lambda: parts, n) == ordered[n - 1]


@pytest.mark.parametrize("decimals", [0, 9])
@pytest.mark.parametrize("share", [0, 0.5, 0.8, 1])
def test_scores_of_a_piece_at_a_time_give_the_same_mask(share, decimals):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, ranking._CHUNK)).round(decimals)
    removed = min(max(int(share * values.size), 1), values.size - 1)
    mask = ranking.keep_highest(values, removed, np.abs)
    expected = ranking.keep_highest(np.abs(values), removed)
    np.testing.assert_array_equal(mask, expected)
    assert np.count_nonzero(~mask) == removed


def test_the_scores_of_a_large_array_are_never_all_in_memory():
    values = np.random.default_rng(0).normal(size=5 * ranking._CHUNK + 3)
    sizes = []

    def score(part):
        sizes.append(part.size)
        return np.abs(part)

    ranking.keep_highest(values, values.size // 2, score)
    assert sum(sizes) > values.size
    assert max(sizes) <= ranking._CHUNK
