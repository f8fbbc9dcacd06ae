"""`prune`: sets the masks of a model once."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kprune import shortfall
from kprune.allocations import Allocation
from kprune.budgets import Budget
from kprune.criteria import Criterion
from kprune.granularities import Granularity
from kprune.meeting import Met
from kprune.reconstruction import Reconstruction
from kprune.updating import MaskUpdater
from kprune.wrappers import trainable_layers


def prune(
    model: keras.Model,
    sparsity: float | Budget,
    *,
    criterion: Criterion | str = "magnitude",
    granularity: Granularity | str | None = None,
    allocation: Allocation | Mapping[str, float] | str = "uniform",
    keep: Mapping[str, Iterable[int]] | None = None,
    data: Any = None,
    loss: Any = None,
    reconstruct: bool = False,
    pad_layer_norm: bool = False,
    verbose: int = 0,
) -> keras.Model:
    """Recomputes all masks of a model once, in place.

    The masks are computed from the stored weights; a masked weight keeps its
    stored value and can come back at the next call, until
    `layer.apply_masks()` or the freeze of a schedule zeroes it for good. For
    masks that grow while a model trains there are `kprune.PruningScheduler`
    and, in a training loop of your own, `kprune.Pruner`.

    Args:
        model: A model with prunable layers. Layers with `trainable=False` are
            left alone.
        sparsity: Float in `[0, 1)`. The fraction of zeros asked of each
            kernel; with `granularity="filter"` the fraction of its filters
            that go. Where all layers lose half of their filters a quarter of
            the weights between them stays. Or a `kprune.Budget`: how much of
            the model may stay.
        criterion: Which weights matter; see `kprune.criteria.get`.
        granularity: In what shape weights go, for all layers; see
            `kprune.granularities.get`. `None` leaves it to each layer.
        allocation: How the sparsity is shared out; see
            `kprune.allocations.get`. `{"conv1": 0.2}` gives single layers
            their own.
        keep: Mapping from names of layers to the indices of filters that
            stay, with all that is coupled to them, such as
            `{"conv1": [0, 3]}`. The sparsity is then a fraction of the others.
            As in `kprune.structure.remove`, a layer can stand for its name.
        data: Samples, for criteria that ask for what is computed from them:
            what `fit` takes, see `kprune.observing.samples.read`. Some hundred
            are enough; at most 64 batches are read. Several processes that
            train one model must be given the same.
        loss: The loss for criteria that ask for gradients, as `compile` takes
            it for one output. `None` for the one that the model was compiled
            with.
        reconstruct: Boolean. Whether the weights that stay are fitted to what
            the dense model computes on `data`, see `kprune.reconstruct`; what
            went is then gone for good. A criterion that asks for `gram`
            chooses on the way, layer by layer.
        pad_layer_norm: Boolean. Whether to cut the channels that a
            LayerNormalization normalizes over as well: the residual width of
            a transformer or a ConvNeXt. No smaller LayerNormalization gives
            equal outputs, since its mean would be over fewer channels. So in
            the stripped model each becomes a small nested model of the same
            name, which pads what is left with zeros to the old width,
            normalizes, and slices. That costs time at each of them, and their
            weights keep their length.
        verbose: 0 is silent, 1 shows a progress bar while what stays is
            fitted.

    Returns:
        The model.

    Raises:
        ValueError: If an argument is not valid, the model has no prunable
            layers or is not built, a weight is nan or infinite, or the budget
            cannot be reached.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(8)])
    >>> kprune.sparsity(kprune.prune(model, 0.75))
    0.75

    Reference:

    - [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """
    set_masks(
        model,
        sparsity,
        criterion=criterion,
        granularity=granularity,
        allocation=allocation,
        keep=keep,
        data=data,
        loss=loss,
        reconstruct=reconstruct,
        pad_layer_norm=pad_layer_norm,
        verbose=verbose,
    )
    return model


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What `prune` did.

    Args:
        met: `kprune.meeting.Met`, `None` where no budget was asked for.
        reconstruction: `kprune.reconstruction.Reconstruction`, `None` where
            nothing was to be reconstructed.
    """

    met: Met | None
    reconstruction: Reconstruction | None


def set_masks(
    model: keras.Model,
    sparsity: float | Budget,
    *,
    data: Any,
    reconstruct: bool,
    verbose: int,
    **members: Any,
) -> "Pruned":
    """Does what `prune` does, and returns how.

    Args:
        model: As `prune` takes it.
        sparsity: As `prune` takes it.
        data: As `prune` takes it.
        reconstruct: As `prune` takes it.
        verbose: As `prune` takes it.
        **members: The other arguments of `prune`.

    Returns:
        `Pruned`.

    Raises:
        ValueError: As `prune` does.
    """
    if reconstruct and data is None:
        raise ValueError(
            "`reconstruct=True` fits what stays to what the dense model "
            "computes on some samples. Pass them as `data=`; some hundred are "
            "enough, without labels."
        )
    updater = MaskUpdater(data=data, **members)
    layers = trainable_layers(model)
    before = shortfall.masked(layers)
    result = None
    if reconstruct:
        reached, result = updater.update_and_repair(model, sparsity, verbose)
    else:
        reached = updater.update(model, sparsity)
    granularity = members["granularity"]
    # At the line that calls `prune`.
    shortfall.warn_if_nothing_went(layers, reached, granularity, stacklevel=4)
    shortfall.warn_if_some_came_back(before, stacklevel=4)
    return Pruned(updater.met, result)
