"""Why a file cannot be loaded as a model, in fewer words than Keras has."""

import json
import pathlib
import re
import textwrap
import zipfile
import zlib


def reason(path: pathlib.Path, error: Exception) -> str:
    """What is wrong with the file, and what to do.

    Args:
        path: `pathlib.Path` of the file.
        error: What loading it raised.

    Returns:
        String: the message of the error for the user.
    """
    if not zipfile.is_zipfile(path) and path.suffix not in (".h5", ".hdf5"):
        return (
            f"'{path}' is no `.keras` file, or it is damaged: it is not the "
            "zip archive that `model.save('name.keras')` writes."
        )
    said = str(error)
    unknown = re.findall(
        r"(?:Could not locate \w+|Unknown [\w ]+:) '([^']+)'", said
    )
    version = _keras_version(path)
    if version.startswith("2."):
        return (
            f"'{path}' was written by Keras {version}, whose `.keras` files "
            "Keras 3 does not read. Load it there, save it with "
            "`model.save('name.h5')`, and pass that file."
        )
    if unknown:
        registered = re.findall(rf"'([^']+>{re.escape(unknown[-1])})'", said)
        name = registered[-1] if registered else unknown[-1]
        return (
            f"'{path}' has layers of your own, of another package, or of "
            f"Keras 2 alone: '{name}' is not known here. Import the module "
            "that registers it first (the command takes --import MODULE; "
            "classes are registered by "
            "`keras.saving.register_keras_serializable`)."
        )
    if "Lambda" in said and "safe_mode" in said:
        return (
            f"'{path}' has a Lambda layer, and the code in it could do "
            "anything. If you trust the file, call "
            "`keras.config.enable_unsafe_deserialization()` first; the "
            "command takes --no-safe-mode."
        )
    # Keras shows whole configs; the last of nested reasons is the first one.
    said = said.rpartition("Exception encountered: ")[2]
    said = re.split(r"\s*(?:Full object )?config[:=]? ?{", said)[0]
    return (
        f"'{path}' cannot be loaded as a Keras model: it is damaged, or "
        "`model.save` did not write it. Keras says: "
        f"{type(error).__name__}: {textwrap.shorten(said, 300)}"
    )


def _keras_version(path) -> str:
    """Which Keras wrote a `.keras` file; empty where nothing says so."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json"))["keras_version"]
    except (KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error):
        return ""
