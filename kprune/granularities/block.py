"""Blocks of neighbouring weights."""

import dataclasses

import numpy as np

from kprune.granularities.savable import Savable, positive, register
from kprune.ranking import keep_highest, removed_count


@register
@dataclasses.dataclass(frozen=True)
class Block(Savable):
    """Whole blocks of neighbouring weights go.

    The shape lies on the last axes of the scores: `(4, 1)` is 4 inputs by 1
    output in a Dense and in every pixel of a convolution. A block is scored by
    the mean of its scores. A block that overhangs the edge has only the
    weights inside, and its mean is over those. The count is in blocks:
    `floor(blocks * sparsity)` go, so a kernel with cut blocks can end a little
    above or below the sparsity.

    Args:
        shape: Tuple of positive integers, no longer than the kernel's rank.

    Example:

    >>> scores = np.array([[1., 1., 5.], [1., 1., 5.]])
    >>> kprune.granularities.Block((2, 2))(scores, 0.5)
    array([[False, False,  True],
           [False, False,  True]])

    Reference:

    - [Narang et al., 2017](https://arxiv.org/abs/1711.02782)
    """

    shape: tuple = (4, 1)

    def __post_init__(self):
        if not isinstance(self.shape, (tuple, list)) or not self.shape:
            raise ValueError(
                "`shape` must be a tuple of positive integers. "
                f"Received: shape={self.shape!r}"
            )
        shape = tuple(positive("shape", size) for size in self.shape)
        object.__setattr__(self, "shape", shape)

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        if len(self.shape) > scores.ndim:
            raise ValueError(
                f"`Block(shape={self.shape})` has more axes than the kernel "
                f"of shape {scores.shape}. Give a shape for its last axes, "
                f"such as `Block({self.shape[-scores.ndim :]})`."
            )
        block = (1,) * (scores.ndim - len(self.shape)) + self.shape
        totals = scores.astype(np.float64)
        counts = np.ones((1,) * scores.ndim)
        for axis, (length, size) in enumerate(zip(scores.shape, block)):
            starts = np.arange(0, length, size)
            totals = np.add.reduceat(totals, starts, axis=axis)
            along = [1] * scores.ndim
            along[axis] = len(starts)
            widths = np.minimum(starts + size, length) - starts
            counts = counts * widths.reshape(along)
        means = totals / counts
        mask = keep_highest(means, removed_count(means.size, sparsity))
        for axis, (length, size) in enumerate(zip(scores.shape, block)):
            mask = np.take(mask, np.arange(length) // size, axis=axis)
        return mask

    def get_config(self) -> dict:
        """Returns the arguments of the constructor as a dict."""
        return {"shape": list(self.shape)}
