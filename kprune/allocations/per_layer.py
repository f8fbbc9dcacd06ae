"""Sparsities of single layers, by their names."""

import dataclasses
from collections.abc import Mapping, Sequence

from kprune.received import is_real


@dataclasses.dataclass(frozen=True)
class PerLayer:
    """Layers that are named lose what is said here, the others the sparsity.

    A dict in the place of an allocation is short for it. While a schedule
    grows, so do the sparsities of the layers that are named: at half of what
    the schedule ends with they have half of theirs. At a sparsity of 0 nothing
    goes.

    Where whole groups of filters go, a class of groups that several layers
    make loses what is said of any of them.

    Args:
        sparsities: Mapping from the name of a layer to a float in `[0, 1)`.

    Raises:
        ValueError: If a sparsity is not valid; when it is called, if there is
            no such layer, or if layers that lose filters together are to lose
            different shares.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     kprune.PrunableDense(20, name="hidden"),
    ...     kprune.PrunableDense(10, name="logits"),
    ... ])
    >>> model = kprune.prune(model, 0.5, allocation={"logits": 0.2})
    >>> [layer.sparsity for layer in model.layers]
    [0.5, 0.2]
    """

    sparsities: Mapping[str, float]

    def __post_init__(self):
        if not isinstance(self.sparsities, Mapping) or not all(
            isinstance(name, str) and is_real(share) and 0 <= share < 1
            for name, share in self.sparsities.items()
        ):
            raise ValueError(
                "An allocation by names maps each name of a layer to a "
                "sparsity in [0, 1), such as `{'conv1': 0.5}`. "
                f"Received: {self.sparsities!r}"
            )
        object.__setattr__(self, "sparsities", dict(self.sparsities))

    def __call__(
        self,
        layers: Sequence,
        sparsity: float,
        *,
        final_sparsity: float | None = None,
    ) -> list[float]:
        return self.over_groups(
            [()] * len(layers),
            sparsity,
            layers=layers,
            makers=[[layer] for layer in layers],
            final_sparsity=final_sparsity,
        )

    def over_groups(
        self,
        scores: Sequence,
        sparsity: float,
        *,
        layers: Sequence,
        makers: Sequence[Sequence],
        final_sparsity: float | None = None,
    ) -> list[float]:
        """Shares a sparsity out over classes of groups.

        Args:
            scores: Sequence, one item a class, which is not looked at.
            sparsity: Float in `[0, 1)`.
            layers: Sequence of all prunable layers.
            makers: Sequence of sequences: the layers that make each class.
            final_sparsity: Float: what the schedule ends with, `None` for the
                sparsity itself.

        Returns:
            List of floats, one for each class.
        """
        names = list(dict.fromkeys(layer.name for layer in layers))
        unknown = [name for name in self.sparsities if name not in names]
        if unknown:
            raise ValueError(
                f"The allocation names the layers {unknown}, and none of "
                "these names is of a layer that is pruned. Expected some of "
                f"{names}"
            )
        final = final_sparsity or sparsity
        grown = min(sparsity / final, 1.0) if sparsity else 0.0
        return [
            sparsity if share is None else share * grown
            for share in map(self._share, makers)
        ]

    def _share(self, makers) -> float | None:
        """What is said of the layers of one class, `None` for nothing."""
        said = {
            layer.name: self.sparsities[layer.name]
            for layer in makers
            if layer.name in self.sparsities
        }
        if len(set(said.values())) > 1:
            raise ValueError(
                f"The layers {list(said)} lose their filters together, and "
                f"the allocation gives them different sparsities: {said}. "
                "Name one of them, or give all the same."
            )
        return next(iter(said.values()), None)
