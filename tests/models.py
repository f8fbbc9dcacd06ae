"""Models and measures that several tests use."""

import keras
import numpy as np
from keras import layers, ops

import kprune

# Equality in float64. On torch Keras's matmul computes in float32 whatever
# the dtype is, so rounding is all that can be asked for there.
EXACT = 2e-6 if keras.backend.backend() == "torch" else 1e-9
# The same holds for `ops.mean` on JAX, and with it for global pooling.
EXACT_MEAN = 1e-9 if keras.backend.backend() == "tensorflow" else 2e-6


def numpy(x):
    """A tensor or variable as an array, on every backend."""
    return ops.convert_to_numpy(x)


def convnet(classes=10):
    """A prunable LeNet-like net for digits: filters and single weights."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            kprune.PrunableConv2D(8, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            kprune.PrunableConv2D(16, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            kprune.PrunableDense(32, activation="relu", name="hidden"),
            kprune.PrunableDense(classes, name="logits"),
        ]
    )


def compiled(model, learning_rate=1e-3):
    """The model, compiled to classify digits."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def enliven(model, x):
    """Gives BatchNormalization random weights and statistics of live data.

    With random statistics alone hardly anything of the input reaches the
    output of a deep net, and a comparison of outputs says little.
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
    model(x, training=True)
    for norm in norms:
        norm.momentum = 0.99
        jitter = generator.uniform(0.8, 1.25, norm.moving_variance.shape)
        norm.moving_variance.assign(numpy(norm.moving_variance) * jitter)
    return model


def outputs(model, x):
    """The model's outputs in inference as a flat list of arrays."""
    flat = keras.tree.flatten(model(x, training=False))
    return [numpy(output) for output in flat]


def assert_equal_outputs(first, second, x, tolerance=EXACT):
    """Both models give the same outputs, and the outputs are alive.

    The difference is measured against the largest output. Alive: on two
    samples of `x` the outputs differ by far more than the tolerance.
    """
    for one, other in zip(outputs(first, x), outputs(second, x), strict=True):
        scale = np.abs(one).max()
        assert np.isfinite(one).all() and scale > 0
        assert np.ptp(one, axis=0).max() > 100 * tolerance * scale
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= tolerance * scale
