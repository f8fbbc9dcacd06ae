"""Rules of operations that pick places along axes."""

import functools

import numpy as np

from kprune.keras_internals import operation_classes
from kprune.structure.records import Tensor
from kprune.structure.rules.arguments import (
    normalized,
    operand,
    replaced,
    resize,
)
from kprune.structure.rules.registry import register_rule


@register_rule(*operation_classes("GetItem"))
def get_item(walk, call):
    """`x[key]` for slices, integers, `...` and new axes."""
    given = call.named()
    x, key = given["x"], given["key"]
    items = list(key) if isinstance(key, (tuple, list)) else [key]
    basic = (int, slice, type(None), type(Ellipsis))
    if not all(isinstance(item, basic) for item in items):
        walk.freeze(x.axes, f"'{call.layer.name}' picks places by an array")
        return [{}]
    items = _spelled_out(items, len(x.shape))
    axes, cuts = {}, []
    source = target = 0
    for place, item in enumerate(items):
        if item is None:
            target += 1
            continue
        channels = x.axes.get(source)
        if channels is not None and item != slice(None):
            channels, change = _pick(walk, call, channels, item)
            cuts.append((place, x.axes[source].slots, change))
        if not isinstance(item, slice):
            source += 1
            continue
        if channels is not None:
            axes[target] = channels
        source += 1
        target += 1
    if cuts:
        slots = np.concatenate([slots for _, slots, _ in cuts])
        walk.edit(call, slots, functools.partial(_new_key, call, items, cuts))
    return [axes]


def _spelled_out(items: list, rank: int) -> list:
    """The items of a key with one for each axis in place of `...`."""
    if Ellipsis not in items:
        items = [*items, Ellipsis]
    dots = items.index(Ellipsis)
    rest = items[:dots] + items[dots + 1 :]
    more = rank - sum(item is not None for item in rest)
    return items[:dots] + [slice(None)] * more + items[dots + 1 :]


def _pick(walk, call, channels, item):
    """The channels that an item picks, and how it changes as others go.

    Returns:
        Tuple of the `Channels`, `None` for a single one, and a callable from
        the boolean array of what is kept to the new item.
    """
    length = len(channels)
    if not isinstance(item, slice):
        item %= length
        reason = f"'{call.layer.name}' picks this channel"
        walk.table.freeze(channels.slots[item : item + 1], reason)
        return None, lambda keep: int(keep[:item].sum())
    index = np.arange(length)[item]
    start, _, step = item.indices(length)
    if step < -1:
        reason = f"'{call.layer.name}' picks channels from the end, in steps"
        walk.table.freeze(channels.slots, reason)
    if step == -1 and len(index):
        return channels.take(index), functools.partial(_backward, index)
    if step > 1:
        # Whole blocks go, so that the others stay at their distance.
        for offset in range(1, step):
            later = channels.slots[offset::step]
            walk.tie(channels.slots[::step][: len(later)], later)
    return channels.take(index), functools.partial(_forward, start, step, index)


def _backward(index, keep) -> slice:
    """The slice that picks what is kept of falling indices."""
    first = int(keep[: index[0] + 1].sum()) - 1
    last = int(keep[: index[-1]].sum())
    return slice(first, last - 1 if last else None, -1)


def _forward(start, step, index, keep) -> slice:
    """The slice that picks what is kept of rising indices."""
    offset = start % step
    first = int(keep[: start - offset].sum()) + offset
    count = int(keep[index].sum())
    stop = first + (count - 1) * step + 1 if count else first
    return slice(first, stop, None if step == 1 else step)


def _new_key(call, items, cuts, args, kwargs, keep):
    """The arguments with a key that picks what is kept of the same places."""
    items = list(items)
    for place, slots, change in cuts:
        items[place] = change(keep[: len(slots)])
        keep = keep[len(slots) :]
    return replaced(call, args, kwargs, {"key": tuple(items)})


@register_rule(*operation_classes("Split"))
def split(walk, call):
    """Each part takes its channels."""
    (x,) = call.inputs
    layer = call.layer
    along = layer.axis % len(x.shape)
    parts = [dict(x.axes) for _ in call.output_shapes]
    if along in x.axes:
        channels = x.axes[along]
        lengths = [shape[along] for shape in call.output_shapes]
        bounds = np.cumsum([0, *lengths])
        for axes, start, stop in zip(parts, bounds, bounds[1:]):
            axes[along] = channels.take(np.arange(start, stop))
        change = functools.partial(_new_bounds, bounds[1:-1])
        resize(walk, layer, "indices_or_sections", channels.slots, change)
    return parts


def _new_bounds(bounds, old, keep) -> list[int] | int:
    """Where the parts start in what is kept; they may differ in length."""
    # One part that is all has no bounds, and TensorFlow takes no empty list.
    return [int(keep[:bound].sum()) for bound in bounds] or 1


@register_rule(*operation_classes("Take"))
def take(walk, call):
    """The places that an array of indices names."""
    given = call.named()
    x, indices = given["x"], operand(given["indices"])
    if call.layer.axis is None:
        walk.freeze(x.axes, f"'{call.layer.name}' takes it as a vector")
        return [{}]
    along = call.layer.axis % len(x.shape)
    more = len(indices.shape) - 1
    axes = {
        axis + more * (axis > along): channels.varying()
        for axis, channels in x.axes.items()
        if axis != along
    }
    if along in x.axes:
        channels = x.axes[along]
        if isinstance(indices, Tensor) or indices.ndim != 1:
            reason = f"'{call.layer.name}' picks channels by a tensor"
            walk.table.freeze(channels.slots, reason)
        else:
            indices = indices % len(channels)
            axes[along] = channels.take(indices)
            change = functools.partial(_new_indices, call, indices)
            walk.edit(call, channels.slots, change)
    if isinstance(indices, Tensor):
        walk.freeze(indices.axes, f"'{call.layer.name}' takes it as indices")
    return [axes]


def _new_indices(call, indices, args, kwargs, keep):
    """The arguments with the indices of what is kept, in the same order."""
    place = np.cumsum(keep) - 1
    new = place[indices[keep[indices]]].tolist()
    return replaced(call, args, kwargs, {"indices": new})


@register_rule(*operation_classes("Unstack"))
def unstack(walk, call):
    """An axis goes, its places are the outputs."""
    (x,) = call.inputs
    along = call.layer.axis % len(x.shape)
    if along in x.axes:
        reason = f"'{call.layer.name}' makes a tensor of each channel"
        walk.table.freeze(x.axes[along].slots, reason)
    axes = {a - (a > along): c for a, c in x.axes.items() if a != along}
    return [axes for _ in call.output_shapes]


@register_rule(*operation_classes("Flip"))
def flip(walk, call):
    """The order along some axes is turned round."""
    (x,) = call.inputs
    turned = normalized(call.layer.axis, len(x.shape))
    return [
        {
            axis: channels.take(np.arange(len(channels))[::-1])
            if axis in turned
            else channels
            for axis, channels in x.axes.items()
        }
    ]


@register_rule(*operation_classes("Roll"))
def roll(walk, call):
    """Places move along some axes, by numbers that would not fit later."""
    (x,) = call.inputs
    rolled = normalized(call.layer.axis, len(x.shape))
    reason = f"'{call.layer.name}' rolls channels"
    walk.freeze({a: c for a, c in x.axes.items() if a in rolled}, reason)
    return [{a: c for a, c in x.axes.items() if a not in rolled}]
