"""Writing `.onnx` files and running them with ONNX Runtime."""

import importlib.util
import pathlib

import keras

from kprune.exporting import other_backend, signature
from kprune.structure import functional

_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")


def write(model: keras.Model, path: pathlib.Path, shapes: list) -> None:
    """Writes a model as an `.onnx` file, by Keras's own exporter.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` of the file.
        shapes: List of tuples: the shape of each input, batch size first.

    Raises:
        ValueError: If the packages that it takes are not installed.
    """
    missing = [name for name in _PACKAGES if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(
            f"An `.onnx` file needs {', '.join(missing)}: "
            '`pip install "kprune[onnx]"`.'
        )
    if keras.backend.backend() != "tensorflow":
        # Keras would ask for other packages there, of many megabytes.
        other_backend.write(model, path, __name__, shapes)
        return
    names = signature.names_of(model)
    specs = [
        keras.InputSpec(shape=shape, dtype=tensor.dtype, name=name)
        for tensor, shape, name in zip(model.inputs, shapes, names)
    ]
    struct = keras.tree.pack_sequence_as(functional.inputs_struct(model), specs)
    model.export(
        str(path), format="onnx", verbose=False, input_signature=[struct]
    )


def load(path: pathlib.Path, model: keras.Model):
    """Loads the file into ONNX Runtime, for the CPU.

    Args:
        path: The file.
        model: The model that was written.

    Returns:
        Callable from a list of arrays, one per input, to a list of arrays,
        one per output.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = signature.names_of(model)
    known = {node.name for node in session.get_inputs()}

    def run(inputs):
        given = dict(zip(names, inputs))
        return session.run(None, {n: given[n] for n in names if n in known})

    return run
