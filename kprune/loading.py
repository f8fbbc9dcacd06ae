"""Reading `.keras` files, with errors that say what is wrong."""

import os
import zipfile

import keras


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a `.keras` file in Keras's safe mode.

    Args:
        path: The file.

    Returns:
        The `keras.Model`, not compiled.

    Raises:
        ValueError: If there is no such file, it is no `.keras` file, it is
            damaged, or it needs layers that are not known here.

    Example:

    ```python
    model = kprune.loading.load_model("mnist.keras")
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
        return keras.saving.load_model(path, compile=False)
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
            "own (import the module that registers them first). "
            f"Keras says: {error}"
        ) from error
