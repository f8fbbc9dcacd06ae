"""Giving models with random weights a signal, so that outputs say something.

With random statistics alone hardly anything of the input reaches the output
of a deep net, and equal outputs are no news.
"""

import keras
import numpy as np
from keras import layers, ops

import kprune
from kprune.weights import masked_value


def enliven(model: keras.Model, x: np.ndarray) -> keras.Model:
    """Gives BatchNormalization random weights and statistics of live data.

    Args:
        model: A built model.
        x: The data.

    Returns:
        The model, changed in place.
    """
    generator = np.random.default_rng(0)
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    ]
    for norm in norms:
        norm.momentum = 0.0
        for variable in norm.trainable_variables:
            low, high = (0.5, 1.5) if "gamma" in variable.name else (-0.3, 0.3)
            variable.assign(generator.uniform(low, high, variable.shape))
    if norms:
        model(x, training=True)
    for norm in norms:
        norm.momentum = 0.99
        variance = ops.convert_to_numpy(norm.moving_variance)
        jitter = generator.uniform(0.8, 1.25, variance.shape)
        norm.moving_variance.assign(variance * jitter)
    return model


def draw_vectors(model: keras.Model) -> keras.Model:
    """Draws biases, scales and shifts anew: Keras starts them at 0 or 1.

    The scale of ConvNeXt's branches, which starts at 1e-6, among them.

    Args:
        model: A built model.

    Returns:
        The model, changed in place.
    """
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) == 1:
            low, high = (0.5, 1.5) if variable.name == "gamma" else (-0.3, 0.3)
            variable.assign(generator.uniform(low, high, variable.shape))
    return model


def scale_kernels(model: keras.Model) -> keras.Model:
    """Scales kernels so that ReLU passes the signal on as strong as it was.

    Only those of layers with a bias: behind the others comes a normalization.
    Pruned weights do not count, so the signal lives at any sparsity.

    Args:
        model: A built model with prunable layers.

    Returns:
        The model, changed in place.
    """
    for layer in model._flatten_layers():
        if not isinstance(layer, kprune.PrunableLayer):
            continue
        if getattr(layer.layer, "bias", None) is None:
            continue
        for name, kernel in layer.kernels.items():
            value = masked_value(kernel, layer.masks[name])
            filters = np.count_nonzero(
                value.reshape(-1, value.shape[-1]).any(0)
            )
            squares = np.square(value).sum(dtype=np.float64) / max(filters, 1)
            kernel.assign(ops.convert_to_numpy(kernel) * np.sqrt(2 / squares))
    return model
