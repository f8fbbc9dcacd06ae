"""Writing and reading `.keras` files."""

import functools
import pathlib

import keras

from kprune.exporting import checking
from kprune.files import load_model


def write(model: keras.Model, path: pathlib.Path, shapes: list) -> None:
    """Writes a model as a `.keras` file.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` that ends in `.keras`.
        shapes: Of no use here: the model's own are written.
    """
    del shapes
    model.save(path)


def load(path: pathlib.Path, model: keras.Model):
    """Loads the file.

    Args:
        path: The file.
        model: Of no use here: the model that was written.

    Returns:
        Callable from a list of arrays, one per input, to a list of arrays,
        one per output.
    """
    del model
    # It was written a moment ago, of a model that runs here anyway.
    loaded = load_model(path, safe_mode=False)
    return functools.partial(checking.outputs_of, loaded)
