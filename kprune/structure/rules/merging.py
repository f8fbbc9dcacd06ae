"""Rules of layers and operations that merge several tensors."""

import numpy as np
from keras import layers

from kprune.keras_internals import operation_classes
from kprune.structure.records import Tensor
from kprune.structure.rules.arguments import operand
from kprune.structure.rules.broadcasting import (
    equal,
    merge,
    merge_axis,
    product,
    strict,
)
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import concatenate

_COMBINED = {
    layers.Add: strict(lambda *parts: np.sum(parts, axis=0)),
    layers.Average: strict(lambda *parts: np.mean(parts, axis=0)),
    layers.Maximum: strict(lambda *parts: np.max(parts, axis=0)),
    layers.Minimum: strict(lambda *parts: np.min(parts, axis=0)),
    layers.Multiply: product,
    layers.Subtract: strict(np.subtract),
}


@register_rule(*_COMBINED)
def merging_layer(walk, call):
    """A function of equal positions ties them."""
    kinds = type(call.layer).__mro__
    combine = next(_COMBINED[kind] for kind in kinds if kind in _COMBINED)
    rank = len(call.output_shapes[0])
    tensors = [_with_rank(tensor, rank) for tensor in call.inputs]
    return [merge(walk, call, dict(enumerate(tensors)), combine)]


def _with_rank(tensor, rank: int) -> Tensor:
    """A tensor with axes of 1 behind the batch, as Keras's layers merge it."""
    more = rank - len(tensor.shape)
    shape = (tensor.shape[0], *[1] * more, *tensor.shape[1:])
    axes = {
        axis + more if axis else 0: channels
        for axis, channels in tensor.axes.items()
    }
    return Tensor(shape, axes)


@register_rule(layers.Concatenate)
def concatenate_layer(walk, call):
    """Along its axis the parts follow each other; others are tied."""
    return [_concatenate(walk, call, call.inputs)]


@register_rule(*operation_classes("Concatenate"))
def concatenate_operation(walk, call):
    """As the layer; arrays can be among the parts."""
    return [_concatenate(walk, call, _parts(call.named()["xs"]))]


def _concatenate(walk, call, tensors) -> dict:
    (shape,) = call.output_shapes
    along = call.layer.axis % len(shape)
    axes = _tied(walk, call, tensors, but=along)
    parts = [tensor.axes.get(along) for tensor in tensors]
    if any(part is not None for part in parts):
        reason = f"'{call.layer.name}' joins it to what is cut"
        axes[along] = concatenate(
            [
                walk.fresh_frozen(tensor.shape[along], reason)
                if part is None
                else part
                for tensor, part in zip(tensors, parts)
            ]
        )
    return axes


@register_rule(*operation_classes("Stack"))
def stack(walk, call):
    """The parts lie along a new axis; their own axes are tied."""
    (shape,) = call.output_shapes
    along = call.layer.axis % len(shape)
    tensors = [
        Tensor(
            (*part.shape[:along], 1, *part.shape[along:]),
            {a + (a >= along): c for a, c in part.axes.items()},
        )
        for part in _parts(call.named()["x"])
    ]
    return [_tied(walk, call, tensors, but=along)]


def _parts(values) -> list[Tensor]:
    """The tensors of a list; an array is a tensor that cannot be cut."""
    parts = [operand(value) for value in values]
    return [
        part if isinstance(part, Tensor) else Tensor(part.shape, {})
        for part in parts
    ]


def _tied(walk, call, tensors, but: int) -> dict:
    """The axes that all parts share: equal positions go together."""
    rank = len(call.output_shapes[0])
    operands = dict(enumerate(tensors))
    return {
        axis: channels
        for axis in range(rank)
        if axis != but
        and (channels := merge_axis(walk, call, operands, axis, equal, []))
        is not None
    }
