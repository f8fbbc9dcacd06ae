"""Where a file goes: its format, its place, and moving it there whole."""

import contextlib
import gzip
import pathlib
import shutil
import tempfile

from kprune.exporting import saved_model

FORMATS = ("keras", "onnx", "saved_model", "tflite")
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
        format: String: one of `FORMATS`, or `None`.

    Returns:
        String: one of `FORMATS`.

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
        format: String: one of `FORMATS`.

    Raises:
        ValueError: If a folder is where a file goes or the other way round,
            a folder holds something else than a SavedModel, or it is the
            current one.
    """
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


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path):
    """A folder beside the target, so that moving is one rename.

    Args:
        path: `pathlib.Path`. Where to write in the end.

    Yields:
        `pathlib.Path` of the folder, which is gone afterwards.

    Raises:
        ValueError: If no folder can be made there.
        OSError: If writing fails in it, such as on a full disk.
    """
    above = [path.parent, *path.parent.parents]
    made = [folder for folder in above if not folder.exists()]
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
    except OSError as error:
        raise OSError(
            error.errno,
            f"'{path}' could not be written: {error.strerror or error}. "
            "Nothing was replaced.",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # Where nothing was written no new folders stay.
        with contextlib.suppress(OSError):
            for empty in made:
                empty.rmdir()


def move(written: pathlib.Path, path: pathlib.Path) -> None:
    """Moves what is complete to where it belongs.

    Args:
        written: `pathlib.Path`, in a temporary folder beside the target.
        path: `pathlib.Path`. The target.
    """
    if not path.is_dir():
        written.replace(path)
        return
    # A folder cannot be renamed onto one that is not empty.
    before = written.with_name("before")
    path.rename(before)
    try:
        written.rename(path)
    except OSError:
        before.rename(path)
        raise


def sizes(path: pathlib.Path) -> tuple[int, int]:
    """The bytes of a file, or of all files of a folder.

    Args:
        path: `pathlib.Path`.

    Returns:
        Tuple of two integers: as they are, and after gzip.
    """
    files = [path] if path.is_file() else path.rglob("*")
    contents = [file.read_bytes() for file in files if file.is_file()]
    return (
        sum(map(len, contents)),
        sum(len(gzip.compress(content)) for content in contents),
    )
