"""Rules of operations that sum over products of tensors."""

import functools
import math

from keras import layers

from kprune.keras_internals import operation_classes
from kprune.structure.records import Tensor
from kprune.structure.rules.arguments import operand, replaced
from kprune.structure.rules.broadcasting import product, tied
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels


def contract(walk, call, operands: list, labels: list, output: list) -> dict:
    """The axes behind a sum over products, as `einsum` writes it.

    Axes with the same label go together. Those that are summed over can be
    cut where the product is 0.

    Args:
        walk: The walk.
        call: The `LayerCall`.
        operands: List of `Tensor`s and arrays.
        labels: For each operand a list of one label per axis.
        output: List of the labels of the result's axes.

    Returns:
        The axes of the result.
    """
    places: dict[object, list[tuple]] = {}
    for each, own in zip(operands, labels):
        if len(set(own)) < len(own):
            for tensor in call.inputs:
                reason = f"'{call.layer.name}' takes a diagonal"
                walk.freeze(tensor.axes, reason)
            return {}
        axes = each.axes if isinstance(each, Tensor) else {}
        for axis, label in enumerate(own):
            place = (each.shape[axis], axes.get(axis))
            places.setdefault(label, []).append(place)
    result = {}
    for label, along in places.items():
        channels = _joined(walk, call, along)
        if channels is None:
            continue
        if label in output:
            result[output.index(label)] = channels
        else:
            walk.sum_over(call.layer, channels)
    return result


def _joined(walk, call, places: list) -> Channels | None:
    """The channels of one label, `None` if no operand has any."""
    name = call.layer.name
    longest = any(size != 1 for size, _ in places)
    labelled, stays = [], False
    for size, channels in places:
        if size == 1 and longest:
            if channels is not None:
                reason = f"'{name}' broadcasts it over an axis"
                walk.table.freeze(channels.slots, reason)
        elif channels is None:
            stays = True
        else:
            labelled.append(channels)
    if not labelled:
        return None
    reason = f"'{name}' multiplies it with a tensor that cannot be cut"
    slots = tied(walk, labelled, reason if stays else "")
    constants = product([channels.constants for channels in labelled])
    return Channels(slots, constants).zeros_only()


@register_rule(*operation_classes("Matmul"))
def matmul(walk, call):
    """The last axis of one tensor with the last but one of the other."""
    first, second = map(operand, call.named().values())
    rows, columns = len(first.shape), len(second.shape)
    labels = [
        [*_batch(rows), "n", "k"] if rows > 1 else ["k"],
        [*_batch(columns), "k", "m"] if columns > 1 else ["k"],
    ]
    output = [*_batch(max(rows, columns))]
    output += ["n"] * (rows > 1) + ["m"] * (columns > 1)
    return [contract(walk, call, [first, second], labels, output)]


def _batch(rank: int) -> range:
    """Labels of the axes in front of a matrix, counted from the right."""
    return range(-max(rank - 2, 0), 0)


@register_rule(*operation_classes("Tensordot"))
def tensordot(walk, call):
    """The axes that are named, or those at the end and at the start."""
    first, second = map(operand, call.named().values())
    rank, axes = len(first.shape), call.layer.axes
    if isinstance(axes, int):
        axes = (range(rank - axes, rank), range(axes))
    pairs = [[each] if isinstance(each, int) else list(each) for each in axes]
    labels = [
        [("first", axis) for axis in range(rank)],
        [("second", axis) for axis in range(len(second.shape))],
    ]
    for one, other in zip(*pairs):
        labels[1][other] = labels[0][one]
    shared = set(labels[0]) & set(labels[1])
    output = [label for label in sum(labels, []) if label not in shared]
    return [contract(walk, call, [first, second], labels, output)]


@register_rule(layers.Dot)
def dot_layer(walk, call):
    """One axis of each tensor, sample by sample."""
    layer = call.layer
    axes = layer.axes
    if isinstance(axes, int):
        axes = (axes, axes)
    labels = [
        ["batch", *((place, axis) for axis in range(1, len(tensor.shape)))]
        for place, tensor in enumerate(call.inputs)
    ]
    for own, axis, tensor in zip(labels, axes, call.inputs):
        channels = tensor.axes.get(axis % len(tensor.shape))
        if layer.normalize and channels is not None:
            walk.sum_over(layer, channels)
        own[axis] = "k"
    output = [label for label in labels[0] if label != "k"]
    output += [label for label in labels[1] if label not in ("k", "batch")]
    return [contract(walk, call, list(call.inputs), labels, output)]


@register_rule(*operation_classes("Einsum"))
def einsum(walk, call):
    """As the equation says."""
    operands = [operand(each) for each in call.named()["operands"]]
    left, arrow, right = call.layer.subscripts.replace(" ", "").partition("->")
    specs = left.split(",")
    if not arrow:
        letters = "".join(specs).replace(".", "")
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        right = "..." * ("..." in left) + "".join(once)
    spreads = [
        len(each.shape) - len(spec.replace("...", ""))
        for spec, each in zip(specs, operands)
    ]
    labels = [
        _einsum_labels(*pair)
        for pair in zip([*specs, right], [*spreads, max(spreads)])
    ]
    return [contract(walk, call, operands, labels[:-1], labels[-1])]


def _einsum_labels(spec: str, spread: int) -> list:
    """One label per axis; those of `...` are counted from the right."""
    before, dots, after = spec.partition("...")
    return [*before, *(range(-spread, 0) if dots else ()), *after]


@register_rule(*operation_classes("DotProductAttention"))
def dot_product_attention(walk, call):
    """Attention of shape `(batch, time, heads, width)`.

    The widths of queries, keys and values are tied, since Keras takes the
    output to be of the queries' shape.
    """
    given = call.named()
    name = call.layer.name
    tensors = [operand(given[key]) for key in ("query", "key", "value")]
    for tensor in tensors:
        reason = f"'{name}' attends along this axis"
        walk.freeze({a: c for a, c in tensor.axes.items() if a < 2}, reason)
    axes = {}
    for axis in (2, 3):
        places = [(each.shape[axis], each.axes.get(axis)) for each in tensors]
        channels = _joined(walk, call, places)
        if channels is None:
            continue
        value = tensors[2].axes.get(axis)
        constants = channels.varying() if value is None else value.zeros_only()
        axes[axis] = Channels(channels.slots, constants.constants)
    for key in ("bias", "mask"):
        if given.get(key) is not None and operand(given[key]).shape[1] != 1:
            reason = f"'{name}' has a {key} for each head"
            walk.freeze({a: c for a, c in axes.items() if a == 2}, reason)
    read = [each.axes[3].constants for each in tensors[:2] if 3 in each.axes]
    if read:
        walk.sum_over(call.layer, Channels(axes[3].slots, product(read)))
        if given.get("scale") is None:
            scale = 1 / math.sqrt(tensors[0].shape[3])
            change = functools.partial(_set_scale, call, scale)
            walk.edit(call, axes[3].slots, change)
    return [axes]


def _set_scale(call, scale, args, kwargs, keep):
    """The scale of the width that the queries had before they were cut."""
    return replaced(call, args, kwargs, {"scale": scale})
