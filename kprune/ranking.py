"""Exact counts, and picking the lowest of many numbers fast."""

import math
from collections.abc import Callable, Iterable

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


def keep_highest(
    values: np.ndarray,
    removed: int,
    score: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Masks out exactly the `removed` lowest scores.

    Among equal scores the lower flat index is kept, so that the count is
    exact whatever the ties.

    Args:
        values: Array of numbers, no nan: the scores, or what they come from.
        removed: Integer in `[0, values.size)`.
        score: Callable from some of the values, an array of rank 1, to their
            scores, none of them nan. The scores of a large array are computed
            a piece at a time, so they never fill the memory. `None` means
            that the values are the scores.

    Returns:
        Boolean array of the shape of `values`; True keeps.

    Example:

    >>> kprune.ranking.keep_highest(np.array([1, 3, 1, 2]), removed=1)
    array([ True,  True, False,  True])
    >>> kprune.ranking.keep_highest(np.array([1, -3, 2]), 1, np.abs)
    array([False,  True,  True])
    """
    flat = values.reshape(-1)
    score = score or _same
    if removed == 0:
        mask = np.ones(flat.shape, bool)
    elif flat.size < _SMALL:
        mask = _keep_by_partition(score(flat), removed)
    else:
        mask = _keep_by_bracket(flat, removed, score)
    return mask.reshape(values.shape)


def nth_lowest(parts: Callable[[], Iterable[np.ndarray]], n: int) -> np.float64:
    """The n-th lowest of all numbers in many arrays, one in memory at a time.

    By radix: each pass over the arrays finds 16 more bits of the number.

    Args:
        parts: Callable that returns an iterable of arrays of numbers without
            nan, the same at each call.
        n: Integer, counted from 1, at most the size of all arrays.

    Returns:
        Float.

    Example:

    >>> parts = [np.array([3.0, 1.0]), np.array([2.0, -5.0])]
    >>> kprune.ranking.nth_lowest(lambda: parts, 3)
    np.float64(2.0)
    """
    found = np.uint64(0)
    for shift in (48, 32, 16, 0):
        counts = np.zeros(_DIGITS, np.int64)
        for part in parts():
            flat = part.reshape(-1)
            for start in range(0, flat.size, _CHUNK):
                keys = _ordered_bits(flat[start : start + _CHUNK])
                keys >>= np.uint64(shift)
                if shift < 48:
                    keys = keys[keys >> np.uint64(16) == found]
                digits = (keys & np.uint64(_DIGITS - 1)).astype(np.intp)
                counts += np.bincount(digits, minlength=_DIGITS)
        up_to = np.cumsum(counts)
        digit = int(np.searchsorted(up_to, n))
        n -= up_to[digit] - counts[digit]
        found = found << np.uint64(16) | np.uint64(digit)
    # The inverse of `_ordered_bits`.
    is_positive = found & _SIGN
    return (found ^ (_SIGN if is_positive else ~np.uint64(0))).view(np.float64)


def _ordered_bits(numbers: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the numbers."""
    # -0.0 + 0.0 is 0.0, which is another pattern of bits.
    bits = (numbers.astype(np.float64) + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


_DIGITS = 1 << 16
_SIGN = np.uint64(1 << 63)
_CHUNK = 1 << 17  # a chunk and its comparisons stay in the cache
_SMALL = 1 << 16  # below this a plain partition is the fastest


def _keep_by_partition(flat: np.ndarray, removed: int) -> np.ndarray:
    threshold = np.partition(flat, removed - 1)[removed - 1]
    mask = flat > threshold
    tied = flat.size - removed - np.count_nonzero(mask)
    if tied:
        mask[np.flatnonzero(flat == threshold)[:tied]] = True
    return mask


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _keep_by_bracket(flat: np.ndarray, removed: int, score) -> np.ndarray:
    """As `_keep_by_partition`, in one pass and with little memory.

    As in Floyd & Rivest's SELECT a random sample brackets the threshold: what
    lies above the bracket stays, and only what lies in it is ranked. The
    result is exact: where the bracket misses, everything is ranked.
    """
    size = 2 * int(flat.size ** (2 / 3))
    chosen = np.random.default_rng(0).integers(flat.size, size=size)
    sample = np.sort(score(flat[chosen]))
    share = removed / flat.size
    margin = 3 * math.sqrt(max(share * (1 - share), 1 / size) / size)
    low = sample[max(int((share - margin) * size), 0)]
    high = sample[min(int((share + margin) * size) + 1, size - 1)]
    mask = np.empty(flat.shape, bool)
    found = []
    for start in range(0, flat.size, _CHUNK):
        chunk = score(flat[start : start + _CHUNK])
        above = np.greater(chunk, high, out=mask[start : start + _CHUNK])
        inside = np.greater(chunk >= low, above)
        found.append(np.flatnonzero(inside) + start)
    bracket = np.concatenate(found)
    kept = flat.size - removed - np.count_nonzero(mask)
    if not 0 < kept < bracket.size:
        return _keep_by_partition(score(flat), removed)
    ranked = _keep_by_partition(score(flat[bracket]), int(bracket.size - kept))
    mask[bracket[ranked]] = True
    return mask
