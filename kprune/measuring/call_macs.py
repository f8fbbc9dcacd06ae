"""Multiply-accumulates of single calls of Keras layers and operations."""

import math

from keras import layers

from kprune import keras_internals, weights
from kprune.measuring.operation_macs import (
    UnknownSize,
    einsum,
    of_operation,
    shapes_of,
    size,
    sizes_of,
)

_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_DEPTHWISE = (
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    *_SEPARABLE,
)
_WITH_KERNELS = (
    layers.Dense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    *weights.TRANSPOSED,
    *_DEPTHWISE,
)
_CONV_RNNS = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
_CELLS = (layers.GRUCell, layers.LSTMCell, layers.SimpleRNNCell)
_KNOWN = (
    *_WITH_KERNELS,
    layers.Attention,
    layers.EinsumDense,
    layers.RNN,
)
# No kernel and no layer inside, but products of what they are called with.
_PRODUCTS = (layers.Dot, layers.Lambda)
# Their weights of many axes scale numbers one by one, which is not counted.
# JAX cannot trace the call of a PReLU.
_SCALES = (layers.PReLU,)
_DOT_PRODUCT_ATTENTION = keras_internals.operation_classes(
    "DotProductAttention"
)


def is_one_of(layer, kinds: tuple) -> bool:
    """Whether a layer is of a kind and does what Keras does in its call.

    Args:
        layer: A Keras layer; a user's own subclass can call as it likes.
        kinds: Tuple of Keras's classes.

    Returns:
        Boolean.
    """
    is_own = type(layer).call.__module__.startswith("keras.")
    return is_own and isinstance(layer, kinds)


def is_composite(operation) -> bool:
    """Whether the calls within a call have to be counted instead of it.

    Args:
        operation: A Keras layer, without kprune's wrapper, or an operation of
            `keras.ops`.

    Returns:
        Boolean.
    """
    if not isinstance(operation, layers.Layer):
        return False
    if is_one_of(operation, (*_KNOWN, *_SCALES)):
        return False
    if type(operation) is layers.Embedding:
        return False
    is_own = type(operation).__module__.startswith("keras.")
    # Not `weights.kernels`: what cannot be pruned is multiplied by as well.
    return (
        not is_own
        or isinstance(operation, _PRODUCTS)
        or any(len(weight.shape) > 1 for weight in operation.weights)
        or bool(keras_internals.sublayers(operation))
    )


def of_call(operation, args, kwargs, outputs) -> int | None:
    """Counts the multiply-accumulates of one call.

    Args:
        operation: A layer or operation that is not composite.
        args: Tuple: what it is called with; tensors are symbolic.
        kwargs: Dict.
        outputs: List of the symbolic tensors that it returns.

    Returns:
        Integer, over the whole batch; `None` if a shape or a number of
        repetitions is not known.
    """
    output = outputs[0].shape
    try:
        if not isinstance(operation, layers.Layer):
            return of_operation(operation, args, kwargs, output)
        first, *others = shapes_of(args, kwargs)
        if isinstance(operation, layers.EinsumDense):
            shapes = first, _einsum_kernel(operation)
            count = einsum(operation.equation, shapes)
            return count + _lora(operation, count, output)
        if isinstance(operation, _WITH_KERNELS):
            count = _kernels(operation, first, output)
            return count + _lora(operation, count, output)
        if isinstance(operation, layers.Embedding):
            return _lora(operation, 0, output)
        if isinstance(operation, layers.Attention):
            return _attention_layer(operation, first, others[0])
        if isinstance(operation, layers.RNN):
            return _recurrent(operation, first, output)
    except UnknownSize:
        return None
    return 0


def output_shape(operation, args, kwargs) -> tuple | None:
    """The shape of what a call returns, where Keras is wrong about it.

    Keras goes by the sizes that an EinsumDense was made with, and takes the
    values of attention to be as wide as its queries.

    Args:
        operation: A layer or operation that is not composite.
        args: Tuple: what it is called with; tensors are symbolic.
        kwargs: Dict.

    Returns:
        Tuple of integers; `None` where Keras is right.
    """
    if isinstance(operation, _DOT_PRODUCT_ATTENTION):
        query, _, value = shapes_of(args, kwargs)[:3]
        return (*query[:-1], value[-1])
    if not isinstance(operation, layers.EinsumDense):
        return None
    equation = operation.equation.replace(" ", "")
    shapes = shapes_of(args, kwargs)[0], _einsum_kernel(operation)
    sizes = sizes_of(equation, shapes)
    before, dots, after = equation.partition("->")[2].partition("...")
    hidden = [name for name in sizes if isinstance(name, int)] if dots else []
    return tuple(sizes[name] for name in (*before, *hidden, *after))


def _kernels(layer, inputs, outputs) -> int:
    if isinstance(layer, layers.Dense):
        # Where it is quantized the kernel can be packed.
        shapes = [(inputs[-1], layer.units)]
    elif isinstance(layer, _SEPARABLE):
        shapes = [layer.depthwise_kernel.shape, layer.pointwise_kernel.shape]
    else:
        shapes = [layer.kernel.shape]
    total = 0
    for index, shape in enumerate(shapes):
        # Each element of the output (of the input, where a convolution is
        # transposed) meets one slice of the kernel.
        places, channels = outputs, shape[-1]
        if isinstance(layer, weights.TRANSPOSED):
            places = inputs
        elif isinstance(layer, _DEPTHWISE) and index == 0:
            channels = shape[-2] * shape[-1]
            places = _depthwise_places(layer, outputs, channels)
        total += size(places) * math.prod(shape) // channels
    return total


def _einsum_kernel(layer) -> tuple:
    # GPTQ and AWQ keep the kernel as a matrix, and its shape besides.
    shape = getattr(layer, "original_kernel_shape", None)
    return tuple(layer.kernel.shape if shape is None else shape)


def _lora(layer, count, output) -> int:
    """What LoRA adds to the products of a layer."""
    has_lora = getattr(layer, "lora_enabled", False)
    if layer.quantization_mode is None or not has_lora:
        return 0  # Keras adds LoRA's product to the kernel, then multiplies
    # What is quantized stays as it is: the input meets two more matrices.
    first = count // output[-1] * layer.lora_rank
    return first + size(output) * layer.lora_rank


def _depthwise_places(layer, shape, channels):
    """The shape behind the depthwise step, before any pointwise one."""
    axis = 1 if layer.data_format == "channels_first" else len(shape) - 1
    return (*shape[:axis], channels, *shape[axis + 1 :])


def _recurrent(layer, inputs, outputs) -> int | None:
    kernels = weights.all_kernels(layer.cell).values()
    per_step = sum(math.prod(kernel.shape) for kernel in kernels)
    if isinstance(layer, _CONV_RNNS):
        # What the cell makes, at each place, without its channels.
        made = outputs[2:] if layer.return_sequences else outputs[1:]
        first = layer.data_format == "channels_first"
        places = made[1:] if first else made[:-1]
        return size(inputs[:2]) * size(places) * per_step
    cells = getattr(layer.cell, "cells", [layer.cell])
    if not all(is_one_of(cell, _CELLS) for cell in cells):
        return None  # how often a cell of another kind uses a kernel
    return size(inputs[:2]) * per_step


def _attention_layer(layer, query, value) -> int:
    score = size((*query[:-1], value[-2]))
    added = isinstance(layer, layers.AdditiveAttention)
    if added or layer.score_mode != "dot":  # scores are sums, no products
        return score * size(value[-1:])
    return score * (size(query[-1:]) + size(value[-1:]))
