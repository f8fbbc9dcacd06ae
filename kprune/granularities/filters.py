"""Whole output channels."""

import dataclasses
import math
import warnings
from typing import ClassVar, Self

import numpy as np

from kprune.granularities.pooling import mean_square
from kprune.granularities.savable import Savable, positive, register
from kprune.ranking import keep_highest, removed_count


@register
@dataclasses.dataclass(frozen=True)
class Filter(Savable):
    """Whole output channels go: filters of a convolution, units of a Dense.

    Called with the scores of one kernel it pools them over all axes but the
    last. In a model whose graph can be read `kprune.prune` scores and masks
    *groups* instead: a filter together with every slice that has to go with it
    (see `kprune.structure`). The score of a group is the mean over its members,
    the kernels that have slices of it, of the mean square of the slice over
    that of the whole kernel: so it does not grow with the number of members,
    of positions or of weights, nor with the scale of a kernel.

    Args:
        multiple_of: Positive integer. The number of channels that are kept is
            rounded up to a multiple of it. One channel past the width of the
            kernel's tile is slow: in LiteRT 65 channels were seen to take 1.5
            times as long as 64, in int8 1.4 times, and 60 hardly less. 8
            suits float32 on ARM, 16 int8, and float32 on x86 CPUs with
            AVX-512.

    Example:

    >>> scores = np.array([[3., 1., 2.], [3., 1., 2.]])
    >>> kprune.granularities.Filter()(scores, 0.34)
    array([[ True, False,  True],
           [ True, False,  True]])

    Reference:

    - [Li et al., 2016](https://arxiv.org/abs/1608.08710)
    - [Fang et al., 2023](https://arxiv.org/abs/2301.12900), for groups
    """

    whole_groups: ClassVar[bool] = True
    multiple_of: int = 1

    def __post_init__(self):
        positive("multiple_of", self.multiple_of)

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        pooled = self.pool(scores, scores.ndim - 1)
        mask = keep_highest(pooled, self.removed_count(pooled.size, sparsity))
        return np.broadcast_to(mask, scores.shape).copy()

    def removed_count(self, size: int, sparsity: float) -> int:
        """How many of `size` channels go after rounding.

        Args:
            size: Integer. The number of channels.
            sparsity: Float in `[0, 1)`.

        Returns:
            Integer in `[0, size)`.
        """
        kept = size - removed_count(size, sparsity)
        kept = math.ceil(kept / self.multiple_of) * self.multiple_of
        return max(size - kept, 0)

    def pool(self, scores: np.ndarray, axis: int) -> np.ndarray:
        """The mean square of each slice, see `mean_square`."""
        return mean_square(scores, axis)

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """Returns the granularity that `get_config` describes."""
        config = dict(config)
        # Files of version 0.1 have it here.
        if config.pop("pad_layer_norm", False):
            warnings.warn(
                "`pad_layer_norm` is an option of the model's pruning now: "
                "`kprune.prune(model, ..., pad_layer_norm=True)`, and of "
                "`kprune.PruningScheduler`.",
                stacklevel=2,
            )
        return cls(**config)
