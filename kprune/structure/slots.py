"""Slots, the edges that tie them, and the groups that come out.

A *slot* is one channel of one freshly produced axis: a Conv2D of 64 filters
makes 64 of them. Operations tie slots together; a connected set is a *group*:
what must be kept or cut together.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Channels:
    """The slots along one axis of a tensor.

    Args:
        slots: Integer array of the axis' length: the slot of each channel.
        constants: Float array of the same length: the value that a channel
            has everywhere whatever the model's input is, nan where it
            depends on the input.

    Example:

    >>> channels = kprune.structure.Channels(
    ...     slots=np.array([3, 4, 5]), constants=np.array([0.0, np.nan, 1.0]))
    >>> len(channels), channels.take([2, 0]).slots
    (3, array([5, 3]))
    >>> channels.zeros_only().constants
    array([ 0., nan, nan])
    """

    slots: np.ndarray
    constants: np.ndarray

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, index: np.ndarray) -> "Channels":
        """The channels at `index`, in its order."""
        return Channels(self.slots[index], self.constants[index])

    def varying(self) -> "Channels":
        """The same slots with no channel known to be constant."""
        return Channels(self.slots, unknown(len(self)))

    def zeros_only(self) -> "Channels":
        """The same slots; only constants that are 0 stay known."""
        known = np.where(self.constants == 0, 0.0, np.nan)
        return Channels(self.slots, known)


def unknown(length: int) -> np.ndarray:
    """Constants of `length` channels that depend on the input."""
    return np.full(length, np.nan)


def concatenate(parts: list[Channels]) -> Channels:
    """The channels of several tensors one after the other."""
    return Channels(
        np.concatenate([part.slots for part in parts]),
        np.concatenate([part.constants for part in parts]),
    )


class SlotTable:
    """Hands out slots and collects what ties and freezes them."""

    def __init__(self) -> None:
        self.size = 0
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._freezes: list[tuple[np.ndarray, str]] = []

    def fresh(self, length: int) -> np.ndarray:
        """Makes `length` new slots."""
        slots = np.arange(self.size, self.size + length)
        self.size += length
        return slots

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Says that equal positions of two arrays go together."""
        if first is not second:
            self._ties.append((first, second))

    def freeze(self, slots: np.ndarray, reason: str) -> None:
        """Says that these slots cannot be cut, and why."""
        self._freezes.append((slots, reason))

    def solve(self) -> "Groups":
        """Finds the groups: the connected components of the ties."""
        labels = np.arange(self.size)
        if self._ties:
            first = np.concatenate([tie[0] for tie in self._ties])
            second = np.concatenate([tie[1] for tie in self._ties])
            labels = _components(labels, first, second)
        _, of_slot = np.unique(labels, return_inverse=True)
        count = int(of_slot.max()) + 1 if self.size else 0
        groups = Groups(of_slot, np.full(count, -1), [])
        for slots, reason in self._freezes:
            frozen = of_slot[slots]
            groups.reasons.append(reason)
            open_groups = frozen[groups.reason_index[frozen] < 0]
            groups.reason_index[open_groups] = len(groups.reasons) - 1
        return groups


def _components(labels, first, second):
    """Labels every slot with the lowest slot that it is connected to."""
    while True:
        low = np.minimum(labels[first], labels[second])
        before = labels
        labels = labels.copy()
        # Hook the roots, not only the ends, so that labels travel fast.
        np.minimum.at(labels, before[first], low)
        np.minimum.at(labels, before[second], low)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


@dataclasses.dataclass(frozen=True)
class Groups:
    """The connected sets of slots.

    Args:
        of_slot: Integer array: the group of each slot.
        reason_index: Integer array: for each group the index in `reasons` of
            why it is frozen, -1 where it can be cut.
        reasons: List of strings.
    """

    of_slot: np.ndarray
    reason_index: np.ndarray
    reasons: list

    def __len__(self) -> int:
        return len(self.reason_index)

    @property
    def frozen(self) -> np.ndarray:
        """Boolean array: whether each group must stay."""
        return self.reason_index >= 0

    def reason(self, group: int) -> str | None:
        """Why a group is frozen, `None` where it is not."""
        index = self.reason_index[group]
        return self.reasons[index] if index >= 0 else None
