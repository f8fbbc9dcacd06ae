"""Sparse `.tflite` files: zeros are left out where LiteRT can do without.

Most files of 8-bit weights fail in LiteRT's interpreter when they are sparse,
and gzip makes the plain ones smaller anyway, so they are sparse on request
only. With floats gzip mostly leaves the two alike; where it does not, the
result says so. Whatever is written has run before, and is right on CPUs with
XNNPACK's sparse kernels too, which this one may not have.
"""

import pathlib

import keras
import numpy as np

from kprune import files
from kprune.exporting import checking, litert
from kprune.tflite.sparse_inference import check_sparse_inference

# The converter leaves kernels with a smaller share of zeros as they are.
_SMALLEST_SHARE = 0.3


class ComputesWrong(ValueError):
    """A sparse file would be wrong on other CPUs than this one."""


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

    Raises:
        ComputesWrong: If XNNPACK's sparse kernels would compute wrong
            numbers from a sparse file. The plain file stays.
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
    _check_other_cpus(model, sparse)
    note = _note_on_gzip(files.sizes(sparse)[1], files.sizes(plain)[1])
    sparse.replace(plain)
    return difference, note


def _check_other_cpus(model: keras.Model, path: pathlib.Path) -> None:
    found = check_sparse_inference(path)
    if found.verdict == "wrong":
        raise ComputesWrong(
            f"A sparse-encoded file of model '{model.name}' would compute "
            "wrong numbers on ARM, in browsers and on x86 without AVX, where "
            "XNNPACK takes its kernels for sparse weights. "
            f"{found.operator}: {found.reason}. A plain file is right "
            "everywhere (`sparse=False`); for a sparse one put another layer "
            "in the place of that operator."
        )


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
