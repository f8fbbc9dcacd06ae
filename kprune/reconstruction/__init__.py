"""Pruning without training: what stays is fitted to the dense model."""

from typing import Any

import keras

from kprune.observing import samples
from kprune.received import check_model
from kprune.reconstruction.repairing import Repair
from kprune.reconstruction.results import LayerRepair as LayerRepair
from kprune.reconstruction.results import Reconstruction as Reconstruction
from kprune.restoring import all_or_nothing


def reconstruct(
    model: keras.Model,
    data: Any,
    *,
    dense: keras.Model | None = None,
    verbose: int = 0,
) -> Reconstruction:
    """Fits the weights that stay to what the dense model computed, in place.

    Layer by layer, in the order of the calls: the inputs are those that the
    pruned model so far gives, the targets what the dense model computed there,
    and the weights that stay, with the bias, are their damped least squares.
    So each layer mends what the layers before it lost. The statistics of
    BatchNormalization follow. It takes seconds, unlabelled samples and no
    training; it is a better start for one, too.

    The masked weights are zeroed for good, as at the freeze of a schedule.

    Args:
        model: A model with masks, before the masked weights were zeroed; or
            any pruned model of the shapes of `dense`, whose zeros stay zeros.
        data: Samples, as `fit` takes them; targets are not looked at. 1,024
            were seen to suffice, 256 nearly; see
            `kprune.observing.samples.read`.
        dense: The dense model, with the same layers in the same order. `None`
            takes the stored weights of `model` itself, masks lifted.
        verbose: 0 is silent, 1 shows a progress bar.

    Returns:
        `kprune.reconstruction.Reconstruction`: what was done to each layer. A
        layer whose error on samples that were held out would not fall keeps
        its weights.

    Raises:
        ValueError: If the model has nothing pruned, the dense one has other
            layers, or the data does not fit.

    Example:

    >>> generator = np.random.default_rng(0)
    >>> x = generator.normal(size=(512, 4))
    >>> x = x @ generator.normal(size=(4, 16))  # related inputs
    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(4)])
    >>> model = kprune.prune(model, 0.5)
    >>> (layer,) = kprune.reconstruct(model, x).layers
    >>> layer.after < layer.before
    True

    Reference:

    - [He et al., 2017](https://arxiv.org/abs/1707.06168)
    - [Frantar & Alistarh, 2022](https://arxiv.org/abs/2208.11580)
    """
    check_model(model, "reconstruct")
    repair = Repair(model, samples.read(data), dense, verbose)
    with all_or_nothing(model):
        return repair.run()


def recalibrate(
    model: keras.Model,
    data: Any,
    *,
    dense: keras.Model | None = None,
    verbose: int = 0,
) -> Reconstruction:
    """Sets the statistics of BatchNormalization to those of a pruned model.

    What goes changes the mean and the variance of all that comes after. Each
    BatchNormalization, in the order of the calls, gets the mean and variance
    that it had, moved by as much as those of its inputs have moved from the
    dense model to the pruned one. `kprune.reconstruct` does more.

    Args:
        model: As `kprune.reconstruct` takes it.
        data: As `kprune.reconstruct` takes it.
        dense: As `kprune.reconstruct` takes it.
        verbose: 0 is silent, 1 shows a progress bar.

    Returns:
        `kprune.reconstruction.Reconstruction`.

    Raises:
        ValueError: As `kprune.reconstruct` does.

    Example:

    >>> model = kprune.make_prunable(keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3),
    ...     keras.layers.BatchNormalization(), keras.layers.Flatten()]))
    >>> model = kprune.prune(model, 0.8, granularity="unstructured")
    >>> result = kprune.recalibrate(model, np.ones((64, 8, 8, 3)))
    >>> [layer.name for layer in result.layers]
    ['batch_normalization']

    Reference:

    - [Frantar & Alistarh, 2022](https://arxiv.org/abs/2208.11580)
    """
    check_model(model, "recalibrate")
    repair = Repair(model, samples.read(data), dense, verbose)
    with all_or_nothing(model):
        return repair.run(kernels_too=False)
