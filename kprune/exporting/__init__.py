"""`export`: from a model to a file that is small, checked and complete."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import keras

from kprune import files
from kprune.exporting import (
    arguments,
    checking,
    keras_file,
    litert,
    onnx_file,
    representative,
    saved_model,
    signature,
    target,
    tflite_file,
)
from kprune.keras_internals import sublayers
from kprune.prunable import prunable_layers
from kprune.stripping import strip
from kprune.structure import flattening
from kprune.structure.graph import readable
from kprune.zeros import masked_share

_WRITERS = {
    "keras": keras_file,
    "onnx": onnx_file,
    "saved_model": saved_model,
}


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What `kprune.export` wrote.

    Args:
        path: String. The file or folder.
        format: String. `"saved_model"`, `"tflite"`, `"onnx"` or `"keras"`.
        bytes: Integer. Its size; of a folder that of all its files.
        gzip_bytes: Integer. The same after gzip, as a download or an app
            package carries it.
        largest_difference: Float. The largest absolute difference between
            the outputs of the stripped model and of the file loaded again, on
            random input, or on some of the representative data.
        is_sparse: Boolean. Whether zeros are left out of the file.
        note: String. What is not as one would think: that no weight of the
            model is masked; and of a `.tflite` which operators of an int8
            file compute with floats, or that its steps are larger than the
            model's outputs; why the file is not sparse although that was
            asked for, or would have made it smaller; that the sparse file is
            larger after gzip. Else empty.
        checked_on: String. Of a `.tflite`: the CPU that ran it to compare,
            and whether XNNPACK's sparse kernels are on there. Else empty.

    Example:

    ```python
    result = kprune.export(model, "savedmodels/mnist.tflite")
    print(result)
    print(f"{result.bytes:,} bytes, {result.gzip_bytes:,} as a download")
    ```
    """

    path: str
    format: str
    bytes: int
    gzip_bytes: int
    largest_difference: float
    is_sparse: bool = False
    note: str = ""
    checked_on: str = ""

    def __str__(self) -> str:
        text = (
            f"{self.path}: {self.bytes:,} bytes, {self.gzip_bytes:,} gzipped; "
            f"largest difference {self.largest_difference:.3g}"
        )
        if self.is_sparse:
            text += "; zeros are left out"
        if self.checked_on:
            text += f"; checked on {self.checked_on}"
        return "\n".join(filter(None, [text, self.note]))


