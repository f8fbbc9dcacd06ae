"""Comparing a written file with the model that it was made of."""

import keras
import numpy as np

from kprune.exporting.keras_file import outputs_of

# Of the largest output. Kernels differ between runtimes by a few roundings;
# a wrong weight or a lost operation differs by far more.
_TOLERANCE = {"bfloat16": 5e-2, "float16": 2e-2}
_DEFAULT_TOLERANCE = 1e-3

_UNKNOWN_SIZE = 64


def largest_difference(model: keras.Model, path, writer) -> float:
    """Runs a written file and the model on the same random input.

    Args:
        model: The model that was written.
        path: What was written.
        writer: The module of the format, with `run` and `BATCH_SIZE`.

    Returns:
        Float. The largest absolute difference over all outputs.

    Raises:
        RuntimeError: If an output differs by more than rounding explains, or
            is nan.
    """
    inputs = random_inputs(model, writer.BATCH_SIZE)
    expected = outputs_of(model, inputs)
    received = writer.run(path, model, inputs)
    largest = 0.0
    for tensor, wanted, got in zip(model.outputs, expected, received):
        wanted = np.asarray(wanted, np.float64)
        difference = float(np.max(np.abs(wanted - got), initial=0.0))
        scale = float(np.max(np.abs(wanted), initial=0.0))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        allowed = _TOLERANCE.get(dtype, _DEFAULT_TOLERANCE) * max(scale, 1e-6)
        if not difference <= allowed:
            raise RuntimeError(
                f"The written file does not compute what model '{model.name}' "
                f"does: output '{tensor.name}' differs by {difference:.3g} on "
                f"random input, where {allowed:.3g} is allowed (largest "
                f"output {scale:.3g}). Nothing was replaced. Check the model "
                "for nan weights and for operations that are random in "
                "inference."
            )
        largest = max(largest, difference)
    return largest


def random_inputs(model: keras.Model, batch_size: int) -> list:
    """Random arrays of the shapes and dtypes of a model's inputs.

    Args:
        model: A Sequential or Functional model.
        batch_size: Integer.

    Returns:
        List of arrays, one per input: normal floats, or 0 and 1 for integers
        and booleans, which are valid indices of any table of two rows.
    """
    generator = np.random.default_rng(0)
    inputs = []
    for tensor in model.inputs:
        sizes = [_UNKNOWN_SIZE if s is None else s for s in tensor.shape[1:]]
        shape = (tensor.shape[0] or batch_size, *sizes)
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if "float" in dtype:
            values = generator.standard_normal(shape)
        else:
            values = generator.integers(2, size=shape)
        inputs.append(values.astype(dtype))
    return inputs
