"""Opening `.tflite` files in LiteRT's interpreter."""

import os


def load(path: str | os.PathLike):
    """Loads a file into the default interpreter, on one thread.

    Args:
        path: The file. A damaged one can bring the process down:
            `kprune.tflite.flatbuffer.read` tells.

    Returns:
        `ai_edge_litert.interpreter.Interpreter`, its tensors not allocated.

    Raises:
        RuntimeError: If LiteRT has no kernel for an operator.
        ValueError: If it is no `.tflite` file.
    """
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=os.fspath(path), num_threads=1)
