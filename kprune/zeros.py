"""How many of the weights that can be pruned are zeros."""

from collections.abc import Iterable

import keras
import numpy as np

from kprune import weights
from kprune.prunable import PrunableWeight, all_weights, prunable_weights
from kprune.received import check_model


def count_zeros(of: Iterable[PrunableWeight]) -> tuple[int, int]:
    """Counts weights and the zeros among them.

    Args:
        of: Iterable of `PrunableWeight`.

    Returns:
        Tuple of two integers: all weights, and those of which 0 counts.
    """
    return weights.count_zeros(weight.masked() for weight in of)


def sparsity(model: keras.Model) -> float:
    """The fraction of zeros over the kernels of all layers of a model.

    What counts is weight times mask. Layers that are not wrapped count as
    well, so it is the same number in the logs of `fit`, in `kprune.report`, in
    `kprune.cost` and, where no channels went, for the model that
    `kprune.strip` returns. That of the weights with masks alone is
    `kprune.report(model).prunable_sparsity`.

    Args:
        model: `keras.Model`.

    Returns:
        Float in `[0, 1]`; 0.0 where there are no kernels.

    Raises:
        ValueError: If `model` is no Keras model.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(8), keras.layers.Dense(8)])
    >>> kprune.sparsity(kprune.prune(model, 0.75))
    0.5
    """
    check_model(model, "count zeros in", kind=keras.layers.Layer)
    size, zeros = count_zeros(all_weights(model))
    return zeros / size if size else 0.0


def masked_share(model: keras.Model) -> float:
    """The fraction of the prunable weights of a model that are masked.

    Unlike `sparsity` without weights that just happen to be 0.

    Args:
        model: `keras.Model` with prunable layers.

    Returns:
        Float in `[0, 1]`.
    """
    kept = [weights.to_numpy(w.mask) for w in prunable_weights(model)]
    size = sum(mask.size for mask in kept)
    return 1 - sum(int(np.count_nonzero(mask)) for mask in kept) / size
