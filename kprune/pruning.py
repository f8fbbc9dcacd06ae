"""`prune`: the only place where the nouns meet."""

import functools
from collections.abc import Iterable

import keras
import numpy as np

from kprune import (
    allocations,
    criteria,
    granularities,
    keras_internals,
    masks,
    schedules,
)
from kprune.prunable import check_wrappers, prunable_layers, prunable_weights
from kprune.ranking import removed_count
from kprune.received import check_model
from kprune.structure import groups
from kprune.structure.graph import channel_graph, readable_or_none
from kprune.weights import filters_last, masked_value, to_numpy


def prune(
    model: keras.Model,
    sparsity: float,
    *,
    criterion="magnitude",
    granularity=None,
    allocation="uniform",
) -> keras.Model:
    """Recomputes all masks of a model once, in place.

    This is what `kprune.PruningScheduler` calls at each update, and what a
    training loop of your own calls. The masks are computed from the stored
    weights; a masked weight keeps its stored value and can come back at the
    next call, until `layer.apply_masks()` or the scheduler's freeze zeroes
    it for good.

    Args:
        model: A model with prunable layers. Layers with `trainable=False` are
            left alone.
        sparsity: Float in `[0, 1)`. The fraction of zeros.
        criterion: Which weights matter; see `kprune.criteria.get`.
        granularity: In what shape weights go, for all layers; see
            `kprune.granularities.get`. `None` leaves it to each layer.
        allocation: How the sparsity is shared out; see
            `kprune.allocations.get`.

    Returns:
        The model.

    Raises:
        ValueError: If an argument is not valid, the model has no prunable
            layers or is not built, or a weight is nan or infinite.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(8)])
    >>> kprune.sparsity(kprune.prune(model, 0.75))
    0.75

    Reference:

    - [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """
    MaskUpdater(criterion, granularity, allocation).update(model, sparsity)
    return model


