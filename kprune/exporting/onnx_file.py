"""Writing `.onnx` files and running them with ONNX Runtime."""

import importlib.util
import pathlib

import keras

from kprune import keras_internals
from kprune.exporting import other_backend, signature

_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")


def write(model: keras.Model, path: pathlib.Path, shapes: list) -> None:
    """Writes a model as an `.onnx` file, by Keras's own exporter.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` of the file.
        shapes: List of tuples: the shape of each input, batch size first.

    Raises:
        ValueError: If the packages that it takes are not installed, or Keras's
            exporter fails.
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
    struct = keras.tree.pack_sequence_as(
        keras_internals.inputs_struct(model), specs
    )
    try:
        model.export(
            str(path), format="onnx", verbose=False, input_signature=[struct]
        )
    except OSError:  # a full disk
        raise
    # The exporter raises whatever its parts do.
    except Exception as error:
        raise ValueError(
            f"Keras's exporter cannot write model '{model.name}' as an "
            "`.onnx` file. Leave out the layer or the nesting of inputs that "
            "it names, or export a SavedModel or a `.tflite` instead. "
            f"{_said(error)}"
        ) from error


def _said(error: Exception) -> str:
    return f"It says: {type(error).__name__}: {error}"


def load(path: pathlib.Path, model: keras.Model):
    """Loads the file into ONNX Runtime, for the CPU.

    Args:
        path: The file.
        model: The model that was written.

    Returns:
        Callable from a list of arrays, one per input, to a list of arrays,
        one per output.

    Raises:
        ValueError: If ONNX Runtime does not take the file.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
    # Each of its errors has a class of its own below Exception.
    except Exception as error:
        raise ValueError(
            f"ONNX Runtime does not load the `.onnx` file of model "
            f"'{model.name}': Keras's exporter wrote an operation that ONNX "
            "does not have. Leave that operation out of the model, such as an "
            "`ops.argmax` at its end, or export a SavedModel or a `.tflite`. "
            f"{_said(error)}"
        ) from error
    names = signature.names_of(model)
    known = {node.name for node in session.get_inputs()}

    def run(inputs):
        given = dict(zip(names, inputs))
        fed = {n: given[n] for n in names if n in known}
        try:
            return session.run(None, fed)
        except Exception as error:
            raise ValueError(
                f"ONNX Runtime does not run the `.onnx` file of model "
                f"'{model.name}'. Give `input_signature` fixed sizes, or "
                f"export a SavedModel or a `.tflite`. {_said(error)}"
            ) from error

    return run
