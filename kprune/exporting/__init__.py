"""`export`: from a model to a file that is small, checked and complete."""

import contextlib
import dataclasses
import gzip
import os
import pathlib
import shutil
import tempfile

import keras

from kprune.exporting import checking, keras_file, litert, saved_model
from kprune.loading import load_model
from kprune.stripping import strip
from kprune.structure import functional
from kprune.structure.graph import readable

_WRITERS = {
    "keras": keras_file,
    "saved_model": saved_model,
    "tflite": litert,
}
_SUFFIXES = {"": "saved_model", ".keras": "keras", ".tflite": "tflite"}


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What `kprune.export` wrote.

    Args:
        path: String. The file or folder.
        format: String. `"saved_model"`, `"tflite"` or `"keras"`.
        bytes: Integer. Its size; of a folder that of all its files.
        gzip_bytes: Integer. The same after gzip, as a download or an app
            package carries it.
        largest_difference: Float. The largest absolute difference between
            the outputs of the stripped model and of the file loaded again, on
            random input.

    Example:

    ```python
    result = kprune.export(model, "savedmodels/mnist.tflite")
    print(f"{result.bytes:,} bytes, {result.gzip_bytes:,} as a download")
    ```
    """

    path: str
    format: str
    bytes: int
    gzip_bytes: int
    largest_difference: float


def export(
    model: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    *,
    format: str | None = None,
) -> ExportResult:
    """Strips a model if needed, writes it, and checks what it wrote.

    The file is written in a temporary place, loaded again, compared with the
    stripped model on random input, and only then moved into place. Whatever
    fails, what was there before stays.

    - SavedModel (a folder): about one copy of the weights. It has `serve`,
      which `keras.layers.TFSMLayer` calls, and the signature
      `serving_default`.
    - `.tflite`: built-in operations only, batch size 1, for the LiteRT
      interpreter.
    - `.keras`: plain Keras, loads without kprune.

    On the JAX and torch backends a SavedModel or `.tflite` is written by a
    second process with the TensorFlow backend.

    Args:
        model: A built model, with prunable layers or plain (a subclassed one
            is flattened by a symbolic call); or the path of a `.keras` file.
        path: Where to write. Missing folders are made. A file or an earlier
            SavedModel is replaced; a folder that holds anything else is not
            touched.
        format: String. `"saved_model"`, `"tflite"` or `"keras"`; `None` goes
            by the suffix of the path (no suffix: a SavedModel).

    Returns:
        An `ExportResult`.

    Raises:
        ValueError: If the model is not built, or subclassed with a call that
            cannot be traced, the format is not known, the path cannot be
            written, or an operation has no built-in kernel in LiteRT.
        RuntimeError: If the file's outputs differ from the model's.

    Example:

    ```python
    result = kprune.export(model, "savedmodels/mnist.tflite")
    print(result.bytes, result.gzip_bytes)
    ```
    """
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model)
    model = readable(model, "export")
    path = pathlib.Path(path)
    format = _format(path, format)
    _check_target(path, format)
    if functional.prunable_layers(model):
        model = strip(model)
    elif model.compiled:
        # A copy without the optimizer, whose state a `.keras` file would hold.
        model = strip(model, compact=False)
    writer = _WRITERS[format]
    with _temporary_folder(path) as folder:
        # Keras goes by the suffix of what it writes.
        written = folder / path.name
        writer.write(model, written)
        difference = checking.largest_difference(model, written, writer)
        _move_into_place(written, path, folder)
    return ExportResult(
        str(path),
        format,
        sum(file.stat().st_size for file in _files(path)),
        sum(len(gzip.compress(file.read_bytes())) for file in _files(path)),
        difference,
    )


def _format(path: pathlib.Path, format: str | None) -> str:
    if format is None and path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    if format is None:
        raise ValueError(
            f"The suffix '{path.suffix}' is of no format that kprune writes: "
            "'.tflite', '.keras', or none for a SavedModel folder. Choose "
            f"one, or pass `format`, one of {sorted(_WRITERS)}. "
            f"Received: path='{path}'"
        )
    if format not in _WRITERS:
        raise ValueError(
            f"Unknown format. Expected one of {sorted(_WRITERS)}. "
            f"Received: format={format!r}"
        )
    if format == "keras" and path.suffix != ".keras":
        raise ValueError(
            "Keras loads a file in its format only if it is named '.keras'. "
            f"Received: path='{path}'"
        )
    return format


def _check_target(path: pathlib.Path, format: str) -> None:
    """Raises where writing would fail, or would lose what is there."""
    if format != "saved_model":
        if path.is_dir():
            raise ValueError(
                f"'{path}' is a folder, so no file can be written there. "
                "Choose another path."
            )
        return
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"'{path}' is a file, and a SavedModel is a folder. Choose "
            "another path."
        )
    if path.is_dir():
        names = {child.name for child in path.iterdir()}
        if names and not (
            "saved_model.pb" in names and names <= saved_model.CONTENTS
        ):
            raise ValueError(
                f"The folder '{path}' holds something else than a SavedModel "
                f"({sorted(names - saved_model.CONTENTS)[:3]}), so it is not "
                "replaced. Choose another path, or empty it first."
            )


@contextlib.contextmanager
def _temporary_folder(path: pathlib.Path):
    """A folder beside the target, so that moving is one rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".kprune-", dir=path.parent)
    except OSError as error:
        raise ValueError(
            f"'{path.parent}' cannot be written to: {error}. Choose another "
            "path."
        ) from error
    try:
        yield pathlib.Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(written, path, folder) -> None:
    if path.is_dir():
        # A folder cannot be renamed onto one that is not empty.
        before = folder / "before"
        path.rename(before)
        try:
            written.rename(path)
        except OSError:
            before.rename(path)
            raise
    else:
        written.replace(path)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    return [file for file in sorted(path.rglob("*")) if file.is_file()]
