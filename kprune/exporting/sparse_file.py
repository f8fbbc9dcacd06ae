"""Sparse `.tflite` files: zeros are left out where LiteRT can do without.

Most files of 8-bit weights fail in LiteRT's interpreter when they are sparse,
and gzip makes the plain ones smaller anyway, so they are sparse on request
only. With floats gzip mostly leaves the two alike; where it does not, the
result says so. Whatever is written has run before.
"""

import pathlib

import keras
import numpy as np

from kprune import files
from kprune.exporting import checking, litert

# The converter leaves kernels with a smaller share of zeros as they are.
_SMALLEST_SHARE = 0.3


def replace(
    model: keras.Model,
    plain: pathlib.Path,
    shapes: list,
    options: litert.Options,
    check: checking.Check,
) -> tuple[float | None, str]:
    """Replaces a plain file by a sparse one that is smaller and runs.

    Args:
        model: A plain Keras model.
        plain: `pathlib.Path` of the plain file.
        shapes: List of tuples: the shape of each input, batch size first.
        options: How the plain file was written.
        check: What the model computes.

    Returns:
        Tuple: the largest difference of the sparse file's outputs, `None`
        where the plain file stays; and a note: why LiteRT does not run a
        sparse file that is smaller, or that it is larger after gzip; else an
        empty string.
    """
    if max(map(_share_of_zeros, model.weights), default=0) < _SMALLEST_SHARE:
        return None, ""
    sparse = plain.with_name("sparse.tflite")
    try:
        litert.write(model, sparse, shapes, options, sparse=True)
        if sparse.stat().st_size >= plain.stat().st_size:
            return None, ""
        run = litert.load(sparse, model, options.quantize)
        difference = check.difference(run)
    except litert.DoesNotRun as error:
        return None, f"LiteRT does not run the sparse file: {error.__cause__}"
    except (RuntimeError, ValueError) as error:
        return None, f"LiteRT does not run the sparse file: {error}"
    note = _note_on_gzip(files.sizes(sparse)[1], files.sizes(plain)[1])
    sparse.replace(plain)
    return difference, note


def _note_on_gzip(sparse: int, plain: int) -> str:
    if sparse <= plain:
        return ""
    return (
        f"As a download the sparse file is larger: {sparse:,} bytes after "
        f"gzip, where the plain one has {plain:,}. `sparse=False` writes that."
    )


def _share_of_zeros(variable) -> float:
    if len(variable.shape) < 2:
        return 0.0
    values = keras.ops.convert_to_numpy(variable)
    return float(np.mean(values == 0)) if values.size else 0.0
