"""At most n of every m weights."""

import dataclasses

import numpy as np

from kprune.granularities.savable import Savable, positive, register


@register
@dataclasses.dataclass(frozen=True)
class NM(Savable):
    """At most `n` of every `m` consecutive weights along the input axis stay.

    The input axis is the last but one: the inputs of a Dense, the input
    channels of a convolution. Where `m` does not divide its length `l`, the
    last group has `l % m` weights and keeps at most `n` of them, as if it were
    filled up with zeros. Ties keep the lower index.

    The sparsity is fixed by the pattern, `1 - n / m`: the mask keeps all until
    the schedule asks for at least that much, and then follows the pattern.

    Args:
        n: Positive integer, less than `m`. The weights that stay in a group.
        m: Integer. The size of a group.

    Example:

    >>> kernel_scores = np.array([[1.], [4.], [2.], [3.]])
    >>> kprune.granularities.NM(2, 4)(kernel_scores, 0.5).ravel()
    array([False,  True, False,  True])
    >>> kprune.granularities.NM(2, 4)(kernel_scores, 0.4).ravel()
    array([ True,  True,  True,  True])

    Reference:

    - [Zhou et al., 2021](https://arxiv.org/abs/2102.04010)
    """

    n: int = 2
    m: int = 4

    def __post_init__(self):
        if positive("n", self.n) >= positive("m", self.m):
            raise ValueError(
                "`NM(n, m)` keeps n of every m weights, so n must be less "
                f"than m. Received: n={self.n!r}, m={self.m!r}"
            )

    @property
    def sparsity(self) -> float:
        """Float. The fraction of zeros of the pattern."""
        return 1 - self.n / self.m

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        if sparsity < self.sparsity - 1e-9:
            return np.ones(scores.shape, bool)
        axis = max(scores.ndim - 2, 0)
        columns = np.moveaxis(scores, axis, -1)
        length = columns.shape[-1]
        padding = [(0, 0)] * (columns.ndim - 1) + [(0, -length % self.m)]
        padded = np.pad(
            columns.astype(np.float64), padding, constant_values=-np.inf
        )
        groups = padded.reshape(*padded.shape[:-1], -1, self.m)
        order = np.argsort(-groups, axis=-1, kind="stable")
        mask = np.zeros(groups.shape, bool)
        np.put_along_axis(mask, order[..., : self.n], True, axis=-1)
        mask = mask.reshape(padded.shape)[..., :length]
        return np.ascontiguousarray(np.moveaxis(mask, -1, axis))
