"""Exact counts, and picking the lowest of many numbers fast."""

import math

import numpy as np


def removed_count(size: int, sparsity: float) -> int:
    """How many of `size` items go: `floor(size * sparsity)`, one stays.

    The product is rounded to six digits first, so that the floor does not see
    the error of a binary fraction: 0.29 of 100 is 29.

    Args:
        size: Integer. The number of items.
        sparsity: Float in `[0, 1)`.

    Returns:
        Integer in `[0, size)`, or 0 where there are no items.

    Example:

    >>> kprune.ranking.removed_count(100, 0.29)
    29
    """
    return max(min(math.floor(round(size * sparsity, 6)), size - 1), 0)


def keep_highest(scores: np.ndarray, removed: int) -> np.ndarray:
    """Masks out exactly the `removed` lowest scores.

    Among equal scores the lower flat index is kept, so that the count is
    exact whatever the ties.

    Args:
        scores: Array of numbers, no nan.
        removed: Integer in `[0, scores.size)`.

    Returns:
        Boolean array of the shape of `scores`; True keeps.

    Example:

    >>> kprune.ranking.keep_highest(np.array([1, 3, 1, 2]), removed=1)
    array([ True,  True, False,  True])
    """
    if removed == 0:
        return np.ones(scores.shape, bool)
    flat = scores.reshape(-1)
    threshold = _nth_lowest(flat, removed - 1)
    mask = flat > threshold
    tied = flat.size - removed - np.count_nonzero(mask)
    if tied:
        mask[np.flatnonzero(flat == threshold)[:tied]] = True
    return mask.reshape(scores.shape)


_CHUNK = 1 << 17  # a chunk and its comparisons stay in the cache
_SMALL = 1 << 16  # below this a plain partition is the fastest


def _nth_lowest(flat: np.ndarray, n: int):
    """The value that index `n` would have if `flat` were sorted.

    As in Floyd & Rivest's SELECT a random sample brackets the value; one pass
    counts what lies below the bracket and gathers what lies in it. The result
    is exact: where the bracket misses, the whole array is partitioned.
    """
    if flat.size < _SMALL:
        return np.partition(flat, n)[n]
    size = int(flat.size ** (2 / 3))
    chosen = np.random.default_rng(0).integers(flat.size, size=size)
    sample = np.sort(flat[chosen])
    share = n / flat.size
    margin = 4 * math.sqrt(max(share * (1 - share), 1 / size) / size)
    low = sample[max(int((share - margin) * size), 0)]
    high = sample[min(int((share + margin) * size) + 1, size - 1)]
    below = 0
    bracket = []
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        is_below = chunk < low
        below += np.count_nonzero(is_below)
        inside = np.greater(chunk <= high, is_below)
        bracket.append(chunk[np.flatnonzero(inside)])
    bracket = np.concatenate(bracket)
    if below <= n < below + bracket.size:
        return np.partition(bracket, n - below)[n - below]
    return np.partition(flat, n)[n]
