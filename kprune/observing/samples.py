"""Samples that a model is observed on, read from whatever `fit` takes."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

# Moments and gradients settle long before: more data only cost time.
BATCHES = 64
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Some samples.

    Args:
        x: Structure of arrays: the inputs of a model.
        y: Structure of arrays: the targets, or `None`.
        sample_weight: Structure of arrays, or `None`.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None

    def __len__(self) -> int:
        return len(keras.tree.flatten(self.x)[0])


def read(data: Any) -> list[Batch]:
    """Reads some batches of what `fit` takes as data.

    Of arrays `BATCHES * BATCH_SIZE` samples are taken, evenly spread, since
    files are often sorted by class; of what gives batches the first `BATCHES`.

    Args:
        data: Samples alone: an array, a list or a dict of arrays, one an
            input; with targets a tuple `(x, y)` or `(x, y, sample_weight)`; or
            batches of such tuples or of samples: a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a torch `DataLoader`, a generator. A list
            of `Batch` is returned as it is.

    Returns:
        List of `Batch`, at least one, of NumPy arrays.

    Raises:
        ValueError: If the data is of another kind, is empty, has arrays of
            several lengths, or inputs that are nan or infinite.

    Example:

    >>> batches = kprune.observing.samples.read(np.ones((40, 3)))
    >>> [len(batch) for batch in batches]
    [32, 8]
    """
    if isinstance(data, list) and data and isinstance(data[0], Batch):
        return data
    if _is_arrays(data):
        found = list(_split(_batch(data)))
    else:
        found = [
            _batch(given, of=type(data).__name__)
            for given in itertools.islice(_iterate(data), BATCHES)
        ]
    found = [batch for batch in found if len(batch)]
    if not found:
        raise ValueError(
            "`data` is empty: there is no sample to observe the model on. "
            "Some hundred are enough."
        )
    for batch in found:
        for array in keras.tree.flatten(batch.x):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(
                    "`data` has inputs that are nan or infinite. Clean it: "
                    "one such number would spoil every sum. Received: an "
                    f"array of shape {array.shape} with "
                    f"{np.count_nonzero(~np.isfinite(array)):,} of them"
                )
    return found


def call(model: keras.Model, x: Any) -> Any:
    """What a model computes on samples at inference.

    Args:
        model: `keras.Model`.
        x: Structure of arrays.

    Returns:
        Structure of tensors.

    Raises:
        ValueError: If it cannot.
    """
    try:
        return model(x, training=False)
    except Exception as error:
        # Whatever Keras, its backend or a user's own call raises.
        shapes = keras.tree.map_structure(np.shape, x)
        raise ValueError(
            f"Model '{model.name}' cannot compute on the samples in `data`, "
            f"of shape {shapes}: {type(error).__name__}: {error}"
        ) from error


def _is_array(x) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _is_arrays(data) -> bool:
    """Whether these are arrays as `fit` takes them, not batches."""
    if isinstance(data, (tuple, list, dict)):
        return all(
            _is_array(leaf)
            for leaf in keras.tree.flatten(data)
            if leaf is not None
        ) and not (isinstance(data, list) and _are_tuples(data))
    return _is_array(data)


def _are_tuples(data) -> bool:
    return bool(data) and all(isinstance(part, tuple) for part in data)


def _iterate(data) -> Iterator:
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        indices: Iterable = itertools.count() if count is None else range(count)
        return (data[index] for index in indices)
    if type(data).__module__.startswith("torch.utils.data"):
        # A `DataLoader` makes lists of tuples.
        return (tuple(b) if isinstance(b, list) else b for b in data)
    if hasattr(data, "__iter__") and not isinstance(data, (str, bytes, tuple)):
        return iter(data)
    raise _wrong_kind(type(data).__name__)


def _wrong_kind(received: str) -> ValueError:
    return ValueError(
        "`data` must be what `fit` takes: arrays of samples, a tuple `(x, y)`, "
        "or batches of them, such as a `tf.data.Dataset`. "
        f"Received: {received}"
    )


def _batch(given, of: str = "") -> Batch:
    parts = list(given) if isinstance(given, tuple) else [given]
    if not 1 <= len(parts) <= 3:
        where = f"{of} that gives " if of else ""
        raise _wrong_kind(f"{where}a tuple of length {len(parts)}")
    parts = [keras.tree.map_structure(_to_numpy, part) for part in parts]
    lengths = {
        np.shape(leaf)[:1]
        for part in parts
        for leaf in keras.tree.flatten(part)
        if leaf is not None
    }
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            "`data` must have as many targets as samples, in arrays whose "
            "first axis is that of the samples. Received: lengths of "
            f"{', '.join(str(*n) if n else 'a number' for n in lengths)}"
        )
    return Batch(*parts)


def _to_numpy(leaf):
    if leaf is None:
        return None
    if type(leaf).__module__.startswith("torch"):
        return leaf.detach().cpu().numpy()
    return np.asarray(leaf)


def _split(whole: Batch) -> Iterator[Batch]:
    size = min(len(whole), BATCHES * BATCH_SIZE)
    chosen = np.arange(size) * len(whole) // size if size else np.arange(0)
    for start in range(0, size, BATCH_SIZE):
        indices = chosen[start : start + BATCH_SIZE]

        def take(leaf, indices=indices):
            return None if leaf is None else leaf[indices]

        yield Batch(
            *(
                keras.tree.map_structure(take, part)
                for part in (whole.x, whole.y, whole.sample_weight)
            )
        )
