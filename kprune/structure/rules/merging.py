"""Rules of layers that merge several tensors."""

import numpy as np
from keras import layers

from kprune.structure.rules import register_rule
from kprune.structure.slots import Channels, concatenate, unknown


def _sum(first, second):
    return first + second


def _product(first, second):
    # A channel of zeros makes zeros of whatever it is multiplied with.
    zero = (first == 0) | (second == 0)
    return np.where(zero, 0.0, first * second)


@register_rule(layers.Add)
def add(walk, call):
    """A sum ties equal positions."""
    return [_merge(walk, call, _sum)]


@register_rule(layers.Multiply)
def multiply(walk, call):
    """A product ties equal positions."""
    return [_merge(walk, call, _product)]


def _merge(walk, call, combine):
    name = call.layer.name
    (shape,) = call.output_shapes
    if any(len(tensor.shape) != len(shape) for tensor in call.inputs):
        for tensor in call.inputs:
            walk.freeze(tensor.axes, f"'{name}' merges tensors of other ranks")
        return {}
    return {
        axis: channels
        for axis in range(1, len(shape))
        if (channels := _merged_axis(walk, call, axis, combine)) is not None
    }


def _merged_axis(walk, call, axis, combine):
    """The channels of one axis of a merged tensor, `None` if it has none."""
    name = call.layer.name
    length = call.output_shapes[0][axis]
    full, spread = [], []
    for tensor in call.inputs:
        broadcasts = tensor.shape[axis] == 1 and length != 1
        (spread if broadcasts else full).append(tensor.axes.get(axis))
    for channels in filter(None, spread):
        reason = f"'{name}' broadcasts it over an axis"
        walk.table.freeze(channels.slots, reason)
    labelled = [channels for channels in full if channels is not None]
    if not labelled:
        return None
    merged = labelled[0]
    for channels in labelled[1:]:
        walk.tie(merged.slots, channels.slots)
        constants = combine(merged.constants, channels.constants)
        merged = Channels(merged.slots, constants)
    if len(labelled) < len(full):
        reason = f"'{name}' merges it with a tensor that cannot be cut"
        walk.table.freeze(merged.slots, reason)
    if spread or len(labelled) < len(full):
        constants = combine(merged.constants, unknown(len(merged)))
        merged = Channels(merged.slots, constants)
    return merged


@register_rule(layers.Concatenate)
def concatenate_layer(walk, call):
    """Along its axis the parts follow each other; others are tied."""
    layer = call.layer
    (shape,) = call.output_shapes
    along = layer.axis % len(shape)
    axes = {
        axis: channels
        for axis in range(1, len(shape))
        if axis != along
        and (channels := _tied_axis(walk, call, axis)) is not None
    }
    parts = [tensor.axes.get(along) for tensor in call.inputs]
    if any(part is not None for part in parts):
        reason = f"'{layer.name}' joins it to what is cut"
        axes[along] = concatenate(
            [
                walk.fresh_frozen(tensor.shape[along], reason)
                if part is None
                else part
                for tensor, part in zip(call.inputs, parts)
            ]
        )
    return [axes]


def _tied_axis(walk, call, axis):
    """An axis that all parts share: equal positions go together."""
    merged = _merged_axis(walk, call, axis, _sum)
    return None if merged is None else merged.varying()
