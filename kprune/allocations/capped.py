"""Rules for the first and the last layer, around any allocation."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kprune.allocations.names import Allocation, get
from kprune.observing import requests
from kprune.received import is_real

_OVER_GROUPS = "allocation over groups"


@dataclasses.dataclass(frozen=True)
class Capped:
    """The first and the last layer lose no more than this, whatever is asked.

    What they keep is taken from the others, so that the sparsity over all the
    weights is still the one asked for. The defaults are the rules that are
    known as "uniform+": the first convolution stays dense, and the last layer
    loses at most 80 % of its weights. Evci et al. spare the first layer, with
    `Capped("erdos_renyi", last=1.0)`. In a network of Dense layers, where the
    first often has most of the weights, pass `first=1.0`.

    Args:
        allocation: How the sparsity is shared out over the others; see
            `kprune.allocations.get`.
        first: Float in `[0, 1]`: the highest sparsity of the first prunable
            layer; 1 sets no limit.
        last: Float in `[0, 1]`: that of the last one.

    Raises:
        ValueError: If a limit is not valid; when it is called, if the other
            layers cannot make up for what is kept.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 1)),
    ...     kprune.PrunableConv2D(20, 3),
    ...     kprune.PrunableConv2D(20, 3),
    ...     kprune.PrunableConv2D(2, 3),
    ... ])
    >>> shares = kprune.allocations.Capped("uniform")(model.layers, 0.9)
    >>> [round(share, 3) for share in shares]
    [0.0, 0.955, 0.8]

    Reference:

    - [Gale et al., 2019](https://arxiv.org/abs/1902.09574)
    - [Evci et al., 2020](https://arxiv.org/abs/1911.11134)
    """

    allocation: Allocation | Mapping[str, float] | str = "uniform"
    first: float = 0.0
    last: float = 0.8

    def __post_init__(self):
        requests.names(self._inner, "allocation")
        over_groups = getattr(self._inner, "over_groups", None)
        if over_groups is not None:
            requests.names(over_groups, _OVER_GROUPS)
        for name in ("first", "last"):
            value = getattr(self, name)
            if not (is_real(value) and 0 <= value <= 1):
                raise ValueError(
                    f"`{name}` must be a number in [0, 1]. "
                    f"Received: {name}={value!r}"
                )

    def __call__(
        self,
        layers: Sequence,
        sparsity: float,
        *,
        final_sparsity: float | None = None,
        progress: float | None = None,
        scores: Sequence[Iterable[np.ndarray]] | None = None,
    ) -> list[float]:
        def share_out(chosen, sparsity):
            return requests.answer(
                self._inner,
                "allocation",
                [layers[index] for index in chosen],
                sparsity,
                offers={
                    "final_sparsity": lambda: final_sparsity,
                    "progress": lambda: progress,
                    "scores": lambda: (
                        None if scores is None else _Chosen(scores, chosen)
                    ),
                },
            )

        sizes = [
            sum(math.prod(kernel.shape) for kernel in layer.kernels.values())
            for layer in layers
        ]
        caps = [self._cap(layers, [layer]) for layer in layers]
        return _within(caps, sizes, sparsity, share_out)

    @property
    def over_groups(self) -> Callable | None:
        """Shares whole groups out, where the inner allocation does."""
        inner = getattr(self._inner, "over_groups", None)
        if inner is None:
            return None

        def over_groups(
            scores: Sequence[np.ndarray],
            sparsity: float,
            *,
            layers: Sequence,
            makers: Sequence[Sequence],
            least: Sequence[int],
            macs: Sequence[float],
            progress: float,
            final_sparsity: float | None = None,
        ) -> list[float]:
            def share_out(chosen, sparsity):
                return requests.answer(
                    inner,
                    _OVER_GROUPS,
                    [scores[index] for index in chosen],
                    sparsity,
                    offers={
                        "final_sparsity": lambda: final_sparsity,
                        "layers": lambda: layers,
                        "least": lambda: _Chosen(least, chosen),
                        "macs": lambda: _Chosen(macs, chosen),
                        "makers": lambda: _Chosen(makers, chosen),
                        "progress": lambda: progress,
                    },
                )

            caps = [self._cap(layers, of_class) for of_class in makers]
            return _within(caps, list(map(len, scores)), sparsity, share_out)

        return over_groups

    @property
    def _inner(self) -> Allocation:
        return get(self.allocation)

    def _cap(self, layers, some) -> float:
        """The highest sparsity of what some of the layers make."""
        caps = [1.0]
        if any(layer is layers[0] for layer in some):
            caps.append(self.first)
        if any(layer is layers[-1] for layer in some):
            caps.append(self.last)
        return min(caps)


class _Chosen(Sequence):
    """Some of the items of a sequence, read when they are needed."""

    def __init__(self, items: Sequence, indices: Sequence[int]):
        self._items = items
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index):
        return self._items[self._indices[index]]


def _within(
    caps: Sequence[float],
    sizes: Sequence[int],
    sparsity: float,
    share_out: Callable[[list[int], float], Any],
) -> list[float]:
    """Shares a sparsity out so that none is above its cap.

    Args:
        caps: Sequence of floats, the highest share of each part.
        sizes: Sequence of integers, what each part counts.
        sparsity: Float in `[0, 1)`, over all of them.
        share_out: Callable from the indices of some parts and a sparsity to
            their shares.

    Returns:
        List of floats, one for each part.
    """
    shares = {index: 0.0 for index, cap in enumerate(caps) if cap == 0}
    wanted, total = sparsity * sum(sizes), sum(sizes)
    while True:
        free = [index for index in range(len(caps)) if index not in shares]
        room = sum(sizes[index] for index in free)
        left = wanted - sum(sizes[i] * share for i, share in shares.items())
        if left <= 0:
            found = [0.0] * len(free)
        elif left >= room:
            most = sum(size * cap for size, cap in zip(sizes, caps)) / total
            raise ValueError(
                f"A sparsity of {sparsity:.3g} cannot be reached where the "
                "first or the last layer keeps what `Capped` says: all that "
                f"the others have comes to {most:.3g}. Ask for less, or raise "
                "`first` or `last`."
            )
        else:
            found = list(share_out(free, left / room))
        above = {
            index: caps[index]
            for index, share in zip(free, found)
            if share > caps[index]
        }
        if not above:
            shares.update(zip(free, found))
            return [shares[index] for index in range(len(caps))]
        shares.update(above)
