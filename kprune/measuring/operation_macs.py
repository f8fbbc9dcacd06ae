"""Multiply-accumulates of single calls of `keras.ops`."""

import math

import keras

from kprune import keras_internals


class UnknownSize(Exception):
    """A number of products depends on a size that is open."""


def size(shape) -> int:
    """How many numbers a tensor of this shape has."""
    if None in shape:
        raise UnknownSize
    return math.prod(shape)


def shapes_of(args, kwargs) -> list:
    """The shapes of all tensors that something is called with, in order."""
    values = keras.tree.flatten([*args, *kwargs.values()])
    return [value.shape for value in values if hasattr(value, "shape")]


def of_operation(operation, args, kwargs, output) -> int | None:
    """As `call_macs.of_call`, with the shape of what the operation returns."""
    count = _COUNTS.get(type(operation))
    if count is None:
        return None if isinstance(operation, _REPEATING) else 0
    return count(operation, shapes_of(args, kwargs), output)


def _matmul(operation, operands, output) -> int:
    return size(output) * size(operands[0][-1:])


def _dot(operation, operands, output) -> int:
    if not all(operands):  # a number scales
        return 0
    return _matmul(operation, operands, output)


def _tensordot(operation, operands, output) -> int:
    first, axes = operands[0], operation.axes
    if isinstance(axes, int):
        return size(output) * size(first[len(first) - axes :])
    chosen = keras.tree.flatten(axes[0])
    return size(output) * size([first[axis] for axis in chosen])


def _vdot(operation, operands, output) -> int:
    return size(operands[0])


def _attention(operation, operands, output) -> int:
    query, key, value = operands[:3]
    scores = size((*query[:3], key[1]))
    return scores * (size(query[-1:]) + size(value[-1:]))


def _conv(operation, operands, output) -> int:
    kernel = operands[1]
    return size(output) * size(kernel[:-1])


def _conv_transpose(operation, operands, output) -> int:
    kernel = operands[1]
    return size(operands[0]) * size(kernel[:-1])


def _depthwise_conv(operation, operands, output) -> int:
    return size(output) * size(operands[1][:-2])


def _separable_conv(operation, operands, output) -> int:
    depthwise, pointwise = operands[1:3]
    places = size(output) // pointwise[-1]
    return places * (size(depthwise) + size(pointwise))


def _einsum_operation(operation, operands, output) -> int:
    return einsum(operation.subscripts, operands)


def einsum(equation: str, shapes) -> int:
    """All combinations of the indices, if two operands are contracted."""
    if len(shapes) > 2:
        raise UnknownSize  # it depends on the order
    left, arrow, right = equation.partition("->")
    named = set(left) - set(" .,")
    if arrow:
        summed = named - set(right)
    else:
        summed = {label for label in named if left.count(label) > 1}
    if len(shapes) < 2 or not summed:
        return 0  # a sum, or a product of each with each
    return size(tuple(sizes_of(equation, shapes).values()))


def sizes_of(equation: str, shapes) -> dict:
    """The size of each index; those of an ellipsis are numbered from -1."""
    sizes: dict[str, int] = {}
    operands = equation.replace(" ", "").partition("->")[0].split(",")
    for labels, shape in zip(operands, shapes):
        before, dots, after = labels.partition("...")
        hidden = len(shape) - len(before) - len(after) if dots else 0
        for name, length in zip((*before, *range(-hidden, 0), *after), shape):
            if sizes.get(name, 1) == 1:
                sizes[name] = length
    return sizes


_COUNTS = dict(
    zip(
        keras_internals.operation_classes(
            "Matmul",
            "Inner",
            "Dot",
            "Tensordot",
            "Vdot",
            "Einsum",
            "DotProductAttention",
            "Conv",
            "ConvTranspose",
            "DepthwiseConv",
            "SeparableConv",
        ),
        (
            _matmul,
            _matmul,
            _dot,
            _tensordot,
            _vdot,
            _einsum_operation,
            _attention,
            _conv,
            _conv_transpose,
            _depthwise_conv,
            _separable_conv,
        ),
    )
)
# Functions of the user run inside them, some more than once.
_REPEATING = keras_internals.operation_classes(
    "AssociativeScan",
    "Cond",
    "ForiLoop",
    "Map",
    "Scan",
    "Switch",
    "VectorizedMap",
    "WhileLoop",
)