class MaskUpdater:
    """Updates the masks of a model, as often as it is asked to.

    Args:
        criterion: As `prune` takes it.
        granularity: As `prune` takes it.
        allocation: As `prune` takes it.
    """

    def __init__(
        self, criterion="magnitude", granularity=None, allocation="uniform"
    ):
        self._criterion = criteria.get(criterion)
        self._granularity = (
            None if granularity is None else granularities.get(granularity)
        )
        self._allocation = allocations.get(allocation, self._criterion)
        self._graph = None
        self._of = None

    def update(self, model: keras.Model, sparsity: float) -> None:
        """Recomputes all masks once.

        Args:
            model: A model with prunable layers.
            sparsity: Float in `[0, 1)`.
        """
        sparsity = schedules.validate_sparsity(sparsity)
        layers = trainable_layers(model)
        if not any(layer.built for layer in layers):
            raise ValueError(
                f"Model '{model.name}' is not built, so there are no weights "
                "to mask. Start it with `keras.Input(shape)`, or call it on "
                "data first."
            )
        shares = self._share_out(layers, sparsity)
        filters = {
            id(layer.layer): (share, granularity)
            for layer, share in zip(layers, shares)
            if isinstance(
                granularity := self._granularity_of(layer),
                granularities.Filter,
            )
        }
        graph = None
        if filters:
            pads = any(f.pad_layer_norm for _, f in filters.values())
            graph = self._read_graph(model, pads)
        if graph is not None and len(filters) == len(layers):
            _check_any_free(model, graph, layers)
        slices = self._choose_slices(graph, layers, filters) if graph else {}
        updated = []
        for layer, share in zip(layers, shares):
            masked_by_units = (
                graph is not None
                and id(layer.layer) in filters
                and graph.has_layer(layer.layer)
            )
            updated.append(
                self._masks_of(
                    layer, None if masked_by_units else share, slices
                )
            )
        # All or none: what fails above leaves the masks as they were.
        for layer, of_layer in zip(layers, updated):
            for name, mask in of_layer.items():
                layer.masks[name].assign(mask)

    def _granularity_of(self, layer):
        if self._granularity is not None:
            return self._granularity
        return granularities.get(layer.granularity)

    def _share_out(self, layers, sparsity) -> list[float]:
        shares = self._allocation(layers, sparsity)
        shares = list(shares) if isinstance(shares, Iterable) else shares
        if not isinstance(shares, list) or len(shares) != len(layers):
            raise ValueError(
                f"The allocation must return {len(layers)} sparsities, one "
                "for each of the layers "
                f"{[layer.name for layer in layers]}. Received: {shares}"
            )
        return [
            schedules.validate_sparsity(share, f"sparsity of '{layer.name}'")
            for layer, share in zip(layers, shares)
        ]

    def _read_graph(self, model, pad_layer_norm):
        """The model's graph, `None` where it has none that can be read."""
        # A model that grew (Sequential.add) has another graph.
        of = keras_internals.graph_of(model) or model, pad_layer_norm
        if of != self._of:
            self._of = of
            graph = readable_or_none(model)
            self._graph = None
            if graph is not None:
                self._graph = channel_graph(
                    graph, pad_layer_norm=pad_layer_norm
                )
        return self._graph

    def _choose_slices(self, graph, layers, filters) -> dict:
        """Which slices of the layers' variables stay.

        Returns:
            Dict from `(id of variable, axis)` to a boolean array.
        """
        read = {
            id(kernel): functools.partial(self._scores, layer, name)
            for layer in layers
            for name, kernel in layer.kernels.items()
        }
        producers = [
            (binding.slots, *filters[id(binding.layer)])
            for binding in graph.bindings
            if binding.role == "out" and id(binding.layer) in filters
        ]
        scores, gone = groups.pool(graph, read)
        keep = groups.choose(graph.units, scores, gone, producers)
        masked = {id(layer.layer) for layer in layers}
        return {
            (id(binding.variable), binding.axis): keep[
                graph.units.of_slot[binding.slots]
            ]
            for binding in graph.bindings
            if id(binding.layer) in masked
        }

    def _masks_of(self, layer, share, slices) -> dict:
        """Computes the masks of one layer.

        Args:
            layer: The prunable layer.
            share: Its sparsity, `None` if only whole units go.
            slices: As `_choose_slices` returns it.

        Returns:
            Dict from the name of each weight to its mask, a boolean array.
        """
        granularity = self._granularity_of(layer)
        kernels = layer.kernels
        found = {}
        for name, variable in layer.maskable.items():
            mask = masks.slice_mask(variable, slices)
            if name in kernels and share is not None:
                mask = self._mask_of(layer, name, share, mask)
            if mask is None:
                mask = np.broadcast_to(True, tuple(variable.shape))
            found[name] = mask
        if share is not None and isinstance(granularity, granularities.Filter):
            found.update(masks.of_biases(layer, found, kernels))
        # The bias of a filter that is gone for good stays away, whatever the
        # granularity is now.
        gone = {
            name: ~dead
            for name in kernels
            if (dead := layer.pruned_for_good(name)) is not None
        }
        for name, kept in masks.of_biases(
            layer, {**found, **gone}, gone
        ).items():
            found[name] = found[name] & (kept | to_numpy(layer.masks[name]))
        return found

    def _mask_of(self, layer, name, share, mask) -> np.ndarray:
        """Computes the mask of one kernel.

        Args:
            layer: The prunable layer.
            name: The name of the kernel.
            share: Its sparsity.
            mask: What whole units leave of it, `None` if they leave all.

        Returns:
            Boolean array of the kernel's shape.
        """
        granularity = self._granularity_of(layer)
        value = to_numpy(layer.kernels[name])
        dead = layer.pruned_for_good(name)
        staying = masks.both(mask, None if dead is None else ~dead)
        if (
            type(granularity) is granularities.Unstructured
            and self._criterion is criteria.magnitude
            and staying is None
            # Where nothing goes no score is looked at, nor found to be nan.
            and removed_count(value.size, share)
        ):
            # The usual case: no array of all scores, which takes longer to
            # fill than to rank.
            score = functools.partial(self._finite_scores, layer, name)
            return granularity(value, share, score)
        scores = self._finite_scores(layer, name, value)
        if staying is not None:
            scores = masks.lowered(scores, staying)
        if isinstance(granularity, (granularities.Filter, granularities.NM)):
            mask = granularity(filters_last(layer.layer, scores), share)
            mask = filters_last(layer.layer, mask)
        else:
            mask = np.asarray(granularity(scores, share))
        masks.check_mask(mask, granularity, layer, name)
        return masks.both(mask, staying)

    def _scores(self, layer, name):
        """A kernel's scores, and which of its weights are gone for good."""
        value = to_numpy(layer.kernels[name])
        dead = layer.pruned_for_good(name)
        return self._finite_scores(layer, name, value), dead

    def _finite_scores(self, layer, name, value):
        """The scores of a kernel, or of some of its weights."""
        scores = np.asarray(self._criterion(value))
        if scores.shape != value.shape:
            raise ValueError(
                f"The criterion {self._criterion!r} must return scores of the "
                f"kernel's shape {value.shape} for '{name}' of layer "
                f"'{layer.name}'. Received: scores of shape {scores.shape}"
            )
        if scores.dtype.kind in "biu":
            scores = scores.astype(np.float64)
        if not (np.isfinite(scores.max()) and np.isfinite(scores.min())):
            raise ValueError(
                f"The weights '{name}' of layer '{layer.name}' have a score "
                "that is nan or infinite, so they cannot be ranked. Has the "
                "training diverged? Lower the learning rate, or add "
                "`keras.callbacks.TerminateOnNaN()`."
            )
        return scores


