"""Rules of operations that rearrange, repeat and pad axes."""

import functools

import numpy as np

from kprune.keras_internals import operation_classes
from kprune.structure.rules.arguments import normalized, resize
from kprune.structure.rules.broadcasting import equal
from kprune.structure.rules.registry import register_rule
from kprune.structure.rules.reshaping import regroup
from kprune.structure.slots import Channels, concatenate


@register_rule(*operation_classes("Reshape"))
def reshape(walk, call):
    """Channels keep their row-major place; the new shape shrinks."""
    (x,) = call.inputs
    layer = call.layer
    (shape,) = call.output_shapes
    if isinstance(layer.newshape, int):
        walk.freeze(x.axes, f"'{layer.name}' makes a vector of it")
        return [{}]
    axes = regroup(walk, layer, x.axes, x.shape, shape)
    for axis, channels in axes.items():
        if layer.newshape[axis] != -1:
            resize(walk, layer, ("newshape", axis), channels.slots)
    return [axes]


@register_rule(*operation_classes("Transpose"))
def transpose(walk, call):
    """The axes move."""
    rank = len(call.inputs[0].shape)
    order = call.layer.axes or range(rank)[::-1]
    return [_ordered(call, [axis % rank for axis in order])]


@register_rule(*operation_classes("Swapaxes"))
def swapaxes(walk, call):
    """Two axes change places."""
    order = list(range(len(call.inputs[0].shape)))
    one, other = call.layer.axis1, call.layer.axis2
    order[one], order[other] = order[other], order[one]
    return [_ordered(call, order)]


@register_rule(*operation_classes("Moveaxis"))
def moveaxis(walk, call):
    """Some axes move, the others keep their order."""
    rank = len(call.inputs[0].shape)
    sources = normalized(tuple(call.layer.source), rank)
    targets = normalized(tuple(call.layer.destination), rank)
    order = [axis for axis in range(rank) if axis not in sources]
    for target, source in sorted(zip(targets, sources)):
        order.insert(target, source)
    return [_ordered(call, order)]


def _ordered(call, order) -> dict:
    """The axes in another order."""
    (x,) = call.inputs
    return {order.index(axis): c for axis, c in x.axes.items()}


@register_rule(*operation_classes("ExpandDims"))
def expand_dims(walk, call):
    """Axes of 1 come in."""
    (x,) = call.inputs
    rank = len(call.output_shapes[0])
    new = normalized(call.layer.axis, rank)
    old = [axis for axis in range(rank) if axis not in new]
    return [{old[axis]: channels for axis, channels in x.axes.items()}]


@register_rule(*operation_classes("Squeeze"))
def squeeze(walk, call):
    """Axes of 1 go."""
    (x,) = call.inputs
    layer = call.layer
    if layer.axis is None:
        gone = tuple(a for a, size in enumerate(x.shape) if size == 1)
        if not gone:
            walk.freeze(x.axes, f"'{layer.name}' would take away an axis of 1")
        elif x.axes:
            # An axis of channels that becomes 1 must not go too.
            slots = np.concatenate([c.slots for c in x.axes.values()])
            resize(walk, layer, "axis", slots, lambda *_: gone)
    else:
        gone = normalized(layer.axis, len(x.shape))
    reason = f"'{layer.name}' leaves a single channel"
    walk.freeze({a: c for a, c in x.axes.items() if a in gone}, reason)
    left = [axis for axis in range(len(x.shape)) if axis not in gone]
    return [{left.index(a): c for a, c in x.axes.items() if a in left}]


@register_rule(*operation_classes("BroadcastTo"))
def broadcast_to(walk, call):
    """Axes of 1 are spread, and new ones come in front."""
    (x,) = call.inputs
    layer = call.layer
    (shape,) = call.output_shapes
    more = len(shape) - len(x.shape)
    axes = {}
    for axis, channels in x.axes.items():
        if x.shape[axis] == shape[axis + more]:
            resize(walk, layer, ("shape", axis + more), channels.slots)
            axes[axis + more] = channels
        else:
            reason = f"'{layer.name}' broadcasts it over an axis"
            walk.table.freeze(channels.slots, reason)
    return [axes]


@register_rule(*operation_classes("Repeat"))
def repeat(walk, call):
    """Each place along an axis comes several times in a row."""
    (x,) = call.inputs
    layer = call.layer
    if layer.axis is None:
        walk.freeze(x.axes, f"'{layer.name}' makes a vector of it")
        return [{}]
    axes = dict(x.axes)
    along = layer.axis % len(x.shape)
    channels = axes.pop(along, None)
    if channels is not None:
        if np.ndim(layer.repeats):
            reason = f"'{layer.name}' repeats channels differently"
            walk.table.freeze(channels.slots, reason)
        else:
            index = np.repeat(np.arange(len(channels)), layer.repeats)
            axes[along] = channels.take(index)
    return [axes]


@register_rule(*operation_classes("Tile"))
def tile(walk, call):
    """All places along an axis come several times, one round after another."""
    (x,) = call.inputs
    (shape,) = call.output_shapes
    repeats = np.atleast_1d(call.layer.repeats)
    more = len(shape) - len(x.shape)
    axes = {}
    for axis, channels in x.axes.items():
        back = axis - len(x.shape)
        times = repeats[back] if len(repeats) >= -back else 1
        axes[axis + more] = channels.take(
            np.tile(np.arange(len(channels)), times)
        )
    return [axes]


@register_rule(*operation_classes("Pad"))
def pad(walk, call):
    """New places stay; they are constant unless they copy what is there."""
    (x,) = call.inputs
    layer = call.layer
    widths = [tuple(width) for width in layer.pad_width]
    if len(widths) == 1:
        widths *= len(x.shape)
    value = call.named().get("constant_values")
    value = float("nan") if np.ndim(value) else float(value or 0)
    axes = {}
    for axis, channels in x.axes.items():
        elsewhere = any(sum(w) for a, w in enumerate(widths) if a != axis)
        if elsewhere and layer.mode == "constant":
            padded = np.full(len(channels), value)
            constants = equal([channels.constants, padded])
            channels = Channels(channels.slots, constants)
        if sum(widths[axis]) and layer.mode != "constant":
            walk.table.freeze(
                channels.slots, f"'{layer.name}' pads with other channels"
            )
            continue
        reason = f"'{layer.name}' pads with it"
        fill = functools.partial(_filled, walk, reason, value)
        before, after = map(fill, widths[axis])
        axes[axis] = concatenate([before, channels, after])
    return [axes]


def _filled(walk, reason, value, length) -> Channels:
    """Channels of a constant that stay."""
    slots = walk.fresh_frozen(length, reason).slots
    return Channels(slots, np.full(length, value))
