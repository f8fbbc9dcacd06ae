"""The accuracy of classifiers on what a user gives as data."""

import math

import keras
import numpy as np


def accuracies(models, data) -> list[float]:
    """Computes the accuracy of models on the same data, read once.

    Args:
        models: List of `keras.Model`, each with a score per class as output.
        data: Tuple `(x, y)`, or an iterable of such batches, such as a
            `tf.data.Dataset` or a `keras.utils.PyDataset`. `y` are the
            classes, as numbers or one-hot.

    Returns:
        List of floats, one a model.

    Raises:
        ValueError: If the data is of another kind, empty, without end, does
            not fit a model, or holds no classes; or if a score is nan.
    """
    right, total = [0] * len(models), 0
    if _is_pair(data):
        batches = [(*data, lambda model, x: model.predict(x, verbose=0))]
    else:
        batches = _batches(data)
    for x, y, predict in batches:
        y = _numbers(y)
        if not y.size:
            continue
        if any(map(_is_number, keras.tree.flatten(x))):
            raise ValueError(
                "The samples in `data` must be an array, or one for each input "
                f"of the model. Received: a {type(x).__name__} of numbers; "
                "call `np.asarray` on it"
            )
        lengths = {np.shape(part)[:1] for part in keras.tree.flatten(x)}
        if lengths != {y.shape[:1]}:
            raise ValueError(
                "`data` must have as many classes in `y` as samples in each "
                "array of `x`. Received: x of "
                f"{', '.join(str(n) for (n,) in sorted(lengths))} samples and "
                f"y of shape {y.shape}"
            )
        for index, model in enumerate(models):
            hits = _hits(_scores(model, x, predict), y)
            right[index] += int(hits.sum())
        total += hits.size
    if not total:
        raise ValueError(
            "`data` is empty: there is no sample to compute an accuracy of."
        )
    return [count / total for count in right]


def with_error(model, data) -> tuple[float, float]:
    """The accuracy of a model, and how far chance may have moved it.

    Args:
        model: `keras.Model` with a score per class as output.
        data: Tuple `(x, y)` of arrays.

    Returns:
        Tuple of two floats: the accuracy and its standard error.
    """
    (found,) = accuracies([model], data)
    return found, math.sqrt(found * (1.0 - found) / len(data[1]))


def _is_number(x) -> bool:
    return np.isscalar(x) or getattr(x, "shape", None) == ()


def _is_pair(data) -> bool:
    is_list = isinstance(data, list) and len(data) == 2
    if is_list:  # of two batches?
        return not isinstance(data[1], tuple)
    return isinstance(data, tuple) and len(data) == 2


def _batches(data):
    endless = isinstance(data, keras.utils.PyDataset) and (
        data.num_batches is None
    )
    cardinality = getattr(data, "cardinality", None)
    if endless or (cardinality is not None and int(cardinality()) == -1):
        raise ValueError(
            "`data` has no end: pass a dataset that is not repeated, or "
            f"`.take` some batches. Received: {data!r}"
        )
    if isinstance(data, tuple) or not hasattr(data, "__iter__"):
        raise _wrong_kind(type(data).__name__)
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            kind = type(batch).__name__
            if isinstance(batch, (tuple, list)):
                kind += f" of length {len(batch)}"
            raise _wrong_kind(f"{type(data).__name__} that gives a {kind}")
        # Tensors of another backend than Keras's are no input of a model.
        x = keras.tree.map_structure(np.asarray, batch[0])
        yield x, batch[1], lambda model, x: model.predict_on_batch(x)


def _wrong_kind(received) -> ValueError:
    return ValueError(
        "`data` must be a tuple `(x, y)` of samples and classes, or an "
        "iterable of such batches, such as a `tf.data.Dataset`. "
        f"Received: {received}"
    )


def _numbers(y) -> np.ndarray:
    try:
        y = np.asarray(y)
    except (TypeError, ValueError) as error:  # rows of several lengths
        raise ValueError(f"`y` must be an array of classes: {error}") from error
    if y.dtype.kind not in "biuf":
        raise ValueError(
            "`y` must be classes as numbers, or one-hot. Received: y of type "
            f"{y.dtype}"
        )
    return y


def _scores(model, x, predict) -> np.ndarray:
    try:
        scores = predict(model, x)
    except Exception as error:
        # Whatever Keras, its backend or a user's own call raises.
        shapes = keras.tree.map_structure(lambda a: np.shape(a), x)
        raise ValueError(
            f"Model '{model.name}' cannot compute on the samples in `data`, "
            f"of shape {shapes}: {type(error).__name__}: {error}"
        ) from error
    if isinstance(scores, (tuple, list, dict)):
        raise ValueError(
            "Accuracy is that of a classifier, with one output. "
            f"Received: model '{model.name}' with {len(scores)} outputs"
        )
    scores = np.asarray(scores)
    unknown = np.isnan(scores)
    if unknown.any():
        raise ValueError(
            "Accuracy needs scores that are numbers; look for nan in the "
            f"model's weights and in the samples. Received: {unknown.sum():,} "
            f"of {scores.size:,} scores of model '{model.name}' are nan"
        )
    return scores


def _hits(scores, y) -> np.ndarray:
    """For each sample whether the highest score is that of its class."""
    if y.ndim == scores.ndim and y.shape[-1] == scores.shape[-1] > 1:
        if np.isnan(y).any():
            raise ValueError(
                "`y` must be classes, as numbers or one-hot. Received: y with "
                "nan"
            )
        y = np.argmax(y, axis=-1)  # one-hot
    if y.ndim == scores.ndim and y.shape[-1] == 1:
        y = y[..., 0]
    if scores.ndim < 2 or scores.shape[-1] < 2 or y.shape != scores.shape[:-1]:
        raise ValueError(
            "Accuracy is that of a classifier: the model must give a score "
            "per class, and `y` the classes, as numbers or one-hot. Received: "
            f"outputs of shape {scores.shape} and y of shape {y.shape}"
        )
    broken = y[(y != np.floor(y)) | np.isinf(y)]  # nan too
    if broken.size:
        raise ValueError(
            "`y` must be classes, as whole numbers or one-hot; targets of a "
            f"regression have no accuracy. Received: y with {broken[0]}"
        )
    return np.argmax(scores, axis=-1) == y
