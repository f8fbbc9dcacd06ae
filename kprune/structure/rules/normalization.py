"""Rules of normalization layers."""

import numpy as np
from keras import layers

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
        return [{axis: channels}]
    gamma, beta, mean, variance = (
        None if variable is None else walk.value(variable).astype("float64")
        for variable in (walk.variable(layer, name) for name in _STATE)
    )
    constants = (channels.constants - mean) / np.sqrt(variance + layer.epsilon)
    if gamma is not None:
        constants = np.where(gamma == 0, 0.0, constants * gamma)
    if beta is not None:
        constants = constants + beta
    return [{axis: Channels(channels.slots, constants)}]
