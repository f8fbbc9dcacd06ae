"""Rules of operations that leave the channel axis alone."""

import keras
from keras import layers

from kprune.keras_internals import operation_classes
from kprune.structure.rules.registry import register_rule


def _adaptive(kind: str) -> list:
    """The adaptive pooling layers of a kind; Keras 3.12 has none."""
    names = (f"Adaptive{kind}{rank}D" for rank in (1, 2, 3))
    return [getattr(layers, name) for name in names if hasattr(layers, name)]


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
    axis = _channel_axis(call.layer, len(x.shape))
    walk.freeze(x.axes, f"'{call.layer.name}' acts on this axis", but=axis)
    return {axis: x.axes[axis]} if axis in x.axes else {}


def _channel_axis(layer, rank: int) -> int:
    """The channel axis; layers for sequences have no `data_format`."""
    data_format = getattr(layer, "data_format", "channels_last")
    if data_format is None:  # an operation
        data_format = keras.config.image_data_format()
    # An image may come without a batch.
    first = rank - 3 if isinstance(layer, _RESIZING) else 1
    return first if data_format == "channels_first" else rank - 1


_RESIZING = (layers.Resizing, *operation_classes("Resize"))


@register_rule(
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    *_adaptive("AveragePooling"),
    *_adaptive("MaxPooling"),
    *operation_classes("MaxPool"),
)
def spatial(walk, call):
    """Space changes, a constant channel stays one."""
    return [_channels_only(walk, call)]


@register_rule(
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    *operation_classes("AveragePool"),
)
def average_pooling(walk, call):
    """Space changes; the average may take in the zeros of the padding."""
    axes = _channels_only(walk, call)
    if call.layer.padding == "valid":
        return [axes]
    return [{axis: c.zeros_only() for axis, c in axes.items()}]


@register_rule(*_RESIZING)
def resizing(walk, call):
    """Space is sampled anew, perhaps with a border of one value."""
    axes = _channels_only(walk, call)
    layer = call.layer
    if layer.pad_to_aspect_ratio and layer.fill_value != 0:
        return [{axis: c.varying() for axis, c in axes.items()}]
    return [{axis: c.zeros_only() for axis, c in axes.items()}]


@register_rule(layers.Masking)
def masking(walk, call):
    """Steps of which all channels have one value become zeros."""
    (x,) = call.inputs
    last = len(x.shape) - 1
    reason = f"'{call.layer.name}' compares all channels of a step"
    walk.freeze({a: c for a, c in x.axes.items() if a == last}, reason)
    return [{a: c.zeros_only() for a, c in x.axes.items() if a != last}]


@register_rule(
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)
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
    return [{_channel_axis(call.layer, len(shape)): channels}]
