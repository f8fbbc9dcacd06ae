"""Single weights."""

import dataclasses
from collections.abc import Callable

import numpy as np

from kprune.granularities.savable import Savable, register
from kprune.ranking import keep_highest, removed_count


@register
@dataclasses.dataclass(frozen=True)
class Unstructured(Savable):
    """Single weights go, wherever they are.

    Of a kernel of n weights the `floor(n * sparsity)` with the lowest scores
    go. This shrinks files; it does not make a dense kernel faster.

    Args:
        per_output: Boolean. Whether weights are compared with those of the
            same output only: of an output of n weights `floor(n * sparsity)`
            go. Wanda compares so.

    Example:

    >>> scores = np.array([[3., 1.], [2., 0.]])
    >>> kprune.granularities.Unstructured()(scores, 0.5)
    array([[ True, False],
           [ True, False]])
    >>> kprune.granularities.Unstructured(per_output=True)(scores, 0.5)
    array([[ True,  True],
           [False, False]])

    Reference:

    - [Sun et al., 2023](https://arxiv.org/abs/2306.11695), for `per_output`
    """

    per_output: bool = False

    def __post_init__(self):
        if not isinstance(self.per_output, bool):
            raise ValueError(
                "`per_output` must be True or False. "
                f"Received: per_output={self.per_output!r}"
            )

    def __call__(
        self,
        scores: np.ndarray,
        sparsity: float,
        *,
        outputs_last: Callable[[np.ndarray], np.ndarray] | None = None,
        score: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        if not self.per_output:
            removed = removed_count(scores.size, sparsity)
            return keep_highest(scores, removed, score)
        places: np.ndarray = np.arange(scores.size).reshape(scores.shape)
        if outputs_last is not None:
            places = outputs_last(places)
        places = places.reshape(-1, places.shape[-1])
        if score is not None:
            scores = score(scores)
        by_output = scores.reshape(-1)[places].astype(np.float64)
        kept = len(places) - removed_count(len(places), sparsity)
        best_first = np.argsort(-by_output, axis=0, kind="stable")
        mask = np.zeros(scores.size, bool)
        mask[np.take_along_axis(places, best_first[:kept], axis=0)] = True
        return mask.reshape(scores.shape)
