"""Rules of the layers that only `keras.applications` has."""

import numpy as np

from kprune import keras_internals
from kprune.structure.rules.broadcasting import merge, strict
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels


@register_rule(keras_internals.application_layer("LayerScale"))
def layer_scale(walk, call):
    """ConvNeXt's: a factor for each channel of the last axis."""
    (x,) = call.inputs
    layer = call.layer
    last = len(x.shape) - 1
    axes = {axis: channels.zeros_only() for axis, channels in x.axes.items()}
    if last not in x.axes:
        walk.hold(layer, layer.gamma, 0)
        return [axes]
    channels = x.axes[last]
    walk.bind(layer, layer.gamma, 0, channels.slots)
    walk.resize(layer, "projection_dim", channels.slots)
    if walk.weigh:
        gamma = walk.value(layer.gamma)
        constants = np.where(gamma == 0, 0.0, channels.constants * gamma)
        axes[last] = Channels(channels.slots, constants)
    return [axes]


@register_rule(keras_internals.application_layer("StochasticDepth"))
def stochastic_depth(walk, call):
    """ConvNeXt's: in inference nothing happens."""
    return [call.inputs[0].axes]


@register_rule(keras_internals.application_layer("CustomScaleLayer"))
def scaled_sum(walk, call):
    """InceptionResNetV2's: `x + scale * y` ties equal positions."""
    scale = call.layer.scale
    combine = strict(lambda x, y: x + scale * y)
    return [merge(walk, call, dict(enumerate(call.inputs)), combine)]
