"""Watching what the layers of a model are called with."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np


@contextlib.contextmanager
def watching(
    layers: Iterable[keras.layers.Layer],
    instead: Callable,
    method: str = "call",
) -> Iterator[None]:
    """Has something else done when some layers are called.

    Args:
        layers: The layers, each one that Keras calls by itself.
        instead: Callable `(layer, call, *args, **kwargs)` that returns what
            the layer is to return; `call` is the layer's own `call`.
        method: String. The method that is watched.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers:
            # In the instance's dict, past what Keras tracks.
            state = vars(layer)
            was = state.get(method)
            own = getattr(layer, method)
            state[method] = functools.wraps(own)(
                functools.partial(instead, layer, own)
            )
            stack.callback(_restore, state, method, was)
        yield


def _restore(state: dict, method: str, was) -> None:
    if was is None:
        del state[method]
    else:
        state[method] = was


def to_numpy(x) -> np.ndarray:
    """A tensor as an array; floats of less than 32 bits as float32."""
    # A variable that a scope gives another value is that value.
    array = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(x))
    if array.dtype.kind in "iub" or array.dtype.itemsize >= 4:
        return array
    return array.astype(np.float32)
