"""How slices of a kernel are scored as a whole."""

import math

import numpy as np


def mean_square(scores: np.ndarray, axis: int) -> np.ndarray:
    """The mean square of each slice along an axis, over that of all of it.

    Of negative scores the square is taken as negative, so that slices come in
    the order of their scores.

    Args:
        scores: Array.
        axis: Integer, not negative.

    Returns:
        Float64 array, one value for each index along the axis. Their mean is 1
        unless scores are negative, or all zero.

    Example:

    >>> kprune.granularities.mean_square(np.array([[1., 3.], [-1., 3.]]), 1)
    array([0. , 1.8])

    Reference:

    - [Fang et al., 2023](https://arxiv.org/abs/2301.12900)
    """
    length = scores.shape[axis]
    outer = math.prod(scores.shape[:axis])
    block = scores.reshape(outer, length, -1)
    sizes = block
    if block.size and block.min() < 0:
        sizes = np.abs(block)
    means, weight = np.zeros(length), block.size / max(length, 1)
    if weight:
        totals = np.einsum("oci,oci->c", block, sizes, dtype=np.float64)
        means = totals / weight
        if sizes is not block:
            totals = np.einsum("oci,oci->c", sizes, sizes, dtype=np.float64)
        scale = totals.sum() / block.size
        if scale > 0:
            means /= scale
    return means
