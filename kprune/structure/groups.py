"""Scoring units and choosing those that go."""

from collections.abc import Callable

import numpy as np

from kprune.granularities import Filter
from kprune.ranking import keep_highest
from kprune.structure.graph import ChannelGraph
from kprune.structure.slots import Units


def pool(
    graph: ChannelGraph, read: dict[int, Callable]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores each unit: the L2 norm of the scores of all its kernels' slices.

    Args:
        graph: The `ChannelGraph`.
        read: Dict from the id of each kernel variable that counts to a
            callable that returns its scores, and a boolean array of its
            weights that are pruned for good or `None` where none are.

    Returns:
        Tuple of a float array, one score per unit, and a boolean array: the
        units of which no weight is left.
    """
    totals = np.zeros(len(graph.units))
    alive = np.zeros(len(graph.units), bool)
    bindings = {}
    for binding in graph.bindings:
        if id(binding.variable) in read:
            bindings.setdefault(id(binding.variable), []).append(binding)
    for key, axes in bindings.items():
        scores, dead = read[key]()
        for binding in axes:
            of_slot = graph.units.of_slot[binding.slots]
            slices = _squares_along(scores, binding.axis)
            totals += np.bincount(of_slot, slices, minlength=len(totals))
            if dead is None:
                alive[of_slot] = True
            else:
                others = tuple(set(range(dead.ndim)) - {binding.axis})
                alive[of_slot[~dead.all(axis=others)]] = True
    return np.sqrt(totals), ~alive


def _squares_along(scores: np.ndarray, axis: int) -> np.ndarray:
    """The sum of squares of each slice along an axis."""
    shape = scores.shape
    outer = int(np.prod(shape[:axis], dtype=np.int64))
    block = scores.reshape(outer, shape[axis], -1)
    return np.einsum("oci,oci->c", block, block, dtype=np.float64)


def unit_classes(units: Units, producers: list[np.ndarray]) -> np.ndarray:
    """Sorts units into classes: those that touch the same producers.

    Args:
        units: The `Units`.
        producers: List of integer arrays: the slots that each producer makes.

    Returns:
        Integer array: the class of each unit; 0 is the class of those that
        touch none.
    """
    classes = np.zeros(len(units), np.int64)
    count = 1
    for slots in producers:
        touched = np.unique(units.of_slot[slots])
        old, inverse = np.unique(classes[touched], return_inverse=True)
        classes[touched] = count + inverse
        count += len(old)
    return classes


def choose(
    units: Units,
    scores: np.ndarray,
    gone: np.ndarray,
    producers: list[tuple[np.ndarray, float, Filter]],
) -> np.ndarray:
    """Decides which units stay.

    The sparsity applies to each class of units that touch the same producers,
    so that no producer is emptied. Where the producers of a class were given
    different sparsities their mean counts.

    Args:
        units: The `Units`.
        scores: Float array: the score of each unit.
        gone: Boolean array: units that are cut for good already; they stay
            cut, and count.
        producers: List of `(slots, sparsity, granularity)`: the slots that a
            pruned layer makes, how sparse it is to be, and its `Filter`.

    Returns:
        Boolean array: True for the units that stay.
    """
    classes = unit_classes(units, [slots for slots, _, _ in producers])
    keep = np.ones(len(units), bool)
    wishes = {}
    for slots, sparsity, granularity in producers:
        for index in np.unique(classes[units.of_slot[slots]]):
            wishes.setdefault(int(index), []).append((sparsity, granularity))
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], np.arange(classes.max() + 2))
    lowest = np.nextafter(scores.min(initial=0.0), -np.inf)
    scores = np.where(gone, lowest, scores)
    for index, wish in wishes.items():
        members = order[starts[index] : starts[index + 1]]
        members = members[~units.frozen[members]]
        if not len(members):
            continue
        sparsity = float(np.mean([sparsity for sparsity, _ in wish]))
        multiple = int(np.lcm.reduce([f.multiple_of for _, f in wish]))
        removed = Filter(multiple).removed_count(len(members), sparsity)
        keep[members] = keep_highest(scores[members], removed)
        keep[members[gone[members]]] = False
    return keep
