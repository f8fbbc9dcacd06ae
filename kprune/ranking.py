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
    flat = scores.reshape(-1)
    if removed == 0:
        mask = np.ones(flat.shape, bool)
    elif flat.size < _SMALL:
        mask = _keep_by_partition(flat, removed)
    else:
        mask = _keep_by_bracket(flat, removed)
    return mask.reshape(scores.shape)


_CHUNK = 1 << 17  # a chunk and its comparisons stay in the cache
_SMALL = 1 << 16  # below this a plain partition is the fastest


def _keep_by_partition(flat: np.ndarray, removed: int) -> np.ndarray:
    threshold = np.partition(flat, removed - 1)[removed - 1]
    mask = flat > threshold
    tied = flat.size - removed - np.count_nonzero(mask)
    if tied:
        mask[np.flatnonzero(flat == threshold)[:tied]] = True
    return mask


def _keep_by_bracket(flat: np.ndarray, removed: int) -> np.ndarray:
    """As `_keep_by_partition`, in one pass and with little memory.

    As in Floyd & Rivest's SELECT a random sample brackets the threshold: what
    lies above the bracket stays, and only what lies in it is ranked. The
    result is exact: where the bracket misses, everything is ranked.
    """
    size = 2 * int(flat.size ** (2 / 3))
    chosen = np.random.default_rng(0).integers(flat.size, size=size)
    sample = np.sort(flat[chosen])
    share = removed / flat.size
    margin = 3 * math.sqrt(max(share * (1 - share), 1 / size) / size)
    low = sample[max(int((share - margin) * size), 0)]
    high = sample[min(int((share + margin) * size) + 1, size - 1)]
    mask = np.empty(flat.shape, bool)
    bracket = []
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        above = np.greater(chunk, high, out=mask[start : start + _CHUNK])
        inside = np.greater(chunk >= low, above)
        bracket.append(np.flatnonzero(inside) + start)
    bracket = np.concatenate(bracket)
    kept = flat.size - removed - np.count_nonzero(mask)
    if not 0 < kept < bracket.size:
        return _keep_by_partition(flat, removed)
    ranked = _keep_by_partition(flat[bracket], bracket.size - kept)
    mask[bracket[ranked]] = True
    return mask
