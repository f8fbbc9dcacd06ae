"""Writing and reading `.keras` files."""

import keras

from kprune.loading import load_model
from kprune.structure import functional

BATCH_SIZE = 2


def write(model: keras.Model, path) -> None:
    """Writes a model as a `.keras` file.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` that ends in `.keras`.
    """
    model.save(path)


def run(path, model: keras.Model, inputs: list) -> list:
    """Loads the file and calls it.

    Args:
        path: The file.
        model: The model that was written.
        inputs: List of arrays, one per input of the model.

    Returns:
        List of arrays, one per output.
    """
    loaded = load_model(path)
    return outputs_of(loaded, inputs)


def outputs_of(model: keras.Model, inputs: list) -> list:
    """Calls a model in inference on a flat list of arrays.

    Args:
        model: A Sequential or Functional model.
        inputs: List of arrays, one per input.

    Returns:
        List of arrays, one per output.
    """
    struct = keras.tree.pack_sequence_as(
        functional.inputs_struct(model), inputs
    )
    outputs = model(struct, training=False)
    flat = keras.tree.flatten(outputs)
    return [keras.ops.convert_to_numpy(output) for output in flat]
