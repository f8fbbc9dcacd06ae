"""Writing `.tflite` files and running them with LiteRT."""

import dataclasses
import pathlib
import re
import warnings

import keras
import numpy as np

from kprune.exporting import saved_model, signature
from kprune.tflite import flatbuffer, interpreter

# Operators between floats and what is no float, which compute nothing.
_CONVERSIONS = ("CAST", "DEQUANTIZE", "QUANTIZE")


class DoesNotRun(ValueError):
    """LiteRT does not run a file; its cause says why."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a `.tflite` is written.

    Args:
        quantize: `None` or one of `kprune.formats.QUANTIZATIONS`.
        batches: For `"int8"`: list of batches, each a list of arrays, one per
            input.
        integer_io: Boolean. Whether inputs and outputs are int8 too.
    """

    quantize: str | None = None
    batches: list | None = None
    integer_io: bool = False


def write(
    model: keras.Model,
    path: pathlib.Path,
    shapes: list,
    options: Options,
    *,
    sparse: bool = False,
) -> None:
    """Writes a model as a `.tflite` file with built-in operations only.

    Args:
        model: A plain Keras model that does not compute in half precision.
        path: `pathlib.Path` of the file.
        shapes: List of tuples: the shape of each input, batch size first.
        options: `Options`.
        sparse: Boolean. Whether to leave out zeros where the format can.

    Raises:
        ValueError: If an operation has no built-in kernel, or a shape is
            none that LiteRT can take.
    """
    # TensorFlow has no public name for it.
    from tensorflow.lite.python.convert_phase import ConverterError

    # The same one for the plain file and the sparse one.
    folder = path.with_name("for_conversion")
    if not folder.exists():
        saved_model.write(model, folder, shapes)
    converter = _converter(model, folder, options, sparse)
    try:
        with warnings.catch_warnings():
            # The converter's own use of it to find the ranges of values.
            warnings.filterwarnings(
                "ignore", r"\s*Warning: tf\.lite\.Interpreter"
            )
            content = converter.convert()
    except (ConverterError, RuntimeError) as error:
        raise ValueError(
            f"Model '{model.name}' cannot be a `.tflite` file of built-in "
            "operations, which compute in float32. Replace the operation that "
            "the converter names, give `input_signature` fixed sizes, or "
            "export a SavedModel. The converter says: "
            f"{_said(error)}{_other_dtypes(model)}{_on_tables(model)}"
        ) from error
    path.write_bytes(content)


def _converter(model, folder, options, sparse):
    """TensorFlow's converter of a SavedModel, set as the options say."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=["serving_default"]
    )
    # Without this an operation of TensorFlow would be let through, and fail
    # on the phone.
    operations = tf.lite.OpsSet.TFLITE_BUILTINS
    optimizations = set()
    if options.quantize is not None:
        optimizations.add(tf.lite.Optimize.DEFAULT)
    if options.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if options.quantize == "int8":
        if _has_loop(folder):
            raise ValueError(
                f"Model '{model.name}' cannot be quantized to int8: it has a "
                "loop, such as that of a recurrent layer, whose values the "
                "converter cannot observe. Give the layer `unroll=True` and "
                "its input a fixed length, or take `quantize='dynamic'`."
            )
        operations = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        names, batches = signature.names_of(model), options.batches or []
        converter.representative_dataset = lambda: (
            dict(zip(names, batch)) for batch in batches
        )
        if options.integer_io:
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
    if sparse:
        optimizations.add(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    converter.optimizations = optimizations
    converter.target_spec.supported_ops = [operations]
    return converter


def _has_loop(folder: pathlib.Path) -> bool:
    """Whether a SavedModel loops; calibration would end the process."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    nodes = [node for f in graph.library.function for node in f.node_def]
    return any(node.op in ("StatelessWhile", "While") for node in nodes)


def _other_dtypes(model: keras.Model) -> str:
    """What to add to an error for a model that is not all float32."""
    dtypes = {layer.compute_dtype for layer in model.layers} - {"float32"}
    return f" The model computes in {sorted(dtypes)}." if dtypes else ""


def _on_tables(model: keras.Model) -> str:
    """What to add to an error for a model that looks values up."""
    if not saved_model.tables(model):
        return ""
    return (
        " LiteRT has tables from strings to integers and back only, with the "
        "vocabulary in the model and not in a file. Put other lookups in "
        "front of the model, into the program that calls it."
    )


def _said(error: Exception) -> str:
    """The lines of a converter's error that name what it cannot do."""
    lines = re.findall(r"^.* ops: .*$", str(error), re.MULTILINE)
    lines = lines or re.findall(r"'tf\.\w+' op .*$", str(error), re.MULTILINE)
    return "; ".join(dict.fromkeys(lines)) or str(error)


def float_operators(path: pathlib.Path) -> list[str]:
    """The operators of a file that compute with floats.

    Args:
        path: The file.

    Returns:
        List of strings, as the format names them, such as `"CONV_3D"`.
    """
    found = set()
    for graph in flatbuffer.read(path):
        for operator in graph.operators:
            indices = (*operator.inputs, *operator.outputs)
            types = {graph.tensors[i].type for i in indices if i >= 0}
            if "FLOAT32" in types and operator.kind not in _CONVERSIONS:
                found.add(operator.kind)
    return sorted(found)


def load(path: pathlib.Path, model: keras.Model, quantize: str | None):
    """Loads the file into LiteRT's default interpreter.

    Args:
        path: The file.
        model: The model that was written.
        quantize: How it was written: `None` or one of
            `kprune.formats.QUANTIZATIONS`.

    Returns:
        Callable from a list of arrays, one per input, to a list of arrays of
        the model's units, one per output. It raises `DoesNotRun` where LiteRT
        does not take the file.
    """
    names = signature.names_of(model)
    output_names = signature.output_names_of(model)

    def run(inputs):
        try:
            return computed(inputs)
        except (RuntimeError, ValueError) as error:
            # The interpreter raises both.
            raise DoesNotRun(
                "LiteRT does not run the written file of model "
                f"'{model.name}': {error} {_advice(quantize)}"
            ) from error

    def computed(inputs):
        # A new one each time, as nothing else sets a recurrent layer's state
        # back.
        runner = interpreter.load(path).get_signature_runner("serving_default")
        # Inputs that the model does not use are not in the file.
        details = runner.get_input_details()
        given = {
            name: _quantized(x, details[name])
            for name, x in zip(names, inputs)
            if name in details
        }
        outputs = runner(**given)
        details = runner.get_output_details()
        return [_real(outputs[key], details[key]) for key in output_names]

    return run


def _advice(quantize: str | None) -> str:
    if quantize == "int8":
        return (
            "A tensor that is 0 for all of `representative_data` has no "
            "scale: look for dead units, such as a ReLU that is never "
            "positive, or take `quantize='float16'`."
        )
    return "Give `input_signature` fixed sizes, or export a SavedModel."


def _quantized(x, detail):
    """An input as the file takes it."""
    scale, zero = detail["quantization"]
    if not scale:
        return x
    limits = np.iinfo(detail["dtype"])
    steps = np.clip(np.round(x / scale) + zero, limits.min, limits.max)
    return steps.astype(detail["dtype"])


def _real(x, detail):
    """An output in the units of the model."""
    scale, zero = detail["quantization"]
    return (x.astype(np.float32) - zero) * scale if scale else x
