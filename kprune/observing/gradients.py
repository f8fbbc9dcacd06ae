"""Gradients of a loss, on each backend."""

from collections.abc import Callable
from typing import Any

import keras


def gradients(loss: Callable[[list], Any], values: list) -> list:
    """The gradients of a loss by some values.

    Args:
        loss: Callable from a list of tensors to a scalar tensor.
        values: List of tensors.

    Returns:
        List of tensors of the shapes of `values`; zeros where the loss does
        not depend on one.
    """
    return _OF_BACKEND[keras.backend.backend()](loss, values)


def _tensorflow(loss, values):
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        total = loss(values)
    found = tape.gradient(
        total, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # Those of an Embedding come as the rows that were read.
    return [tf.convert_to_tensor(gradient) for gradient in found]


def _jax(loss, values):
    import jax

    return jax.grad(loss)(values)


def _torch(loss, values):
    import torch

    with torch.enable_grad():
        values = [value.detach().requires_grad_() for value in values]
        found = torch.autograd.grad(loss(values), values, allow_unused=True)
    return [
        torch.zeros_like(value) if gradient is None else gradient
        for gradient, value in zip(found, values)
    ]


_OF_BACKEND = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def compiled(function: Callable) -> Callable:
    """A function of tensors that returns tensors, compiled where that pays."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # As Keras's own training step.
        return tf.function(function, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
