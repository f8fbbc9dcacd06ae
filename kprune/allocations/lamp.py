"""LAMP: one threshold over scores that are relative to their kernel."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from kprune.allocations.one_threshold import magnitudes, shares


@dataclasses.dataclass(frozen=True)
class Lamp:
    """One threshold over all layers, of scores relative to what is left.

    The square of each score is divided by the sum of the squares that are not
    lower within its kernel: by how much the kernel would change if the weight
    went, measured by what is still there at that point. So layers are compared
    whatever their scale, and as `Global` does it keeps the highest weight of
    each kernel and meets the sparsity over all the weights.

    The scores are those of the criterion that the pruning uses. Called by hand
    without any it takes magnitudes, as the paper does. Negative scores come
    below all others, in their order.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((1,)), kprune.PrunableDense(4), kprune.PrunableDense(1),
    ... ])
    >>> first, second = (layer.layer for layer in model.layers)
    >>> first.set_weights([np.array([[1., 2., 3., 4.]]), np.zeros(4)])
    >>> second.set_weights([np.full((4, 1), 0.1), np.zeros(1)])
    >>> kprune.allocations.Lamp()(model.layers, 0.25)
    [0.5, 0.0]

    Reference:

    - [Lee et al., 2021](https://arxiv.org/abs/2010.07611)
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
        return shares(layers, sparsity, _Relative(scores))


class _Relative(Sequence[Iterator[np.ndarray]]):
    """The relative scores of some layers, computed when they are read."""

    def __init__(self, scores: Sequence[Iterable[np.ndarray]]):
        self._scores = scores

    def __len__(self) -> int:
        return len(self._scores)

    def __getitem__(self, index):
        return map(_relative, self._scores[index])


def _relative(scores) -> np.ndarray:
    """The relative scores of one kernel, in a row from low to high."""
    ordered = np.sort(np.ravel(scores)).astype(np.float64)
    squares = np.square(ordered)
    not_lower = np.cumsum(squares[::-1])[::-1]
    # What is negative is divided by one number, which keeps its order.
    divisors = np.where(ordered < 0, not_lower[:1], not_lower)
    divisors[divisors == 0] = 1.0
    return np.sign(ordered) * squares / divisors
