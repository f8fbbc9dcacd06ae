"""Small stacks of layers, and what tests of rules ask of them."""

import keras
import numpy as np
from keras import layers

from kprune.structure import channel_graph


def samples(model, size=4):
    """Random inputs of a model with one input; integers below 7 for words."""
    generator = np.random.default_rng(1)
    shape = model.inputs[0].shape[1:]
    if "int" in str(model.inputs[0].dtype):
        return generator.integers(0, 7, (size, *shape))
    return generator.normal(size=(size, *shape))


def stack(shape, *stack, dtype=None):
    """A Sequential model of these layers."""
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stack])


def read_out():
    """The layers that end a stack."""
    return [layers.Flatten(), layers.Dense(3)]


def sizes(model, name, *keys):
    """Numbers of a layer's config, one or several."""
    config = model.get_layer(name).get_config()
    return [config[key] for key in keys]


def reasons(model, name):
    """Why output channels of a layer stay."""
    return channel_graph(model).frozen_reasons(model.get_layer(name))
