"""Which groups of channels the outputs of a model depend on."""

import collections

import numpy as np

from kprune.structure.records import Reading
from kprune.structure.slots import Groups
from kprune.structure.walk import Walk


class Need:
    """What is needed of a model as its weights are now.

    Args:
        walk: A `Walk` that looked at the weights.
        groups: The `Groups` of it.
        only: Boolean array: the groups that may go at all, `None` for all.
    """

    def __init__(
        self, walk: Walk, groups: Groups, only: np.ndarray | None = None
    ):
        self._walk = walk
        self._groups = groups
        self._stays = groups.frozen if only is None else groups.frozen | ~only
        self._calls = collections.Counter(
            id(reading.variable) for reading in walk.readings
        )
        # Boolean array: the groups that can go.
        self.removed = self._unneeded()

    def readers_of(self, groups: np.ndarray) -> list[str]:
        """The names of the layers that depend on any of these groups."""
        names: dict[str, None] = {}
        for reading in self._walk.readings if len(groups) else ():
            reads = self._groups.of_slot[reading.channels.slots]
            needs = self._needs(reading, self.removed)
            if np.isin(reads[needs], groups).any():
                names[reading.layer.name] = None
        return list(names)

    def _unneeded(self) -> np.ndarray:
        """Boolean array: the groups that nothing needs, no axis emptied."""
        kept = self._stays.copy()
        for mixed in self._walk.sums:
            not_zero = mixed.channels.constants != 0
            kept[self._groups.of_slot[mixed.channels.slots[not_zero]]] = True
        # No tensor and no variable may lose all of an axis.
        spans = list(self._walk.spans.values())
        spans += [b.slots for b in self._walk.bindings.values()]
        while True:
            removed = self._unneeded_beside(kept)
            emptied = [
                along[0]
                for slots in spans
                if removed[along := self._groups.of_slot[slots]].all()
            ]
            staying = emptied + self._outnumbered(removed)
            if not staying:
                return removed
            # What stays of an axis needs what it reads.
            kept[staying] = True

    def _outnumbered(self, removed) -> list[int]:
        """The groups that have to stay so that balanced axes stay equal."""
        groups = []
        for pair in self._walk.balanced:
            along = [self._groups.of_slot[slots] for slots in pair]
            first, second = (np.count_nonzero(~removed[a]) for a in along)
            fewer = along[0] if first < second else along[1]
            groups.extend(fewer[removed[fewer]][: abs(first - second)])
        return groups

    def _unneeded_beside(self, kept) -> np.ndarray:
        """Boolean array: the groups that can go if those of `kept` stay."""
        removed = np.zeros(len(self._groups), bool)
        while True:
            needed = kept.copy()
            for reading in self._walk.readings:
                reads = self._groups.of_slot[reading.channels.slots]
                needed[reads[self._needs(reading, removed)]] = True
            if np.array_equal(~needed, removed):
                return removed
            # Without these groups more weights link to nothing.
            removed = ~needed

    def _needs(self, reading: Reading, removed: np.ndarray) -> np.ndarray:
        """Boolean array: the channels that a kernel's outputs depend on."""
        gone = removed[self._groups.of_slot[reading.out_slots]]
        linked = reading.linked[:, ~gone].any(axis=1)
        constants = reading.channels.constants
        # One bias cannot take in the constants of several calls.
        once = self._calls[id(reading.variable)] == 1
        if once and reading.bias is not None:
            return linked & np.isnan(constants)
        return linked & (constants != 0)
