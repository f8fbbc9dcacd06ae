"""Where a file goes: its format, and whether its place is free for it."""

import pathlib

from kprune import files
from kprune.exporting import saved_model
from kprune.formats import FORMATS

_SUFFIXES = {
    "": "saved_model",
    ".keras": "keras",
    ".onnx": "onnx",
    ".tflite": "tflite",
}


def format_of(path: pathlib.Path, format: str | None) -> str:
    """The format to write in: the one asked for, or that of the suffix.

    Args:
        path: `pathlib.Path`. Where to write.
        format: String: one of `kprune.formats.FORMATS`, or `None`.

    Returns:
        String: one of `kprune.formats.FORMATS`.

    Raises:
        ValueError: If there is no such format, or the suffix does not go
            with it.
    """
    if format is None and path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    if format is None:
        raise ValueError(
            f"The suffix '{path.suffix}' is of no format that kprune writes: "
            "'.tflite', '.onnx', '.keras', or none for a SavedModel folder. "
            f"Choose one, or pass `format`, one of {FORMATS}. "
            f"Received: path='{path}'"
        )
    if format not in FORMATS:
        raise ValueError(
            f"Unknown format. Expected one of {FORMATS}. "
            f"Received: format={format!r}"
        )
    if format == "keras" and path.suffix != ".keras":
        raise ValueError(
            "Keras loads a file in its format only if it is named '.keras'. "
            f"Received: path='{path}'"
        )
    return format


def check(path: pathlib.Path, format: str) -> None:
    """Checks that writing loses nothing that is no earlier export.

    Args:
        path: `pathlib.Path`. Where to write.
        format: String: one of `kprune.formats.FORMATS`.

    Raises:
        ValueError: If a link or a device is there, a folder is where a file
            goes or the other way round, a folder holds something else than a
            SavedModel, or it is the current one.
    """
    files.check_place(path)
    if path.exists() and path.samefile("."):
        raise ValueError(
            f"'{path}' is the current folder, which cannot be replaced. "
            "Choose another path, such as a new folder in it."
        )
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
        others = saved_model.others(path)
        is_empty = not any(path.iterdir())
        if others or not (is_empty or (path / "saved_model.pb").is_file()):
            raise ValueError(
                f"The folder '{path}' holds something else than a SavedModel "
                f"({others[:3]}), so it is not replaced. Choose another path, "
                "or empty it first."
            )
