"""Rules of elementwise activations and of softmax."""

import keras
import numpy as np
from keras import activations, layers, ops

from kprune.structure.rules import register_rule
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


def activate(walk, layer, axes: dict) -> dict:
    """The axes behind the activation that a layer applies to its output.

    Args:
        walk: The walk.
        layer: A layer with an attribute `activation`.
        axes: The axes in front of the activation.

    Returns:
        The axes behind it; none where it mixes channels.
    """
    function = layer.activation
    if function is None or function in _ELEMENTWISE:
        return elementwise(axes, function or activations.linear)
    name = getattr(function, "__name__", repr(function))
    walk.freeze(axes, f"activation '{name}' of '{layer.name}' can mix channels")
    return {}


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
    return [activate(walk, call.layer, call.inputs[0].axes)]


@register_rule(layers.ELU, layers.LeakyReLU, layers.ReLU)
def elementwise_layer(walk, call):
    """A layer that acts on each element alone."""
    return [elementwise(call.inputs[0].axes, call.layer)]
