"""Reading `.keras` files, with errors that say what is wrong."""

import os
import zipfile

import keras


def load_model(
    path: str | os.PathLike, *, safe_mode: bool = True
) -> keras.Model:
    """Loads a `.keras` file, by default in Keras's safe mode.

    Args:
        path: The file.
        safe_mode: Boolean. Whether to refuse what would run code that the
            file holds, such as a Lambda layer.

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        ValueError: If there is no such file, it is no `.keras` file, it is
            damaged, or it needs layers that are not known here.

    Example:

    ```python
    model = kprune.files.load_model("mnist.keras")
    ```
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"There is no file '{path}'.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"'{path}' is no `.keras` file, or it is damaged: it is not the "
            "zip archive that `model.save('name.keras')` writes."
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=safe_mode)
    except (
        EOFError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(
            f"'{path}' cannot be loaded as a Keras model: it is damaged, was "
            "not written by `model.save('name.keras')`, or has layers of your "
            "own (import the module that registers them first) or code of a "
            "Lambda layer (if you trust the file, call "
            "`keras.config.enable_unsafe_deserialization()` first; the "
            "command takes --no-safe-mode). "
            f"Keras says: {error}"
        ) from error
