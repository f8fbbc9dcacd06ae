"""Rules of operations that leave the channel axis alone."""

from keras import layers

from kprune.structure.rules import register_rule
from kprune.structure.rules.kernels import channel_axis


@register_rule(
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
def identity(walk, call):
    """In inference nothing happens."""
    return [call.inputs[0].axes]


def _channels_only(walk, call):
    """The axes of the input once all but the channel axis are frozen."""
    (x,) = call.inputs
    axis = channel_axis(call.layer, len(x.shape))
    walk.freeze(x.axes, f"'{call.layer.name}' acts on this axis", but=axis)
    return {axis: x.axes[axis]} if axis in x.axes else {}


@register_rule(
    layers.Cropping2D,
    layers.Cropping3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.UpSampling2D,
    layers.UpSampling3D,
)
def spatial(walk, call):
    """Space changes, a constant channel stays one."""
    return [_channels_only(walk, call)]


@register_rule(
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
)
def average_pooling(walk, call):
    """Space changes; the average may take in the zeros of the padding."""
    axes = _channels_only(walk, call)
    if call.layer.padding == "valid":
        return [axes]
    return [{axis: c.zeros_only() for axis, c in axes.items()}]


@register_rule(layers.ZeroPadding2D, layers.ZeroPadding3D)
def zero_padding(walk, call):
    """Space grows by zeros, so only a channel of zeros stays constant."""
    axes = _channels_only(walk, call)
    return [{axis: c.zeros_only() for axis, c in axes.items()}]


@register_rule(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def global_pooling(walk, call):
    """Space goes; the channels are the last axis that is left."""
    axes = _channels_only(walk, call)
    (shape,) = call.output_shapes
    if not axes:
        return [{}]
    (channels,) = axes.values()
    return [{channel_axis(call.layer, len(shape)): channels}]
