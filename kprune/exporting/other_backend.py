"""Writing TensorFlow's formats while Keras runs on JAX or torch.

Keras chooses its backend once a process, so a second process with the
TensorFlow backend does the writing; a `.keras` file carries the model there.
"""

import errno
import importlib
import json
import os
import pathlib
import subprocess
import sys
import traceback

import keras

from kprune.files import load_model

_MODULE = "kprune.exporting.other_backend"
# The process ends with this and the number of an error of the file system.
_OS_ERROR = 100


def write(
    model: keras.Model, path: pathlib.Path, writer: str, shapes: list
) -> None:
    """Has a model written by a process with the TensorFlow backend.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` of what to write.
        writer: String. The full name of the module whose `write` does it.
        shapes: List of tuples: the shape of each input, batch size first.

    Raises:
        ValueError: If the process fails, with what it said and what to do.
        OSError: If it cannot write, such as on a full disk.
    """
    source = path.with_name("for_tensorflow.keras")
    model.save(source)
    finished = subprocess.run(
        [
            *(sys.executable, "-m", _MODULE),
            *(str(source), str(path), writer, json.dumps(shapes)),
        ],
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            # So that kprune is found where it is not installed.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
    )
    if finished.returncode > _OS_ERROR:
        number = finished.returncode - _OS_ERROR
        raise OSError(number, os.strerror(number))
    if finished.returncode:
        last_lines = "\n".join(finished.stderr.splitlines()[-3:])
        raise ValueError(
            f"Model '{model.name}' could not be written by the TensorFlow "
            "backend, which these formats need. If it has layers of your own, "
            "save `kprune.strip(model)` as a `.keras` file, and export that "
            "with KERAS_BACKEND=tensorflow in a program that imports them. "
            f"The process said:\n{last_lines}"
        )


def _main(source: str, path: str, writer: str, shapes: str) -> None:
    module = importlib.import_module(writer)
    # The process that started this one runs the same model.
    model = load_model(source, safe_mode=False)
    try:
        module.write(model, pathlib.Path(path), json.loads(shapes))
    except OSError as error:
        traceback.print_exc()
        sys.exit(_OS_ERROR + (error.errno or errno.EIO))


if __name__ == "__main__":
    _main(*sys.argv[1:])
