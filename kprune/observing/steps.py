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
    # Of what is turned round before Keras gets masks wrong where it unrolls.
    settings = {"unroll": True, "use_cudnn": False, "go_backwards": False}
    recurrent = [
        layer
        for layer in [model, *sublayers(model)]
        if isinstance(layer, keras.layers.RNN)
    ]
    backwards = {id(layer) for layer in recurrent if layer.go_backwards}
    changed = []
    # By the id of a cell, which samples count at the steps to come. What calls
    # a cell when there is none, as Keras does to know shapes, does not count.
    to_come: dict[int, Iterator[np.ndarray]] = {
        id(cell): iter(())
        for layer in recurrent
        for cell in [layer.cell, *sublayers(layer.cell)]
    }

    def loop(layer, call, sequences, initial_state, mask, training=False):
        if id(layer) in backwards:
            sequences = keras.ops.flip(sequences, axis=1)
            mask = None if mask is None else keras.ops.flip(mask, axis=1)
        counts = np.ones(tuple(sequences.shape[:2]), bool)
        if mask is not None:
            counts = to_numpy(mask).astype(bool)
        for cell in [layer.cell, *sublayers(layer.cell)]:
            to_come[id(cell)] = iter(counts.T)
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