def export(
    model: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    *,
    format: str | None = None,
    quantize: str | None = None,
    representative_data: Iterable | Callable | None = None,
    integer_io: bool = False,
    sparse: bool | str = "auto",
    input_signature: Sequence | dict | keras.InputSpec | None = None,
) -> ExportResult:
    """Strips a model if needed, writes it, and checks what it wrote.

    The file is written in a temporary place, loaded again, compared with the
    stripped model on random input, and only then moved into place. Whatever
    fails, what was there before stays.

    - SavedModel (a folder): about one copy of the weights. It has `serve`,
      which `keras.layers.TFSMLayer` calls, and the signature
      `serving_default`, in which outputs have the keys of a model whose
      outputs are a dict, else the names `output_0` and so on; a `.tflite`
      has the same.
    - `.tflite`: built-in operations only, batch size 1, for the LiteRT
      interpreter.
    - `.onnx`: by Keras's own exporter; needs `pip install "kprune[onnx]"`.
    - `.keras`: plain Keras, loads without kprune.

    Recurrent layers with `stateful=True` start with a state of zeros in the
    file, and go on from call to call; the model's own state stays as it is.

    On the JAX and torch backends all but `.keras` are written with the help
    of a second process with the TensorFlow backend.

    Args:
        model: A built model, with prunable layers or plain (a subclassed one
            is flattened by a symbolic call); or the path of a `.keras` or
            `.h5` file.
        path: Where to write. Missing folders are made. A file or an earlier
            SavedModel is replaced; a folder that holds anything else, a link
            or a device is not touched.
        format: String. `"saved_model"`, `"tflite"`, `"onnx"` or `"keras"`;
            `None` goes by the suffix of the path (no suffix: a SavedModel).
        quantize: Of a `.tflite`: `"float16"` (half the bytes), `"dynamic"`
            (weights of 8 bits, computed with floats) or `"int8"` (all of it
            in 8 bits: the fastest; needs `representative_data`).
        representative_data: For `"int8"`: some hundred samples of what the
            model will see. An array with the samples along its first axis
            (for several inputs a list or dict of arrays), an iterable of
            batches such as a `tf.data.Dataset`, or a callable that returns
            one. At most 500 are used.
        integer_io: Boolean. Of `"int8"`: whether inputs and outputs are int8
            as well, instead of floats.
        sparse: Of a `.tflite`: whether zeros are left out of the file. It
            gets smaller, not faster, and takes longer to load. After gzip it
            can be larger than the plain one, which `note` then says: for an
            app store, which compresses, take `False`.
            `"auto"` does so with floats where the file gets smaller; `True`
            with 8 bits as well, though few such files run. A file that
            LiteRT's default interpreter does not run is never written; then
            the plain one is, and `note` says so. The same with `"auto"` for
            a file that would compute wrong numbers on another CPU (see
            `kprune.check_sparse_inference`); `True` refuses it.
        input_signature: The shapes of the inputs, each a tuple that starts
            with the batch size (`None` for any) or a `keras.InputSpec`; a
            list or dict of them for several inputs. `None`: the model's own,
            with batch size 1 for a `.tflite`, any for the others. A `.keras`
            file always keeps the model's own.

    Returns:
        An `ExportResult`.

    Raises:
        ValueError: If the model is not built, or subclassed with a call that
            cannot be traced, the format or an argument is not known or does
            not fit, the path cannot be written, an operation has no
            built-in kernel in LiteRT, or with `sparse=True` the file would
            compute wrong numbers on CPUs with XNNPACK's sparse kernels.
        RuntimeError: If the file's outputs differ from the model's by more
            than the precision in which the model computes, and that of
            quantized weights, explain.
        OSError: If the disk is full.

    Example:

    ```python
    result = kprune.export(
        model, "mnist.tflite", quantize="int8", representative_data=x[:200]
    )
    print(result.bytes, result.gzip_bytes)
    ```
    """
    if isinstance(model, (str, os.PathLike)):
        model = files.load_model(model)
    original, model = model, readable(model, "export")
    flattening.warn_of_unused(original, model)
    path = pathlib.Path(path)
    format = target.format_of(path, format)
    has_data = representative_data is not None
    arguments.check_tflite_only(format, quantize, sparse)
    arguments.check_int8_only(quantize, has_data or integer_io)
    arguments.check_own_shapes(format, input_signature)
    is_stateful = any(getattr(x, "stateful", False) for x in sublayers(model))
    if format == "onnx" and is_stateful:
        raise ValueError(
            f"Model '{model.name}' has a layer with `stateful=True`, and an "
            "`.onnx` file keeps no state from call to call. Pass the state in "
            "and out as tensors (`initial_state`, `return_state=True`), or "
            "export a SavedModel or a `.tflite`."
        )
    target.check(path, format)
    batch_size = 1 if format == "tflite" else None
    shapes = signature.shapes_of(model, batch_size, input_signature)
    batches = None
    if quantize == "int8":
        batches = representative.batches_of(model, shapes, representative_data)
    # Also a plain model is copied: if compiled, without its optimizer, whose
    # state a `.keras` file would hold; with recurrent state, to start anew.
    is_prunable = bool(prunable_layers(model))
    is_dense = is_prunable and not masked_share(model)
    if is_prunable or model.compiled or is_stateful:
        model = strip(model, compact=is_prunable)
    with files.temporary_folder(path) as folder:
        # Keras goes by the suffix of what it writes. Nothing else of the name
        # is kept, so that no helper's file in the folder has the same.
        written = folder / f"model{path.suffix}"
        if format == "tflite":
            options = litert.Options(quantize, batches, integer_io)
            found = dataclasses.asdict(
                tflite_file.write(model, written, shapes, options, sparse)
            )
        else:
            found = _written(model, written, shapes, _WRITERS[format])
        files.move(written, path)
    if is_dense:
        found["note"] = " ".join(filter(None, [_NOT_PRUNED, found["note"]]))
    return ExportResult(str(path), format, *files.sizes(path), **found)


_NOT_PRUNED = (
    "No weight of the model is masked, so nothing is pruned in the file: "
    "before the export train with `callbacks=[kprune.PruningScheduler()]`, or "
    "call `kprune.prune(model, 0.5)`."
)


def _written(model, path, shapes, writer) -> dict:
    """Writes a file with a writer, and compares it with the model."""
    writer.write(model, path, shapes)
    random = [checking.random_batch(model, shapes)]
    difference = checking.Check(model, random).difference(
        writer.load(path, model)
    )
    return {"largest_difference": difference, "note": ""}
