"""Scoring groups of channels and choosing those that go."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kprune.structure.graph import ChannelGraph
from kprune.structure.records import Binding
from kprune.structure.slots import Groups

# A variable that counts in the scores of the groups that it has slices of: from
# its bindings to the scores of the slices along the axis of each, `None` where
# it has no say.
Member = Callable[[list[Binding]], list[np.ndarray | None]]


@dataclasses.dataclass(frozen=True)
class Producer:
    """What a pruned layer makes.

    Args:
        layer: The prunable layer.
        slots: Integer array: the slots that it makes.
        granularity: Callable that chooses: with the channels' scores as an
            array of shape `(1, channels)`.
    """

    layer: Any
    slots: np.ndarray
    granularity: Callable


def pool(graph: ChannelGraph, members: Mapping[int, Member]) -> np.ndarray:
    """Scores each group: the mean over the variables that have slices of it.

    A variable that has several slices of a group along an axis counts once,
    with their mean.

    Args:
        graph: The `ChannelGraph`.
        members: Mapping from the id of each variable that counts to its
            `Member`.

    Returns:
        Float array, one score per group; nan where none has a say.
    """
    count = len(graph.groups)
    totals, voices = np.zeros(count), np.zeros(count)
    for key, axes in _bindings_of(graph, members).items():
        for binding, slices in zip(axes, members[key](axes)):
            if slices is None:
                continue
            of_slot = graph.groups.of_slot[binding.slots]
            sums = np.bincount(of_slot, slices, minlength=count)
            times = np.bincount(of_slot, minlength=count)
            totals += sums / np.maximum(times, 1)
            voices += times > 0
    return np.where(voices > 0, totals / np.maximum(voices, 1), np.nan)


def left(
    graph: ChannelGraph, kept: Mapping[int, np.ndarray | None]
) -> np.ndarray:
    """Of which groups any weight is left.

    Args:
        graph: The `ChannelGraph`.
        kept: Dict from the id of each kernel variable that counts to a boolean
            array of its shape; `None` where all of it is kept.

    Returns:
        Boolean array, one value per group.
    """
    is_left = np.zeros(len(graph.groups), bool)
    for key, axes in _bindings_of(graph, kept).items():
        weights = kept[key]
        for binding in axes:
            of_slot = graph.groups.of_slot[binding.slots]
            if weights is None:
                is_left[of_slot] = True
            else:
                others = set(range(weights.ndim)) - {binding.axis}
                is_left[of_slot[weights.any(axis=tuple(others))]] = True
    return is_left


def _bindings_of(graph, variables) -> dict[int, list]:
    """The bindings of each variable, by its id."""
    found: dict[int, list] = {}
    for binding in graph.bindings:
        if id(binding.variable) in variables:
            found.setdefault(id(binding.variable), []).append(binding)
    return found


@dataclasses.dataclass(frozen=True)
class GroupClass:
    """The groups that touch the same producers, those that can be cut.

    Args:
        members: Integer array: the groups.
        producers: List of the `Producer`s that they touch.
        scores: Float array: the score of each; -inf for one that is to go
            before the others.
        gone: Boolean array: those that are cut for good already.
        branches: Integer array: groups that the same kernels read are of one
            number, which is 0 where none does.
        channels: Integer array: how many channels of a layer each stands for.
    """

    members: np.ndarray
    producers: list[Producer]
    scores: np.ndarray
    gone: np.ndarray
    branches: np.ndarray
    channels: np.ndarray

    @property
    def starving(self) -> np.ndarray:
        """Integer array: the branches of which one group has to stay."""
        return np.unique(self.branches[~self.gone & (self.branches > 0)])

    @property
    def least(self) -> int:
        """Integer. How many channels have to stay."""
        needed = [
            self.channels[(self.branches == branch) & ~self.gone].min()
            for branch in self.starving
        ]
        return int(sum(needed)) or 1


def choose(
    classes: list[GroupClass],
    shares: list[float],
    call: Callable,
    keep: np.ndarray,
) -> None:
    """Decides which groups stay.

    A sparsity applies to each class of groups that touch the same producers,
    so that no producer is emptied. Of each *branch*, the groups of a class
    that the same kernels read, at least one stays; what no kernel reads goes
    first where others are read.

    Args:
        classes: List of `GroupClass`, as `find_classes` returns it.
        shares: List of floats: the sparsity of each.
        call: Callable `(granularity, row, sparsity, of_group) -> mask`, which
            calls a granularity with the scores of channels as an array of
            shape `(1, channels)`; `of_group` is the group of each.
        keep: Boolean array, one value per group: set to whether it stays for
            the groups of the classes.
    """
    for of_class, sparsity in zip(classes, shares):
        channels = of_class.channels
        row = _finite(of_class)
        of_channel = np.repeat(of_class.members, channels)
        mask = _agreed(
            [
                functools.partial(call, granularity, of_group=of_channel)
                for granularity in {
                    id(p.granularity): p.granularity for p in of_class.producers
                }.values()
            ],
            np.repeat(row, channels),
            sparsity,
        )
        keep[of_class.members] = _whole_groups(mask, row, of_class)


def find_classes(
    graph: ChannelGraph,
    scores: np.ndarray,
    gone: np.ndarray,
    producers: list[Producer],
) -> list[GroupClass]:
    """The classes of groups that can be cut.

    Args:
        graph: The `ChannelGraph`.
        scores: Float array: the score of each group.
        gone: Boolean array: groups that are cut for good already; they stay
            cut, and count.
        producers: List of `Producer`.

    Returns:
        List of `GroupClass`.
    """
    groups = graph.groups
    classes = group_classes(groups, [p.slots for p in producers])
    wishes: dict[int, list[Producer]] = {}
    for producer in producers:
        for index in np.unique(classes[groups.of_slot[producer.slots]]):
            wishes.setdefault(int(index), []).append(producer)
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], np.arange(classes.max() + 2))
    branches = _branches(graph)
    found = []
    for index, wish in wishes.items():
        members = order[starts[index] : starts[index + 1]]
        members = members[~groups.frozen[members]]
        if not len(members):
            continue
        goes_first = gone[members]
        unread = branches[members] == 0
        if not unread.all():
            goes_first = goes_first | unread
        found.append(
            GroupClass(
                members,
                wish,
                np.where(goes_first, -np.inf, scores[members]),
                gone[members],
                branches[members],
                _channels(groups, members, wish),
            )
        )
    return found


def _finite(of_class) -> np.ndarray:
    """Scores for a granularity: those that are gone lowest, then the unread."""
    scores = of_class.scores
    floor = scores[np.isfinite(scores)].min(initial=0.0) - 1.0
    scores = np.where(np.isfinite(scores), scores, floor)
    return np.where(of_class.gone, floor - 1.0, scores)


def group_classes(groups: Groups, producers: list[np.ndarray]) -> np.ndarray:
    """Sorts groups into classes: those that touch the same producers.

    Args:
        groups: The `Groups`.
        producers: List of integer arrays: the slots that each producer makes.

    Returns:
        Integer array: the class of each group; 0 is the class of those that
        touch none.
    """
    classes = np.zeros(len(groups), np.int64)
    count = 1
    for slots in producers:
        touched = np.unique(groups.of_slot[slots])
        old, inverse = np.unique(classes[touched], return_inverse=True)
        classes[touched] = count + inverse
        count += len(old)
    return classes


def _branches(graph: ChannelGraph) -> np.ndarray:
    """Integer array: groups that the same kernels read are of one number."""
    readers = [b.slots for b in graph.bindings if b.role == "in"]
    return group_classes(graph.groups, readers)


def _channels(groups, members, producers) -> np.ndarray:
    """How many channels of a layer each of some groups stands for.

    Most have one of each layer. Where parts of one layer's output were tied
    to each other a group has several.
    """
    channels = np.ones(len(members), np.int64)
    for producer in producers:
        of_slot = groups.of_slot[producer.slots]
        made = np.bincount(of_slot, minlength=len(groups))[members]
        # All gates of a recurrent unit are one channel.
        channels = np.maximum(channels, made // max(made.min(), 1))
    return channels


def _whole_groups(mask, scores, of_class) -> np.ndarray:
    """Boolean array: which groups stay where these channels were to stay.

    Args:
        mask: Boolean array: for each channel whether it was chosen.
        scores: Float array: the scores of the groups.
        of_class: The `GroupClass`.
    """
    channels, gone = of_class.channels, of_class.gone
    of_channel = np.repeat(np.arange(len(scores)), channels)
    kept = np.bincount(of_channel, mask, minlength=len(scores)) == channels
    best_first = np.argsort(-scores, kind="stable")
    room = np.count_nonzero(mask) - channels[kept].sum()
    for group in best_first if room else ():
        if not kept[group] and channels[group] <= room:
            kept[group] = True
            room -= channels[group]
    kept &= ~gone
    for branch in of_class.starving:
        of_branch = (of_class.branches == branch) & ~gone
        if not kept[of_branch].any():
            _move(kept, of_branch, best_first, of_class.branches, channels)
    return kept


def _move(kept, starved, best_first, branches, channels) -> None:
    """Keeps the best group of a starved branch for the worst of others."""
    (first, *_) = (group for group in best_first if starved[group])
    kept[first] = True
    needed = channels[first]
    for group in reversed(best_first):
        of_branch = branches == branches[group]
        is_last = np.count_nonzero(kept & of_branch) == 1
        if kept[group] and not is_last and channels[group] <= needed:
            kept[group] = False
            needed -= channels[group]
        if not needed:
            return


def _agreed(choices: list[Callable], scores, sparsity) -> np.ndarray:
    """A mask of as many channels as all of the granularities can keep."""
    row = scores[None]
    while True:
        masks = [choose(row, sparsity)[0] for choose in choices]
        most = max(masks, key=np.count_nonzero)
        if all(np.count_nonzero(m) == np.count_nonzero(most) for m in masks):
            return most
        sparsity = 1 - np.count_nonzero(most) / most.size
