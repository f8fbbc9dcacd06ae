"""One threshold over all layers."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from kprune.ranking import nth_lowest
from kprune.weights import to_numpy


@dataclasses.dataclass(frozen=True)
class Global:
    """One threshold over all layers: weak layers lose more than strong ones.

    The scores of all kernels are ranked together. The layers' sparsities are
    the shares that fall below the one threshold, so over all the weights the
    sparsity is the one asked for (in a layer with several kernels each of them
    rounds down). No layer is emptied: the highest score of every kernel is
    left out of the ranking, and what it saves is taken from the others.

    The scores are those of the criterion that the pruning uses. Called by hand
    without any it ranks by magnitude.

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
    """

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
