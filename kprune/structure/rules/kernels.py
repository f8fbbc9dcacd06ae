"""Rules of the layers with kernels: Dense and convolutions."""

from keras import layers

from kprune.structure.rules import register_rule
from kprune.structure.rules.activations import activate
from kprune.structure.slots import Channels


@register_rule(layers.Dense)
def dense(walk, call):
    """A Dense reads the last axis and makes a new one; others pass."""
    (x,) = call.inputs
    layer = call.layer
    last = len(x.shape) - 1
    kernel = walk.variable(layer, "kernel")
    bias = walk.variable(layer, "bias")
    axes = {
        axis: channels.varying()
        for axis, channels in x.axes.items()
        if axis != last
    }
    axes[last] = walk.contract(
        layer, kernel, 0, 1, x.axes.get(last), bias, folds=True
    )
    walk.resize(layer, "units", axes[last].slots)
    return [activate(walk, layer, axes)]


@register_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(walk, call):
    """A convolution reads the channel axis and makes a new one."""
    (x,) = call.inputs
    layer = call.layer
    axis = channel_axis(layer, len(x.shape))
    reason = f"'{layer.name}' convolves over this axis"
    walk.freeze(x.axes, reason, but=axis)
    kernel = walk.variable(layer, "kernel")
    bias = walk.variable(layer, "bias")
    rank = len(kernel.shape)
    channels = x.axes.get(axis)
    if layer.groups > 1:
        reason = f"'{layer.name}' is a grouped convolution (no rule yet)"
        walk.freeze(x.axes, reason)
        return [{axis: walk.fresh_frozen(layer.filters, reason)}]
    axes = {
        axis: walk.contract(
            layer, kernel, rank - 2, rank - 1, channels, bias, _folds(layer)
        )
    }
    walk.resize(layer, "filters", axes[axis].slots)
    return [activate(walk, layer, axes)]


@register_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(walk, call):
    """A depthwise convolution filters each channel alone."""
    (x,) = call.inputs
    layer = call.layer
    axis = channel_axis(layer, len(x.shape))
    walk.freeze(x.axes, f"'{layer.name}' convolves over this axis", but=axis)
    channels = x.axes.get(axis)
    if channels is None:
        return [{}]
    if layer.depth_multiplier > 1:
        reason = f"'{layer.name}' has a depth multiplier (no rule yet)"
        walk.freeze(x.axes, reason)
        return [{}]
    kernel = walk.variable(layer, "kernel")
    bias = walk.variable(layer, "bias")
    slots = channels.slots
    walk.bind(layer, kernel, len(kernel.shape) - 2, slots)
    walk.bind(layer, bias, 0, slots)
    axes = {axis: Channels(slots, _depthwise(walk, layer, channels))}
    return [activate(walk, layer, axes)]


def _depthwise(walk, layer, channels):
    """The constants behind a depthwise convolution, activation not yet."""
    if not walk.weigh:
        return channels.zeros_only().constants
    if not _folds(layer):
        channels = channels.zeros_only()
    kernel = walk.value(walk.variable(layer, "kernel"))
    space = tuple(range(kernel.ndim - 2))
    total = kernel.sum(axis=space, dtype="float64")[:, 0]
    constants = channels.constants * total
    constants[(kernel == 0).all(axis=space)[:, 0]] = 0
    bias = walk.variable(layer, "bias")
    return constants if bias is None else constants + walk.value(bias)


def channel_axis(layer, rank: int) -> int:
    """The channel axis of a layer with a `data_format`."""
    return 1 if layer.data_format == "channels_first" else rank - 1


def _folds(layer) -> bool:
    """Whether a constant input gives a constant output, borders included."""
    return layer.padding == "valid" or set(layer.kernel_size) == {1}
