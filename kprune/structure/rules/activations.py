"""Rules of elementwise activations and of softmax."""

import keras
import numpy as np
from keras import activations, layers, ops

from kprune.structure.rules import probing
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels

_ELEMENTWISE = {
    activations.celu,
    activations.elu,
    activations.exponential,
    activations.gelu,
    activations.hard_shrink,
    activations.hard_sigmoid,
    activations.hard_silu,
    activations.hard_tanh,
    activations.leaky_relu,
    activations.linear,
    activations.log_sigmoid,
    activations.mish,
    activations.relu,
    activations.relu6,
    activations.selu,
    activations.sigmoid,
    activations.silu,
    activations.soft_shrink,
    activations.softplus,
    activations.softsign,
    activations.sparse_plus,
    activations.squareplus,
    activations.tanh,
    activations.tanh_shrink,
    activations.threshold,
}

_LAYERS = (layers.ELU, layers.LeakyReLU, layers.ReLU)


def activate(walk, call, axes: dict) -> dict:
    """The axes behind the activation that a layer applies to its output.

    Args:
        walk: The walk.
        call: The `LayerCall` of a layer with an attribute `activation`.
        axes: The axes in front of the activation.

    Returns:
        The axes behind it; none where it mixes channels.
    """
    layer = call.layer
    function, problem = tried(layer.activation, call.output_shapes[0], axes)
    if problem is None:
        return elementwise(axes, function)
    reason = f"activation '{name_of(function)}' of '{layer.name}' {problem}"
    walk.freeze(axes, reason)
    return {}


def tried(function, shape: tuple, axes) -> tuple:
    """What to take an activation for.

    Args:
        function: The activation, `None` for none.
        shape: The shape of what it is called with.
        axes: The axes of the channels in it.

    Returns:
        Tuple of a function that acts on each element alone, for `elementwise`,
        and `None`; or of the activation and why it is no such function.
    """
    if function is None:
        return activations.linear, None
    if isinstance(function, layers.Activation):
        return tried(function.activation, shape, axes)
    if isinstance(function, layers.Layer):
        is_known = isinstance(function, _LAYERS)
        return function, None if is_known else "can mix channels"
    if any(function is known for known in _ELEMENTWISE):
        return function, None
    problem = probing.problem(function, shape, axes)
    return (
        (probing.guarded(function), None)
        if not problem
        else (
            function,
            problem,
        )
    )


def name_of(function) -> str:
    """What to call an activation in a message."""
    return getattr(function, "__name__", repr(function))


def elementwise(axes: dict, function) -> dict:
    """The axes behind a function that acts on each element alone."""
    return {
        axis: Channels(channels.slots, _constants(channels, function))
        for axis, channels in axes.items()
    }


def _constants(channels, function):
    known = ~np.isnan(channels.constants)
    constants = channels.constants.copy()
    if known.any():
        # As rank 2, since some layers refuse a vector.
        values = constants[known].astype(keras.config.floatx())[None]
        tensor = ops.convert_to_tensor(values, keras.config.floatx())
        after = function(tensor)
        constants[known] = ops.convert_to_numpy(after)[0]
    return constants


@register_rule(layers.Activation)
def activation_layer(walk, call):
    """An Activation layer: by the function that it applies."""
    return [activate(walk, call, call.inputs[0].axes)]


@register_rule(*_LAYERS)
def elementwise_layer(walk, call):
    """A layer that acts on each element alone."""
    return [elementwise(call.inputs[0].axes, call.layer)]


@register_rule(layers.PReLU)
def prelu(walk, call):
    """A slope for each channel, unless it is shared along that axis."""
    (x,) = call.inputs
    layer = call.layer
    alpha = walk.variable(layer, "alpha")
    for axis in range(1, len(x.shape)):
        if alpha.shape[axis - 1] == 1:
            continue
        if axis in x.axes:
            walk.bind(layer, alpha, axis - 1, x.axes[axis].slots)
        else:
            walk.hold(layer, alpha, axis - 1)
    return [
        {
            axis: Channels(
                channels.slots, _slope(walk, alpha, axis - 1, channels)
            )
            for axis, channels in x.axes.items()
        }
    ]


def _slope(walk, alpha, axis, channels):
    """The constants behind a PReLU."""
    constants = channels.constants
    slopes = np.full(len(channels), np.nan)
    if walk.weigh:
        value = np.moveaxis(walk.value(alpha), axis, -1)
        value = value.reshape(-1, value.shape[-1])
        same = (value == value[0]).all(axis=0)
        slopes[:] = np.where(same, value[0], np.nan)
    return np.where(constants < 0, slopes * constants, constants)


@register_rule(layers.Softmax)
def softmax(walk, call):
    """A softmax mixes what is along its axes; the others pass."""
    (x,) = call.inputs
    layer = call.layer
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    mixed = {axis % len(x.shape) for axis in axes}
    passed = {}
    for axis, channels in x.axes.items():
        if axis in mixed:
            reason = f"'{layer.name}' normalizes over it"
            walk.table.freeze(channels.slots, reason)
        else:
            passed[axis] = channels.varying()
    for mask in call.masks:
        reason = f"'{layer.name}' has a mask along it"
        for axis, channels in passed.items():
            along = axis - len(x.shape) + len(mask.shape)
            if along >= 0 and mask.shape[along] != 1:
                walk.table.freeze(channels.slots, reason)
    return [passed]
