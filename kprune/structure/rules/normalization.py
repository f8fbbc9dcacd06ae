"""Rules of normalization layers."""

import math

import keras
import numpy as np
from keras import layers, ops

from kprune.structure.rules.activations import elementwise
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels, unknown

_STATE = ("gamma", "beta", "moving_mean", "moving_variance")


@register_rule(layers.BatchNormalization)
def batch_normalization(walk, call):
    """Batch normalization scales and shifts each channel alone."""
    layer = call.layer
    axis, channels = _own_axis(walk, call, _STATE)
    if channels is None:
        return [{}]
    if not walk.weigh:
        return [{axis: channels.varying()}]
    shape = [1] * len(call.inputs[0].shape)
    shape[axis] = len(channels)
    # The layer itself, since backends differ in how they round epsilon.
    known = channels.constants.astype(keras.config.floatx()).reshape(shape)
    after = layer(ops.convert_to_tensor(known), training=False)
    constants = ops.convert_to_numpy(after).astype(np.float64).reshape(-1)
    gamma = walk.variable(layer, "gamma")
    if gamma is not None:
        # What is multiplied by 0 does not matter.
        beta = walk.variable(layer, "beta")
        shift = 0.0 if beta is None else walk.value(beta)
        constants = np.where(walk.value(gamma) == 0, shift, constants)
    return [{axis: Channels(channels.slots, constants)}]


@register_rule(layers.LayerNormalization)
def layer_normalization(walk, call):
    """A mean over the channels, which zeros in the place of some keep.

    Where they can go the layer is padded: see `Walk.pad`.
    """
    (x,) = call.inputs
    layer = call.layer
    last = len(x.shape) - 1
    name = f"'{layer.name}' (LayerNormalization)"
    over = _over(layer, x)
    if over != {last}:
        # Backends differ in which axes they normalize over then.
        walk.freeze(x.axes, f"{name} has other axes")
        return [{}]
    gamma, beta = (walk.variable(layer, part) for part in ("gamma", "beta"))
    # A position of another axis is normalized alone, and zeros become beta.
    axes = {
        axis: c.zeros_only() if beta is None else c.varying()
        for axis, c in x.axes.items()
    }
    reason = (
        f"{name} normalizes over it; "
        "`pad_layer_norm=True` of `kprune.prune` cuts it"
    )
    channels = x.axes.get(last)
    if channels is None:
        also = f"{name} also takes what cannot be cut"
        channels = walk.fresh_frozen(x.shape[last], also)
    elif x.has_mask:
        walk.freeze({last: channels}, f"{name} passes a mask on")
    elif walk.weigh or walk.pad_layer_norm:
        walk.sum_over(layer, channels, reason)
    else:
        walk.freeze({last: channels}, reason)
    walk.pad(layer, channels.slots, x)
    _bind(walk, layer, ("gamma", "beta"), channels)
    if last in axes:
        # Only without a mean (`rms_scaling`) a channel of zeros stays one.
        zero = layer.rms_scaling & (channels.constants == 0)
        constants = _scaled(walk, gamma, beta, zero)
        axes[last] = Channels(channels.slots, constants)
    return [axes]


@register_rule(layers.RMSNormalization)
def rms_normalization(walk, call):
    """A mean square over the channels, which zeros only thin out.

    Of `C` channels `c` stay: the mean square grows by `C / c`, so epsilon
    must too, and what is divided by its root must grow by the root of that.
    """
    (x,) = call.inputs
    layer = call.layer
    last = len(x.shape) - 1
    over = _over(layer, x)
    if over != {last}:
        # Keras scales the last axis whichever it normalizes over.
        walk.freeze(x.axes, f"'{layer.name}' (RMSNormalization) has other axes")
        return [{}]
    scale = walk.variable(layer, "scale")
    channels = x.axes.get(last)
    _bind(walk, layer, ("scale",), channels)
    axes = {axis: c.zeros_only() for axis, c in x.axes.items()}
    if channels is not None:
        walk.sum_over(layer, channels)
        walk.resize(layer, "epsilon", channels.slots, new=_larger_epsilon)
        walk.rescale(
            layer, scale, channels.slots, lambda old, new: math.sqrt(old / new)
        )
        constants = _scaled(walk, scale, None, channels.constants == 0)
        axes[last] = Channels(channels.slots, constants)
    return [axes]


