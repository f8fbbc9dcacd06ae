"""Writing a checked `.tflite`, sparse-encoded where that is of use."""

import dataclasses
import pathlib

import keras

from kprune.exporting import checking, full_precision, litert, sparse_file
from kprune.tflite import processor

# Enough to tell a broken file from a rounded one.
_CHECKED_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class Written:
    """What came out, as `ExportResult` has it.

    Args:
        largest_difference: Float.
        is_sparse: Boolean.
        note: String.
        checked_on: String.
    """

    largest_difference: float
    is_sparse: bool
    note: str
    checked_on: str


def write(
    model: keras.Model,
    path: pathlib.Path,
    shapes: list,
    options: litert.Options,
    sparse: bool | str,
) -> Written:
    """Writes a `.tflite` and compares it with the model.

    Args:
        model: A plain Keras model.
        path: `pathlib.Path` of the file.
        shapes: List of tuples: the shape of each input, batch size first.
        options: How it is written.
        sparse: True, False or `"auto"`, as `kprune.export` has it.

    Returns:
        What was `Written`.

    Raises:
        ValueError: If it cannot be written, or only a sparse file is asked
            for that would be wrong on some CPUs.
        RuntimeError: If the file's outputs differ from the model's.
    """
    if options.batches is None:
        batches = [checking.random_batch(model, shapes)]
    else:
        batches = options.batches[:_CHECKED_BATCHES]
    # What the file computes, where the model is of half precision.
    exact = full_precision.in_float32(model)
    check = checking.Check(
        model, batches, options.quantize, None if exact is model else exact
    )
    litert.write(exact, path, shapes, options)
    run = litert.load(path, model, options.quantize)
    difference = check.difference(run)
    is_eight_bits = options.quantize in ("dynamic", "int8")
    of_sparse, note = None, ""
    if sparse is True or (sparse and not is_eight_bits):
        try:
            of_sparse, note = sparse_file.replace(
                exact, path, shapes, options, check
            )
        except sparse_file.ComputesWrong as error:
            if sparse is True:
                raise
            note = str(error)
        if of_sparse is None and sparse is True and not note:
            note = "A sparse file is not smaller: too few weights are zero."
    notes = [note, _note_on_floats(path) if options.quantize == "int8" else ""]
    if check.is_blind:
        notes.append(
            "The model's outputs are smaller than the steps of an int8 "
            "softmax, so that the file can return zeros in their place."
        )
    return Written(
        difference if of_sparse is None else of_sparse,
        of_sparse is not None,
        " ".join(filter(None, notes)),
        processor.description(),
    )


def _note_on_floats(path) -> str:
    """What to say of an int8 file that is not all in 8 bits."""
    kinds = litert.float_operators(path)
    if not kinds:
        return ""
    return (
        "Not all of the file computes in 8 bits, as LiteRT's kernels do not "
        f"allow it. With floats: {', '.join(kinds)}."
    )
