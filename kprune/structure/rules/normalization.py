"""Rules of normalization layers."""

import keras
import numpy as np
from keras import layers, ops

from kprune.structure.rules import register_rule
from kprune.structure.slots import Channels

_STATE = ("gamma", "beta", "moving_mean", "moving_variance")


@register_rule(layers.BatchNormalization)
def batch_normalization(walk, call):
    """Batch normalization scales and shifts each channel alone."""
    (x,) = call.inputs
    layer = call.layer
    axis = layer.axis % len(x.shape)
    walk.freeze(x.axes, f"'{layer.name}' averages over this axis", but=axis)
    channels = x.axes.get(axis)
    if channels is None:
        return [{}]
    for name in _STATE:
        walk.bind(layer, walk.variable(layer, name), 0, channels.slots)
    if not walk.weigh:
        return [{axis: channels.varying()}]
    shape = [1] * len(x.shape)
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
