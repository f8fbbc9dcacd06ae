"""Files: reading models and arrays, sizes, and writing without losing any."""

import contextlib
import gzip
import os
import pathlib
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

import keras
import numpy as np

from kprune import keras2, unreadable


def load_model(
    path: str | os.PathLike, *, safe_mode: bool = True
) -> keras.Model:
    """Loads a `.keras` or `.h5` file, by default in Keras's safe mode.

    An `.h5` file of Keras 2 is converted on the way, where Keras 3 computes
    the same; the file itself stays as it is.

    Args:
        path: The file.
        safe_mode: Boolean. Whether to refuse what would run code that the
            file holds, such as a Lambda layer.

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        ValueError: If there is no such file, it is of another format, it is
            damaged, it holds weights alone, or it needs layers that are not
            known here.

    Example:

    ```python
    model = kprune.files.load_model("mnist.keras")
    ```
    """
    path = pathlib.Path(path)
    if path.suffix == ".tflite":
        raise ValueError(
            f"'{path}' is a `.tflite` file, which cannot be changed any more: "
            "pass the `.keras` file that it was made of. `kprune cost` reads "
            "both."
        )
    check_is_file(path)
    try:
        loaded = _load(path, safe_mode)
    except keras2.NotConverted:
        raise
    # What Keras, its readers and layers raise of files that are damaged or
    # hold something else.
    except (
        AttributeError,
        EOFError,
        IndexError,
        KeyError,
        NotImplementedError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(unreadable.reason(path, error)) from error
    if not isinstance(loaded, keras.Model):
        kind = type(loaded).__name__
        raise ValueError(f"'{path}' holds a {kind}, which is no model.")
    return loaded


def _load(path, safe_mode):
    import h5py

    if h5py.is_hdf5(path):
        with tempfile.TemporaryDirectory() as folder:
            # Keras goes by the suffix.
            copy = pathlib.Path(folder) / "model.h5"
            keras2.convert_h5(path, copy)
            return keras.saving.load_model(
                copy, compile=False, safe_mode=safe_mode
            )
    return keras.saving.load_model(path, compile=False, safe_mode=safe_mode)


def load_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of a `.npy` or `.npz` file.

    Args:
        path: The file. Nothing in it is unpickled.

    Returns:
        Dict from the name of each to the array; that of a `.npy` file has the
        name `""`.

    Raises:
        ValueError: If there is no such file, it is damaged, it holds no
            arrays of numbers, or none at all.
    """
    check_is_file(path)
    try:
        # Of a damaged file NumPy would leave open what it opened itself.
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"": found}
            with found:
                arrays = {name: found[name] for name in found.files}
    except (
        EOFError,
        OSError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"'{path}' is no `.npy` or `.npz` file of numbers, or is damaged: "
            f"{error}. `numpy.savez` writes such files."
        ) from error
    if not arrays:
        raise ValueError(f"'{path}' is empty: it holds no arrays.")
    return arrays


def check_is_file(path: str | os.PathLike) -> None:
    """Checks that there is a file to read.

    Args:
        path: Path of the file.

    Raises:
        ValueError: If there is nothing, or what is there is no file; of a
            SavedModel with what can be done.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(f"There is no file '{path}'.")
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder, not a file.{_advice(path)}")
    if not path.is_file():
        raise ValueError(f"'{path}' is {_kind(path.stat())}, not a file.")
    if not os.access(path, os.R_OK):
        raise ValueError(f"'{path}' cannot be read: permission is denied.")


def _advice(folder) -> str:
    if (folder / "keras_metadata.pb").exists():
        return (
            " It is a SavedModel of Keras 2. Load it there "
            "(`tf_keras.models.load_model`), save it with "
            "`model.save('name.h5')`, and pass that file."
        )
    if (folder / "saved_model.pb").exists():
        return (
            " It is a SavedModel, and no Keras model can be made of one "
            "again: pass the `.keras` file of the model. To run it as it is "
            "take `keras.layers.TFSMLayer`."
        )
    return ""


def _kind(status: os.stat_result) -> str:
    return {
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }.get(stat.S_IFMT(status.st_mode), "something else")


def sizes(path: str | os.PathLike) -> tuple[int, int]:
    """The bytes of a file, or of all files in a folder, raw and gzipped.

    Args:
        path: A file or a folder, such as a SavedModel.

    Returns:
        Tuple of two integers.

    Raises:
        ValueError: If nothing is there.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        check_is_file(path)
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    contents = [file.read_bytes() for file in inside if file.is_file()]
    return (
        sum(len(content) for content in contents),
        sum(len(gzip.compress(content)) for content in contents),
    )


def check_place(path: pathlib.Path) -> None:
    """Checks that what is at a path can be replaced, or that it is free.

    Args:
        path: `pathlib.Path`. Where something is to be written.

    Raises:
        ValueError: If a link is there (even one that leads nowhere), a
            device, a pipe or a socket.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _not_written(path, error) from error
    if stat.S_ISLNK(status.st_mode):
        raise ValueError(
            f"'{path}' is a link to '{os.path.realpath(path)}', and links are "
            "not replaced. Write to that path itself, or remove the link."
        )
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ValueError(
            f"'{path}' is {_kind(status)}, which is not replaced by a file. "
            "Choose another path."
        )


def _not_written(path, error) -> ValueError:
    return ValueError(
        f"'{path}' cannot be written to: {error}. Choose another path."
    )


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
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
        raise _not_written(path.parent, error) from error
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

    Raises:
        ValueError: If by now something is there that is not replaced.
    """
    check_place(path)
    if not (path.is_dir() and written.is_dir()):
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
