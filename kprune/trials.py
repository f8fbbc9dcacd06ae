"""What `kprune.testing` tries members of the four families on."""

import keras
import numpy as np

from kprune.observing import requests
from kprune.prunable import weights_of
from kprune.shorthands import PrunableConv2D, PrunableDense

# Kernels of Dense and Conv2D layers; odd sizes, and axes of length 1.
_DENSE = ((16, 8), (7, 5), (1, 6), (6, 1), (1, 1))
_CONV = ((3, 3, 4, 8), (5, 3, 3, 7), (3, 3, 1, 2))
SHAPES = _DENSE + _CONV

SPARSITIES = (0.0, 0.1, 0.29, 0.5, 0.75, 0.8, 0.9, 0.99)


def arrays(shapes):
    """Pairs of a description and a float32 array, four for each shape."""
    for shape in shapes:
        values = np.random.default_rng(0).normal(size=shape)
        values = values.astype(np.float32)
        yield f"shape {shape}", values
        yield f"shape {shape} with ties", np.round(values)
        yield f"shape {shape}, all equal,", np.full_like(values, 0.5)
        yield f"shape {shape}, all zero,", np.zeros_like(values)


def layer_lists():
    """Lists of built prunable layers: three, and one."""
    for initializer in (keras.initializers.GlorotUniform(seed=0), "ones"):
        layers = [
            PrunableConv2D(4, 3, kernel_initializer=initializer),
            PrunableDense(10, kernel_initializer=initializer),
            PrunableDense(3, kernel_initializer=initializer),
        ]
        for layer, shape in zip(layers, [(6, 6, 3), (9,), (10,)]):
            layer(keras.Input(shape))
        yield layers
        yield layers[1:2]


def ask(member, family, subject, *arguments):
    """Calls a member with stand-ins for what it asks for."""

    def drawn(*shape):
        return np.random.default_rng(1).normal(size=shape)

    def gram():
        matrices, inputs, _ = subject.shape
        rows = drawn(matrices, 4 * inputs, inputs)
        return rows.swapaxes(1, 2) @ rows / rows.shape[1]

    offers = {
        "final_sparsity": lambda: 0.9,
        "generator": lambda: np.random.default_rng(0),
        "gradient": lambda: drawn(*subject.shape),
        "gram": gram,
        "input_magnitude": lambda: np.abs(drawn(*subject.shape)),
        "input_zeros": lambda: np.full(subject.shape, 0.5),
        "input_norm": lambda: np.abs(drawn(*subject.shape)),
        "mask": lambda: np.ones(subject.shape, bool),
        "outputs_last": lambda: np.asarray,
        "progress": lambda: 0.5,
        "score": lambda: None,
        "scores": lambda: [
            [np.abs(w.value()) for w in weights_of(layer)] for layer in subject
        ],
        "sparsity": lambda: 0.5,
        "squared_gradient": lambda: np.square(drawn(*subject.shape)),
    }
    return requests.answer(member, family, subject, *arguments, offers=offers)
