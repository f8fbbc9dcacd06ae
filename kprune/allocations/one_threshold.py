"""One threshold over all layers."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from kprune.ranking import keep_highest, nth_lowest, removed_count
from kprune.weights import to_numpy


@dataclasses.dataclass(frozen=True)
class Global:
    """One threshold over all layers: weak layers lose more than strong ones.

    The scores of all kernels are ranked together. The layers' sparsities are
    the shares that fall below the one threshold, so over all the weights the
    sparsity is the one asked for (in a layer with several kernels each of them
    rounds down). No layer is emptied: the highest score of every kernel is
    left out of the ranking, and what it saves is taken from the others.

    Where whole groups of filters go, these are ranked: of all filters that can
    go the sparsity goes. Of each class of groups, those that come from the
    same layers, and of each branch behind a split at least one group stays.

    The scores are those of the criterion that the pruning uses. Called by hand
    without any it ranks by magnitude.

    Args:
        normalize: How the scores of groups are made comparable, class by
            class: `"mean"`, `"max"` or `"l2"` divide by the mean or the
            highest absolute value or by the Euclidean norm, `"standard"`
            subtracts the mean and divides by the standard deviation, `None`
            takes them as they are. Scores of weights stay as they are.
        per_mac: Boolean. Whether the score of a group counts per
            multiply-accumulate that its removal saves, so that what is costly
            goes first.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     kprune.PrunableDense(4, kernel_initializer="ones"),
    ...     kprune.PrunableDense(4, kernel_initializer="zeros"),
    ... ])
    >>> kprune.allocations.Global()(model.layers, 0.25)
    [0.0, 0.5]

    Reference:

    - [Blalock et al., 2020](https://arxiv.org/abs/2003.03033)
    - [Fang et al., 2023](https://arxiv.org/abs/2301.12900), for groups
    - [Molchanov et al., 2016](https://arxiv.org/abs/1611.06440), for `"l2"`
      and for scores per operation
    - [An et al., 2023](https://arxiv.org/abs/2312.11983), for `"standard"`
    """

    normalize: str | None = "mean"
    per_mac: bool = False

    def __post_init__(self):
        if self.normalize not in list(_NORMALIZERS):
            raise ValueError(
                f"`normalize` must be one of {list(_NORMALIZERS)}. "
                f"Received: normalize={self.normalize!r}"
            )
        if not isinstance(self.per_mac, bool):
            raise ValueError(
                "`per_mac` must be True or False. "
                f"Received: per_mac={self.per_mac!r}"
            )

    def __call__(
        self,
        layers: Sequence,
        sparsity: float,
        *,
        scores: Sequence[Iterable[np.ndarray]] | None = None,
    ) -> list[float]:
        if scores is None:
            scores = magnitudes(layers)
        return shares(layers, sparsity, scores)

    def over_groups(
        self,
        scores: Sequence[np.ndarray],
        sparsity: float,
        *,
        least: Sequence[int],
        macs: Sequence[float],
    ) -> list[float]:
        """Shares a sparsity out over classes of groups.

        Args:
            scores: Sequence of arrays: of each class the score of each filter;
                -inf for one that is gone already or that nothing reads.
            sparsity: Float in `[0, 1)`.
            least: Sequence of integers: how many of each class have to stay.
            macs: Sequence of floats, read when they are needed: what the
                removal of one filter of each class saves.

        Returns:
            List of floats, one for each class.
        """
        ranked = []
        for index, of_class in enumerate(scores):
            found = self._normalized(of_class)
            if self.per_mac:
                # A negative score gets lower, too, by more that is saved.
                saved = macs[index]
                found = np.where(found < 0, found * saved, found / saved)
            best_first = np.argsort(-found, kind="stable")
            found[best_first[: least[index]]] = np.inf
            ranked.append(found)
        sizes = [len(of_class) for of_class in ranked]
        together = np.concatenate([np.empty(0), *ranked])
        removed = min(
            removed_count(len(together), sparsity), sum(sizes) - sum(least)
        )
        gone = ~keep_highest(together, removed)
        starts = np.cumsum([0, *sizes[:-1]])
        return [
            float(np.mean(gone[start : start + size]))
            for start, size in zip(starts, sizes)
        ]

    def _normalized(self, scores) -> np.ndarray:
        counts = np.isfinite(scores)
        found = np.array(scores, np.float64)
        if counts.any():
            shift, scale = _NORMALIZERS[self.normalize](found[counts])
            found = (found - shift) / (scale or 1.0)
        return found


# From scores to what is subtracted of them, and what they are divided by.
_NORMALIZERS: dict[str | None, Callable[[np.ndarray], tuple]] = {
    "mean": lambda scores: (0.0, np.abs(scores).mean()),
    "max": lambda scores: (0.0, np.abs(scores).max()),
    "l2": lambda scores: (0.0, np.linalg.norm(scores)),
    "standard": lambda scores: (scores.mean(), scores.std()),
    None: lambda scores: (0.0, 1.0),
}


def magnitudes(layers: Sequence) -> list[list[np.ndarray]]:
    """The absolute values of the kernels of each layer."""
    return [
        [np.abs(to_numpy(kernel)) for kernel in layer.kernels.values()]
        for layer in layers
    ]


def shares(
    layers: Sequence,
    sparsity: float,
    scores: Sequence[Iterable[np.ndarray]],
) -> list[float]:
    """The share of each layer that one threshold over all scores removes.

    The highest score of each kernel stays.

    Args:
        layers: Sequence of prunable layers.
        sparsity: Float in `[0, 1)`.
        scores: Sequence, one item a layer: an iterable of the scores of each
            of its kernels. They are read several times.

    Returns:
        List of floats, one per layer.
    """
    kernels = [list(layer.kernels.values()) for layer in layers]
    sizes = np.array(
        [sum(math.prod(k.shape) for k in of_layer) for of_layer in kernels]
    )
    total = math.floor(round(sizes.sum() * sparsity, 6))
    total = min(total, sizes.sum() - sum(map(len, kernels)))
    if total == 0:
        return [0.0] * len(layers)
    # Scores are computed again at each pass: those of a large model do
    # not fit beside it.
    threshold = nth_lowest(
        lambda: map(_highest_to_inf, itertools.chain(*scores)), total
    )
    removed, tied = np.zeros((2, len(layers)), np.int64)
    for index, of_layer in enumerate(scores):
        for of_kernel in map(_highest_to_inf, of_layer):
            removed[index] += np.count_nonzero(of_kernel < threshold)
            tied[index] += np.count_nonzero(of_kernel == threshold)
    missing = total - removed.sum()
    # Of equal scores the later ones go, as within a mask.
    for index in reversed(range(len(layers))):
        taken = min(tied[index], missing)
        removed[index] += taken
        missing -= taken
    return [float(share) for share in removed / sizes]


def _highest_to_inf(scores) -> np.ndarray:
    """The scores of a kernel in one row, the highest lifted to inf."""
    scores = np.ravel(scores)
    # A copy, which can be written to and has room for inf.
    dtype = np.float64 if scores.dtype.kind in "biu" else scores.dtype
    scores = np.array(scores, dtype)
    scores[np.argmax(scores)] = np.inf
    return scores