def _check_any_free(model, graph, layers) -> None:
    """Raises if all filters of all layers have to stay."""
    reasons = {}
    for layer in layers:
        if not graph.has_layer(layer.layer):
            return
        if graph.has_free_filters(layer.layer):
            return
        reasons.update(dict.fromkeys(graph.frozen_reasons(layer.layer)))
    raise ValueError(
        f"No filter of model '{model.name}' can be removed: "
        f"{'; '.join(reasons)}. Prune single weights instead, with "
        "`granularity='unstructured'`, or wrap more layers."
    )


def trainable_layers(model: keras.Model) -> list:
    """The prunable layers of a model that are not frozen.

    Args:
        model: `keras.Model`.

    Returns:
        List of `PrunableLayer`, at least one.

    Raises:
        ValueError: If there is none, with the line to write; or if its own
            layer is used without it too.
    """
    check_model(model, "prune", kind=keras.layers.Layer)
    check_wrappers(model)
    layers = prunable_layers(model)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no prunable layers, so no mask can "
            "grow. Make a model that has them, and compile that one:\n\n"
            "    model = kprune.make_prunable(model)\n\n"
            "or wrap layers as you build it: "
            "`kprune.PrunableDense(keras.layers.Dense(64))`."
        )
    trainable = [
        layer for layer in layers if layer.trainable and layer.layer.trainable
    ]
    if not trainable:
        raise ValueError(
            f"All prunable layers of model '{model.name}' are frozen "
            "(`trainable=False`), and frozen layers are not pruned. Set "
            "`layer.trainable = True` where weights are to go."
        )
    return trainable


def sparsity(model: keras.Model) -> float:
    """The fraction of zeros over the prunable weights of a model.

    What counts is weight times mask. In a model with prunable layers the
    prunable weights are their kernels; in a plain one, such as `strip`
    returns, the kernels of all layers.

    Args:
        model: `keras.Model`.

    Returns:
        Float in `[0, 1]`; 0.0 where there are no prunable weights.

    Raises:
        ValueError: If `model` is no Keras model.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(8)])
    >>> kprune.sparsity(model)
    0.0
    """
    check_model(model, "count zeros in", kind=keras.layers.Layer)
    zeros = size = 0
    for kernel, mask in prunable_weights(model):
        value = masked_value(kernel, mask)
        zeros += value.size - np.count_nonzero(value)
        size += value.size
    return float(zeros / size) if size else 0.0


def masked_share(model: keras.Model) -> float:
    """The fraction of the prunable weights of a model that are masked.

    Unlike `sparsity` without weights that just happen to be 0.

    Args:
        model: `keras.Model` with prunable layers.

    Returns:
        Float in `[0, 1]`.
    """
    kept = [to_numpy(mask) for _, mask in prunable_weights(model)]
    size = sum(mask.size for mask in kept)
    return 1 - sum(np.count_nonzero(mask) for mask in kept) / size
