"""Recurrent layers, step by step, and the steps that their masks leave out."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np

from kprune.keras_internals import sublayers
from kprune.observing.watching import to_numpy, watching


@contextlib.contextmanager
def step_by_step(model: keras.layers.Layer) -> Iterator[Callable]:
    """Has recurrent layers call their cells once a step, with real values.

    A loop of the backend's own would call a cell once, with symbols, or not at
    all.

    Args:
        model: `keras.Model` or layer.

    Yields:
        Callable `(layer, arguments)`, to be called once a call of the layer:
        its arguments, of a cell those of the samples alone whose step is not
        masked; `None` if there is no such sample.
    """
    settings = {"unroll": True, "use_cudnn": False}
    recurrent = [
        layer
        for layer in [model, *sublayers(model)]
        if isinstance(layer, keras.layers.RNN)
    ]
    changed = []
    # By the id of a cell, which samples count at the steps to come. What calls
    # a cell when there is none, as Keras does to know shapes, does not count.
    to_come: dict[int, Iterator[np.ndarray]] = {
        id(cell): iter(())
        for layer in recurrent
        for cell in [layer.cell, *sublayers(layer.cell)]
    }

    def loop(layer, call, sequences, initial_state, mask, training=False):
        counts = np.ones(tuple(sequences.shape[:2]), bool)
        if mask is not None:
            counts = to_numpy(mask).astype(bool)
        steps = counts.T[::-1] if layer.go_backwards else counts.T
        for cell in [layer.cell, *sublayers(layer.cell)]:
            to_come[id(cell)] = iter(steps)
        return call(sequences, initial_state, mask, training)

    def unmasked(layer, arguments):
        if id(layer) not in to_come:
            return arguments
        counts = next(to_come[id(layer)], np.zeros(0, bool))
        if not counts.any():
            return None
        if counts.all():
            return arguments
        return {
            name: keras.tree.map_structure(
                lambda x: to_numpy(x)[counts], arguments[name]
            )
            for name in ("inputs", "sequence", "states")
            if name in arguments
        }

    for layer in recurrent:
        for name, value in settings.items():
            if hasattr(layer, name):
                changed.append((layer, name, getattr(layer, name)))
                setattr(layer, name, value)
    try:
        with watching(recurrent, loop, "inner_loop"):
            yield unmasked
    finally:
        for layer, name, was in changed:
            setattr(layer, name, was)
