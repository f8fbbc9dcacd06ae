"""Watching what the layers of a model are called with."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np

from kprune.keras_internals import sublayers


@contextlib.contextmanager
def watching(
    layers: Iterable[keras.layers.Layer], instead: Callable
) -> Iterator[None]:
    """Has something else done when some layers are called.

    Args:
        layers: The layers, each one that Keras calls by itself.
        instead: Callable `(layer, call, *args, **kwargs)` that returns what
            the layer is to return; `call` is the layer's own `call`.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers:
            # In the instance's dict, past what Keras tracks.
            state = vars(layer)
            was = state.get("call")
            own = layer.call
            state["call"] = functools.wraps(own)(
                functools.partial(instead, layer, own)
            )
            stack.callback(_restore, state, was)
        yield


def _restore(state: dict, was) -> None:
    if was is None:
        del state["call"]
    else:
        state["call"] = was


@contextlib.contextmanager
def step_by_step(model: keras.layers.Layer) -> Iterator[None]:
    """Has recurrent layers call their cells once a step, with real values.

    A loop of the backend's own would call a cell once, with symbols, or not at
    all.

    Args:
        model: `keras.Model` or layer.
    """
    settings = {"unroll": True, "use_cudnn": False}
    changed = []
    for layer in [model, *sublayers(model)]:
        if isinstance(layer, keras.layers.RNN):
            for name, value in settings.items():
                if hasattr(layer, name):
                    changed.append((layer, name, getattr(layer, name)))
                    setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, name, was in changed:
            setattr(layer, name, was)


def to_numpy(x) -> np.ndarray:
    """A tensor as an array; floats as float64, in which moments are summed."""
    # A variable that a scope gives another value is that value.
    array = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(x))
    if array.dtype.kind in "iub":
        return array
    return array.astype(np.float64)
