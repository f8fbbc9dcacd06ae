"""Rules of layers that rearrange axes."""

import math

import numpy as np
from keras import layers

from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels


@register_rule(layers.Flatten)
def flatten(walk, call):
    """All axes but the batch become one, channels last."""
    (x,) = call.inputs
    axes, shape = x.axes, x.shape
    if call.layer.data_format == "channels_first" and len(shape) > 2:
        # Keras moves the channels to the end before it flattens.
        order = (0, *range(2, len(shape)), 1)
        axes = {order.index(axis): c for axis, c in axes.items()}
        shape = tuple(shape[axis] for axis in order)
    return [regroup(walk, call.layer, axes, shape, call.output_shapes[0])]


@register_rule(layers.Reshape)
def reshape(walk, call):
    """Channels keep their row-major place; the target shape shrinks."""
    (x,) = call.inputs
    layer = call.layer
    (shape,) = call.output_shapes
    axes = regroup(walk, layer, x.axes, x.shape, shape)
    for place, size in enumerate(layer.target_shape):
        key = ("target_shape", place)
        if size == -1:
            continue
        if place + 1 in axes:
            walk.resize(layer, key, axes[place + 1].slots)
        else:
            walk.hold(layer, layer, key)
    return [axes]


@register_rule(layers.RepeatVector)
def repeat_vector(walk, call):
    """A new axis comes in front of the channels."""
    (x,) = call.inputs
    return [{axis + 1 if axis else 0: c for axis, c in x.axes.items()}]


@register_rule(layers.Permute)
def permute(walk, call):
    """The axes move."""
    (x,) = call.inputs
    moved = (0, *call.layer.dims)
    return [{moved.index(axis): c for axis, c in x.axes.items()}]


def regroup(walk, layer, axes: dict, before: tuple, after: tuple) -> dict:
    """The axes behind a reshape from one shape to another.

    Args:
        walk: The walk.
        layer: The layer, for the reasons.
        axes: The axes in front of it.
        before: The shape in front of it.
        after: The shape behind it.

    Returns:
        The axes behind it.
    """
    regrouped = {}
    for sources, targets in _blocks(before, after):
        found = [axis for axis in sources if axis in axes]
        if not found:
            continue
        source = max(found, key=lambda axis: before[axis])
        for axis in found:
            if axis != source:
                reason = f"'{layer.name}' merges it with a longer axis"
                walk.table.freeze(axes[axis].slots, reason)
        wide = [axis for axis in targets if after[axis] != 1]
        sizes = [before[a] for a in sources] + [after[a] for a in wide]
        if not wide or None in sizes:
            reason = f"'{layer.name}' leaves no axis of a known size for it"
            walk.table.freeze(axes[source].slots, reason)
            continue
        target, channels = _carry(
            walk,
            axes[source],
            [before[axis] for axis in sources],
            sources.index(source),
            [after[axis] for axis in wide],
        )
        regrouped[wide[target]] = channels
    return regrouped


def _blocks(before, after):
    """Pairs of runs of axes, before and after, that hold the same elements.

    From the right, since the batch on the left is of unknown size; all that is
    left of an unknown size makes one block.
    """
    i, j = len(before), len(after)
    while i or j:
        sources: list[int] = []
        targets: list[int] = []
        sizes = [1, 1]
        while i or j:
            if i and (sizes[0] <= sizes[1] or not j):
                if before[i - 1] is None:
                    break
                i -= 1
                sources.insert(0, i)
                sizes[0] *= before[i]
            else:
                if after[j - 1] is None:
                    break
                j -= 1
                targets.insert(0, j)
                sizes[1] *= after[j]
            if sizes[0] == sizes[1] and sources and targets:
                break
        if sizes[0] != sizes[1] or not (sources and targets):
            sources, targets = [*range(i), *sources], [*range(j), *targets]
            i = j = 0
        yield sources, targets


def _carry(walk, channels, source_sizes, source, target_sizes):
    """Moves channels from one block of axes to another.

    Returns:
        The position in `target_sizes` of the axis that carries the channels,
        and the `Channels` along it. Where the axis was split, the channels
        that share a place on the new axis are tied.
    """
    along = [1] * len(source_sizes)
    along[source] = len(channels)
    index = np.arange(len(channels)).reshape(along)
    index = np.broadcast_to(index, source_sizes).reshape(target_sizes)
    rows = None
    for target in reversed(range(len(target_sizes))):
        rows = np.moveaxis(index, target, -1)
        rows = rows.reshape(-1, target_sizes[target])
        if (rows == rows[0]).all():
            return target, channels.take(rows[0])
    target = len(target_sizes) - 1
    rows = index.reshape(-1, target_sizes[target])
    first = channels.take(rows[0])
    constants = first.constants
    for row in rows[1:]:
        other = channels.take(row)
        walk.tie(first.slots, other.slots)
        constants = np.where(constants == other.constants, constants, math.nan)
    return target, Channels(first.slots, constants)