def _larger_epsilon(epsilon, keep):
    epsilon = keras.config.epsilon() if epsilon is None else epsilon
    return epsilon * len(keep) / int(np.count_nonzero(keep))


@register_rule(layers.GroupNormalization)
def group_normalization(walk, call):
    """Each group of channels is normalized alone, so whole groups go."""
    layer = call.layer
    axis, channels = _own_axis(walk, call, ("gamma", "beta"))
    if channels is None:
        walk.hold(layer, layer, "groups")
        return [{}]
    if layer.groups == 1:
        reason = f"'{layer.name}' (GroupNormalization) has a single group"
        walk.freeze({axis: channels}, reason)
    groups = channels.slots.reshape(layer.groups, -1)
    for place in range(1, groups.shape[1]):
        walk.tie(groups[:, 0], groups[:, place])
    walk.resize(layer, "groups", groups[:, 0])
    zero = (channels.constants == 0).reshape(groups.shape).all(axis=1)
    gamma, beta = (walk.variable(layer, part) for part in ("gamma", "beta"))
    zero = np.repeat(zero, groups.shape[1])
    constants = _scaled(walk, gamma, beta, zero)
    return [{axis: Channels(channels.slots, constants)}]


@register_rule(layers.UnitNormalization)
def unit_normalization(walk, call):
    """A norm over axes, to which zeros add nothing."""
    (x,) = call.inputs
    for axis in _over(call.layer, x):
        if axis in x.axes:
            walk.sum_over(call.layer, x.axes[axis])
    return [{axis: c.zeros_only() for axis, c in x.axes.items()}]


@register_rule(layers.Rescaling)
def rescaling(walk, call):
    """Scalars act on each element alone."""
    (x,) = call.inputs
    layer = call.layer
    if np.ndim(layer.scale) == np.ndim(layer.offset) == 0:
        return [elementwise(x.axes, layer)]
    walk.freeze(x.axes, f"'{layer.name}' (Rescaling) has a scale per channel")
    return [{}]


@register_rule(layers.Normalization)
def normalization(walk, call):
    """Statistics along axes, normally those of the model's inputs."""
    (x,) = call.inputs
    layer = call.layer
    along = {axis % len(x.shape) for axis in layer.axis}
    if layer.input_mean is not None and np.ndim(layer.input_mean) == 0:
        along = set()
    for axis in along & set(x.axes):
        reason = f"'{layer.name}' (Normalization) has statistics along it"
        walk.freeze({axis: x.axes[axis]}, reason)
    return [{a: c.varying() for a, c in x.axes.items() if a not in along}]


def _own_axis(walk, call, names) -> tuple[int, Channels | None]:
    """The axis that a layer does not average over, and the channels along it.

    Args:
        walk: The walk.
        call: The `LayerCall`.
        names: Names of the layer's vectors that lie along it.
    """
    (x,) = call.inputs
    layer = call.layer
    axis = layer.axis % len(x.shape)
    walk.freeze(x.axes, f"'{layer.name}' averages over this axis", but=axis)
    channels = x.axes.get(axis)
    _bind(walk, layer, names, channels)
    return axis, channels


def _over(layer, x) -> set:
    """The axes that a layer normalizes over."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return {axis % len(x.shape) for axis in axes}


def _bind(walk, layer, names, channels) -> None:
    """Ties vectors of a layer to the channels, or holds them if it has none."""
    for name in names:
        variable = walk.variable(layer, name)
        if channels is None:
            walk.hold(layer, variable, 0)
        else:
            walk.bind(layer, variable, 0, channels.slots)


def _scaled(walk, scale, shift, zero) -> np.ndarray:
    """The constants once normalized channels are scaled and shifted.

    Args:
        walk: The walk.
        scale: Variable or `None`.
        shift: Variable or `None`.
        zero: Boolean array: channels that are 0 once they are normalized.
    """
    if shift is None:
        after = np.zeros(len(zero))
    elif walk.weigh:
        after = walk.value(shift).astype(np.float64)
    else:
        after = unknown(len(zero))
    if walk.weigh and scale is not None:
        zero = zero | (walk.value(scale) == 0)
    return np.where(zero, after, np.nan)
