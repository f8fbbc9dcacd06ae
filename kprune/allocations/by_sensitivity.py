"""Sparsities by what the model's score loses, as it was measured."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kprune.ranking import removed_count

# Into how many pieces the weights of a layer are split: as fine as losses are
# told apart.
_PIECES = 1000


@dataclasses.dataclass(frozen=True)
class BySensitivity:
    """Layers lose until the score would lose the same by any of them.

    Each layer has a curve: what the score of the model lost when that layer
    alone lost so much, as `kprune.sensitivity` measured it. One threshold goes
    over all curves, such that over all the weights the sparsity is the one
    asked for; of whole filters exactly that many go. Between the sparsities
    that were measured the curves are straight, they never fall, and where all
    of a layer is gone the loss is the highest that was measured anywhere.
    Layers of equal losses lose the same share.

    What was not measured loses the sparsity itself.

    Args:
        sensitivity: What `kprune.sensitivity` returns. Measured on whole
            filters it counts where whole filters go, measured on single
            weights where these do.

    Raises:
        ValueError: If it is something else; when it is called, if none of the
            layers was measured.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     kprune.PrunableDense(4, use_bias=False, name="first"),
    ...     kprune.PrunableDense(4, use_bias=False, name="second"),
    ... ])
    >>> def score(model):  # The second layer matters twice as much.
    ...     first, second = (layer.sparsity for layer in model.layers)
    ...     return 1.0 - first - 2 * second
    >>> found = kprune.sensitivity(model, score, sparsities=[0.5])
    >>> model = kprune.prune(model, 0.375, allocation=found.allocation())
    >>> [layer.sparsity for layer in model.layers]
    [0.5, 0.25]

    Reference:

    - [Li et al., 2017](https://arxiv.org/abs/1608.08710), for the curves
    """

    sensitivity: Any

    def __post_init__(self):
        needed = ("dense", "filters", "scores")
        if not all(hasattr(self.sensitivity, name) for name in needed):
            raise ValueError(
                "`BySensitivity` takes what `kprune.sensitivity(model, score)` "
                f"returns. Received: {self.sensitivity!r}"
            )

    def __call__(self, layers: Sequence, sparsity: float) -> list[float]:
        kernels = [list(layer.kernels.values()) for layer in layers]
        return self._share_out(
            [[layer] for layer in layers],
            [sum(math.prod(k.shape) for k in of_layer) for of_layer in kernels],
            # Of each kernel one weight stays.
            [len(of_layer) for of_layer in kernels],
            sparsity,
            in_filters=False,
        )

    def over_groups(
        self,
        scores: Sequence[np.ndarray],
        sparsity: float,
        *,
        makers: Sequence[Sequence],
        least: Sequence[int],
    ) -> list[float]:
        """Shares a sparsity out over classes of groups.

        Args:
            scores: Sequence of arrays: of each class one score a filter, of
                which only the number counts.
            sparsity: Float in `[0, 1)`.
            makers: Sequence of sequences: the layers that make each class.
            least: Sequence of integers: how many of each class have to stay.

        Returns:
            List of floats, one for each class.
        """
        sizes = [len(of_class) for of_class in scores]
        return self._share_out(makers, sizes, least, sparsity, in_filters=True)

    def _share_out(
        self, makers, sizes, least, sparsity, *, in_filters
    ) -> list[float]:
        names = [name_of(layers) for layers in makers]
        measured = [
            name
            for name in self.sensitivity.scores
            if (name in self.sensitivity.filters) == in_filters
        ]
        which = [i for i, name in enumerate(names) if name in measured]
        if names and not which:
            shape = "whole filters" if in_filters else "single weights"
            raise ValueError(
                f"The sensitivity was measured for {shape} of the layers "
                f"{measured}, and {shape} go of none of these. Measure it on "
                "this model and with the granularity that it is pruned with. "
                f"Received: the layers {names}"
            )
        found = [sparsity] * len(names)
        shares = levelled(
            [self._curve(names[index]) for index in which],
            [sizes[index] for index in which],
            [least[index] for index in which],
            sparsity,
            None if in_filters else _PIECES,
        )
        for index, share in zip(which, shares):
            found[index] = share
        return found

    def _curve(self, name) -> tuple[np.ndarray, np.ndarray]:
        """Sparsities from 0 to 1, and what the score loses at each."""
        dense, scores = self.sensitivity.dense, self.sensitivity.scores
        worst = max(dense - min(row.values()) for row in scores.values())
        points = sorted(scores[name].items())
        losses = [0.0, *(dense - score for _, score in points), worst]
        sparsities = [0.0, *(sparsity for sparsity, _ in points), 1.0]
        return np.array(sparsities), np.maximum.accumulate(losses)


def name_of(makers: Iterable) -> str:
    """What layers are called that lose their filters together.

    Args:
        makers: Iterable of layers.

    Returns:
        String.
    """
    return " and ".join(dict.fromkeys(layer.name for layer in makers))


def levelled(
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    sizes: Sequence[int],
    least: Sequence[int],
    sparsity: float,
    most: int | None = None,
) -> list[float]:
    """The shares of some parts that one threshold over their losses removes.

    Args:
        curves: Sequence of tuples: sparsities, and the loss at each.
        sizes: Sequence of integers: what each part counts.
        least: Sequence of integers: how much of each has to stay.
        sparsity: Float in `[0, 1)`, over all of them.
        most: Integer: into how many pieces a part is split at most; `None`
            splits it into what it counts, so that whole ones go.

    Returns:
        List of floats, one for each part.
    """
    wanted = removed_count(sum(sizes), sparsity) if sizes else 0
    rooms = [size - stays for size, stays in zip(sizes, least)]
    # What goes piece by piece: in the order of the losses, of equal ones the
    # smaller share first.
    pieces, shares, losses = [], [], []
    for (at, lost), size, room in zip(curves, sizes, rooms):
        count = max(min(room, most or room), 0)
        share = np.arange(1, count + 1) * room / max(count * size, 1)
        pieces.append(np.full(count, room / max(count, 1)))
        shares.append(share)
        losses.append(np.interp(share, at, lost))
    part = np.repeat(np.arange(len(sizes)), [len(row) for row in pieces])
    order = np.lexsort((_joined(shares), _joined(losses)))
    amounts = _joined(pieces)[order]
    before = np.cumsum(amounts) - amounts
    gone = np.clip(wanted - before, 0.0, amounts)
    removed = np.bincount(part[order], gone, minlength=len(sizes))
    return [float(count / size) for count, size in zip(removed, sizes)]


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0), *rows])
