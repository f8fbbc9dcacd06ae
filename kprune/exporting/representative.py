"""Samples that show a converter what values flow through a model."""

import keras
import numpy as np

from kprune.exporting import signature

# More hardly moves a range, and each runs through the model one by one.
_MOST = 500


def batches_of(model: keras.Model, shapes: list, data) -> list:
    """Takes representative data apart into batches of the file's size.

    Args:
        model: A Sequential or Functional model.
        shapes: List of tuples: the shape of each input of the file.
        data: An array of samples, with the samples along the first axis; for
            several inputs a list or dict of arrays; or an iterable of batches
            (a generator, a `tf.data.Dataset`), or a callable that returns
            one.

    Returns:
        List of batches of at most 500 samples together: each a list of
        arrays, one per input of the model, of the batch size of the file (1
        where that is open).

    Raises:
        ValueError: If there is no data, or it does not fit.
    """
    if data is None:
        raise ValueError(
            "`quantize='int8'` needs `representative_data`: some hundred "
            "samples of what the model will see, such as "
            "`representative_data=x_train[:200]`."
        )
    samples = []
    for batch in _read(model, data):
        arrays = _checked(model, shapes, batch)
        for index in range(len(arrays[0])):
            samples.append([x[index : index + 1] for x in arrays])
        if len(samples) >= _MOST:
            break
    if not samples:
        raise ValueError(
            "`representative_data` is empty. Pass some hundred samples."
        )
    samples = samples[:_MOST]
    for name, arrays in zip(signature.keras_names(model), zip(*samples)):
        found = sorted({x.shape[1:] for x in arrays})
        if len(found) > 1:
            raise ValueError(
                "All samples of `representative_data` need the same shape. "
                f"Received for '{name}': {found[:3]}. Cut or pad them to one "
                "length, which `input_signature` can name."
            )
    return _joined(samples, shapes[0][0] or 1)


def _joined(samples: list, size: int) -> list:
    """Batches of `size`; the last is filled up with the first samples."""
    batches = []
    for start in range(0, len(samples), size):
        indices = range(start, start + size)
        chosen = [samples[index % len(samples)] for index in indices]
        batches.append([np.concatenate(arrays) for arrays in zip(*chosen)])
    return batches


def _read(model, data):
    """The batches of the data; errors of the user's own code are named."""
    try:
        if callable(data):
            data = data()
        if _is_one_batch(model, data):
            data = [data]
        elif isinstance(data, keras.utils.PyDataset):
            # Its own iteration does not stop at its length.
            data = map(data.__getitem__, range(len(data)))
        yield from data
    except Exception as error:
        raise ValueError(
            f"`representative_data` raised {type(error).__name__}: {error}"
        ) from error


def _is_one_batch(model, data) -> bool:
    if isinstance(data, (list, tuple)):
        # As many batches could be as many dicts or lists of arrays.
        are_arrays = all(hasattr(item, "shape") for item in data)
        fits = len(data) == len(model.inputs) > 1
        return fits and are_arrays
    return hasattr(data, "shape") or isinstance(data, dict)


def _checked(model, shapes, batch) -> list[np.ndarray]:
    """One batch as a list of arrays, one per input, that fit the file."""
    names = signature.keras_names(model)
    if isinstance(batch, tuple) and batch:
        # A dataset for `fit`: the labels follow the inputs.
        structured = isinstance(batch[0], (dict, list, tuple))
        if structured or len(names) == 1:
            batch = batch[0]
        else:
            batch = batch[: len(names)]
    if isinstance(batch, dict):
        batch = signature.in_order(model, batch, "representative_data")
    elif hasattr(batch, "shape"):
        batch = [batch]
    if not isinstance(batch, (list, tuple)) or len(batch) != len(names):
        received = (
            f"{len(batch)} of them"
            if isinstance(batch, (list, tuple))
            else repr(batch)
        )
        raise ValueError(
            f"`representative_data` must give {len(names)} arrays, one for "
            f"each of {names}. Received: {received}"
        )
    arrays = [
        _array(x, name, tensor.dtype, shape)
        for x, name, tensor, shape in zip(batch, names, model.inputs, shapes)
    ]
    lengths = [len(x) for x in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(
            "`representative_data` must have as many samples for every "
            f"input. Received: {lengths} for {names}"
        )
    return arrays


def _array(x, name, dtype, shape) -> np.ndarray:
    x = np.asarray(x)
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype == "string":
        raise ValueError(
            f"Input '{name}' takes strings, which cannot be quantized to "
            "int8. Put the lookup in front of the model, into the program "
            "that calls it, or take `quantize='dynamic'`."
        )
    wanted = tuple(shape[1:])
    fits = x.ndim == len(shape) and all(
        size is None or size == own for size, own in zip(wanted, x.shape[1:])
    )
    if not fits:
        raise ValueError(
            f"`representative_data` for '{name}' must have the shape "
            f"(samples, {', '.join(map(str, wanted))}). Received: {x.shape}"
        )
    if not np.can_cast(x.dtype, dtype, "same_kind"):
        raise ValueError(
            f"`representative_data` for '{name}' must hold {dtype}, "
            f"or numbers of that kind. Received: {x.dtype}"
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError(
            f"`representative_data` for '{name}' has nan or infinite values."
        )
    return x.astype(dtype)
