"""Rules of convolutions that sum over channels."""

import numpy as np
from keras import layers

from kprune.structure.rules.activations import activate
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels


@register_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(walk, call):
    """A convolution reads the channel axis and makes a new one."""
    layer = call.layer
    axis, channels = convolved(walk, call)
    kernel = walk.variable(layer, "kernel")
    bias = walk.variable(layer, "bias")
    rank = len(kernel.shape)
    if layer.groups == 1:
        made = walk.contract(
            layer, kernel, rank - 2, rank - 1, channels, bias, folds(layer)
        )
    elif channels is not None and layer.groups == len(channels):
        walk.resize(layer, "groups", channels.slots)
        spread = repeated(channels, layer.filters // layer.groups)
        walk.bind(layer, kernel, rank - 1, spread.slots)
        made = filtered(walk, layer, kernel, spread, bias)
    else:
        made = _grouped(walk, layer, kernel, channels, bias)
    walk.resize(layer, "filters", made.slots)
    return [activate(walk, call, {axis: made})]


@register_rule(
    layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose
)
def transposed_convolution(walk, call):
    """As a convolution, with the last two axes of the kernel swapped."""
    layer = call.layer
    axis, channels = convolved(walk, call)
    kernel = walk.variable(layer, "kernel")
    bias = walk.variable(layer, "bias")
    rank = len(kernel.shape)
    # Not every place of the output sees the whole kernel.
    made = walk.contract(
        layer, kernel, rank - 1, rank - 2, channels, bias, folds=False
    )
    walk.resize(layer, "filters", made.slots)
    return [activate(walk, call, {axis: made})]


@register_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(walk, call):
    """A depthwise convolution filters each channel alone."""
    layer = call.layer
    axis, channels = convolved(walk, call)
    kernel = walk.variable(layer, "kernel")
    in_axis = len(kernel.shape) - 2
    if channels is None:
        walk.hold(layer, kernel, in_axis)
        return [{}]
    walk.bind(layer, kernel, in_axis, channels.slots)
    spread = repeated(channels, layer.depth_multiplier)
    bias = walk.variable(layer, "bias")
    axes = {axis: filtered(walk, layer, kernel, spread, bias)}
    return [activate(walk, call, axes)]


@register_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(walk, call):
    """A depthwise convolution, and a pointwise one that reads it."""
    layer = call.layer
    axis, channels = convolved(walk, call)
    depthwise = walk.variable(layer, "depthwise_kernel")
    pointwise = walk.variable(layer, "pointwise_kernel")
    bias = walk.variable(layer, "bias")
    rank = len(pointwise.shape)
    spread = None
    if channels is None:
        walk.hold(layer, depthwise, rank - 2)
    else:
        walk.bind(layer, depthwise, rank - 2, channels.slots)
        spread = repeated(channels, layer.depth_multiplier)
        spread = filtered(walk, layer, depthwise, spread, bias=None)
    made = walk.contract(
        layer, pointwise, rank - 2, rank - 1, spread, bias, folds=True
    )
    walk.resize(layer, "filters", made.slots)
    return [activate(walk, call, {axis: made})]


def convolved(walk, call) -> tuple:
    """What a convolution reads.

    Args:
        walk: The walk.
        call: The call.

    Returns:
        The channel axis, and the `Channels` along it or `None`. Those along
        other axes are frozen.
    """
    (x,) = call.inputs
    layer = call.layer
    axis = channel_axis(layer, len(x.shape))
    walk.freeze(x.axes, f"'{layer.name}' convolves over this axis", but=axis)
    return axis, x.axes.get(axis)


def repeated(channels: Channels, times: int) -> Channels:
    """Each of the channels several times in a row."""
    return channels.take(np.repeat(np.arange(len(channels)), times))


def filtered(walk, layer, kernel, channels, bias) -> Channels:
    """Channels of which each is filtered alone, activation not yet.

    Args:
        walk: The walk.
        layer: The layer.
        kernel: Its kernel; the last two axes hold a filter per channel.
        channels: The `Channels` that are read, one per filter.
        bias: The bias variable or `None`.

    Returns:
        The `Channels` of the output, with the same slots.
    """
    slots = channels.slots
    walk.bind(layer, bias, 0, slots)
    if not walk.weigh:
        made = walk.once_masked(kernel, slots)
        if np.isnan(made.constants).any() and bias is None:
            return channels.zeros_only()
        return made
    if not folds(layer):
        channels = channels.zeros_only()
    value = walk.value(kernel)
    space = tuple(range(value.ndim - 2))
    constants = channels.constants * (
        value.sum(axis=space, dtype=np.float64).reshape(-1)
    )
    constants[(value == 0).all(axis=space).reshape(-1)] = 0
    if bias is not None:
        constants = constants + walk.value(bias)
    return Channels(slots, constants)


def _grouped(walk, layer, kernel, channels, bias) -> Channels:
    """A convolution in groups: equal positions in all groups go together.

    Args:
        walk: The walk.
        layer: The layer.
        kernel: Its kernel, which has the input channels of one group.
        channels: The `Channels` that are read, or `None`.
        bias: The bias variable or `None`.

    Returns:
        The `Channels` of the output, activation not yet.
    """
    groups = layer.groups
    *space, width, filters = kernel.shape
    slots = walk.produce(layer, kernel, len(space) + 1)
    walk.bind(layer, bias, 0, slots)
    _tie_groups(walk, slots, groups)
    if channels is None:
        walk.hold(layer, kernel, len(space))
    else:
        _tie_groups(walk, channels.slots, groups)
        walk.bind(layer, kernel, len(space), channels.slots[:width], "in")
    if not walk.weigh:
        return walk.once_masked(kernel, slots)
    constants = np.full(groups * width, np.nan)
    if channels is not None:
        if not folds(layer):
            channels = channels.zeros_only()
        constants = channels.constants
    value = walk.value(kernel)
    linked = _by_group((value != 0).any(axis=tuple(range(len(space)))), groups)
    total = _by_group(
        value.sum(axis=tuple(range(len(space))), dtype=np.float64), groups
    )
    varying = np.isnan(constants).reshape(groups, width, 1)
    known = np.where(np.isnan(constants), 0.0, constants)
    made = (known.reshape(groups, 1, width) @ total).reshape(-1)
    if bias is not None:
        made = made + walk.value(bias)
    made[(linked & varying).any(axis=1).reshape(-1)] = np.nan
    if channels is not None:
        across = np.zeros((groups, width, groups, filters // groups), bool)
        group = np.arange(groups)
        across[group, :, group, :] = linked
        across = across.reshape(groups * width, filters)
        walk.read(layer, kernel, len(space), channels, slots, across)
    return Channels(slots, made)


def _tie_groups(walk, slots, groups) -> None:
    first, *others = slots.reshape(groups, -1)
    for other in others:
        walk.tie(first, other)


def _by_group(matrix, groups) -> np.ndarray:
    """A matrix of shape `(width, filters)` as one matrix per group."""
    return matrix.reshape(len(matrix), groups, -1).swapaxes(0, 1)


def channel_axis(layer, rank: int) -> int:
    """The channel axis of a layer with a `data_format`."""
    return 1 if layer.data_format == "channels_first" else rank - 1


def folds(layer) -> bool:
    """Whether a constant input gives a constant output, borders included."""
    return layer.padding == "valid" or set(layer.kernel_size) == {1}
