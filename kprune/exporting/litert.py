"""Writing `.tflite` files and running them with LiteRT."""

import pathlib
import re

import keras

from kprune.exporting import other_backend, saved_model

BATCH_SIZE = 1


def write(model: keras.Model, path: pathlib.Path) -> None:
    """Writes a model as a `.tflite` file with built-in operations only.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` of the file.

    Raises:
        ValueError: If an operation has no built-in kernel.
    """
    if keras.backend.backend() != "tensorflow":
        other_backend.write(model, path, __name__)
        return
    import tensorflow as tf

    # TensorFlow has no public name for it.
    from tensorflow.lite.python.convert_phase import ConverterError

    folder = path.with_name("saved_model")
    saved_model.write(model, folder, batch_size=BATCH_SIZE)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=["serving_default"]
    )
    # Without this an operation of TensorFlow would be let through, and fail
    # on the phone.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        content = converter.convert()
    except ConverterError as error:
        named = re.findall(r"^.* ops: .*$", str(error), re.MULTILINE)
        raise ValueError(
            f"Model '{model.name}' cannot be a `.tflite` file of built-in "
            "operations. Replace the operation that the converter names, or "
            "export a SavedModel. The converter says: "
            f"{'; '.join(named) or error}"
        ) from error
    path.write_bytes(content)


def run(path: pathlib.Path, model: keras.Model, inputs: list) -> list:
    """Runs the file in LiteRT's interpreter.

    Args:
        path: The file.
        model: The model that was written.
        inputs: List of arrays, one per input of the model.

    Returns:
        List of arrays, one per output.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner("serving_default")
    names = [tensor.name for tensor in model.inputs]
    outputs = runner(**dict(zip(names, inputs)))
    return [outputs[f"output_{i}"] for i in range(len(outputs))]
