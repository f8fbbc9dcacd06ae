"""`prune`: the only place where the nouns meet."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from kprune import (
    allocations,
    criteria,
    granularities,
    keras_internals,
    masks,
    schedules,
    shortfall,
    weights,
)
from kprune.allocations import Allocation
from kprune.criteria import Criterion
from kprune.granularities import Granularity
from kprune.layers import PrunableLayer
from kprune.measuring.group_macs import GroupMacs
from kprune.measuring.macs import kernel_macs
from kprune.observing import requests, samples
from kprune.observing.observations import Observations
from kprune.prunable import PrunableWeight, prunable_layers, weights_of
from kprune.ranking import removed_count
from kprune.received import describe_member
from kprune.scoring import LazyScores, Scorer, check_requests
from kprune.structure import groups
from kprune.structure.graph import (
    ChannelGraph,
    channel_graph,
    readable_or_none,
)
from kprune.wrappers import trainable_layers

# From (id of a variable, axis) to a boolean array: which slices stay.
Slices = dict[tuple[int, int], np.ndarray]


def prune(
    model: keras.Model,
    sparsity: float,
    *,
    criterion: Criterion | str = "magnitude",
    granularity: Granularity | str | None = None,
    allocation: Allocation | str = "uniform",
    data: Any = None,
    loss: Any = None,
    pad_layer_norm: bool = False,
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
            the weights between them stays.
        criterion: Which weights matter; see `kprune.criteria.get`.
        granularity: In what shape weights go, for all layers; see
            `kprune.granularities.get`. `None` leaves it to each layer.
        allocation: How the sparsity is shared out; see
            `kprune.allocations.get`.
        data: Samples, for criteria that ask for what is computed from them:
            what `fit` takes, see `kprune.observing.samples.read`. Some hundred
            are enough; at most 64 batches are read. Several processes that
            train one model must be given the same.
        loss: The loss for criteria that ask for gradients, as `compile` takes
            it for one output. `None` for the one that the model was compiled
            with.
        pad_layer_norm: Boolean. Whether to cut the channels that a
            LayerNormalization normalizes over as well: the residual width of
            a transformer or a ConvNeXt. No smaller LayerNormalization gives
            equal outputs, since its mean would be over fewer channels. So in
            the stripped model each becomes a small nested model of the same
            name, which pads what is left with zeros to the old width,
            normalizes, and slices. That costs time at each of them, and their
            weights keep their length.

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
    updater = MaskUpdater(
        criterion,
        granularity,
        allocation,
        data=data,
        loss=loss,
        pad_layer_norm=pad_layer_norm,
    )
    layers = trainable_layers(model)
    before = shortfall.masked(layers)
    updater.update(model, sparsity)
    shortfall.warn_if_nothing_went(layers, sparsity, granularity)
    shortfall.warn_if_some_came_back(before)
    return model


class MaskUpdater:
    """Updates the masks of a model, as often as it is asked to.

    Args:
        criterion: As `prune` takes it.
        granularity: As `prune` takes it.
        allocation: As `prune` takes it.
        data: As `prune` takes it; it is read at once.
        loss: As `prune` takes it.
        pad_layer_norm: As `prune` takes it.
    """

    def __init__(
        self,
        criterion: Criterion | str = "magnitude",
        granularity: Granularity | str | None = None,
        allocation: Allocation | str = "uniform",
        *,
        data: Any = None,
        loss: Any = None,
        pad_layer_norm: bool = False,
    ):
        if not isinstance(pad_layer_norm, bool):
            raise ValueError(
                "`pad_layer_norm` must be True or False. "
                f"Received: pad_layer_norm={pad_layer_norm!r}"
            )
        self._criterion = criteria.get(criterion)
        self._granularity = (
            None if granularity is None else granularities.get(granularity)
        )
        self._allocation = allocations.get(allocation)
        self._pad_layer_norm = pad_layer_norm
        # What is not known, or not given, is refused before any training.
        asked = check_requests(self._criterion)
        observed = [name for name in asked if name in requests.OBSERVED]
        if observed and data is None:
            raise ValueError(
                f"The criterion {describe_member(criterion)} asks for "
                f"`{observed[0]}`, which is computed from data. Pass `data=`: "
                "some hundred samples, with their targets where it asks for "
                "gradients."
            )
        self._batches = None if data is None else samples.read(data)
        self._loss = loss
        requests.names(self._allocation, "allocation")
        if self._over_groups is not None:
            requests.names(self._over_groups, "allocation over groups")
        if self._granularity is not None:
            requests.names(self._granularity, "granularity")
        self._graph: ChannelGraph | None = None
        self._readable: keras.Model | None = None
        self._counts: dict[int, float | None] | None = None
        self._of: keras.Model | None = None

    def update(
        self, model: keras.Model, sparsity: float, progress: float = 1.0
    ) -> None:
        """Recomputes all masks once.

        Args:
            model: A model with prunable layers.
            sparsity: Float in `[0, 1)`.
            progress: Float in `[0, 1]`, for members that ask for it.
        """
        sparsity = schedules.validate_sparsity(sparsity)
        layers = trainable_layers(model)
        if not any(layer.built for layer in layers):
            raise ValueError(
                f"Model '{model.name}' is not built, so there are no weights "
                "to mask. Start it with `keras.Input(shape)`, or call it on "
                "data first."
            )
        observations = None
        if self._batches is not None:
            observations = Observations(model, self._batches, self._loss)
        scorer = Scorer(self._criterion, _places(model), progress, observations)
        wishes = [
            _Wish(
                layer, weights_of(layer), sparsity, self._granularity_of(layer)
            )
            for layer in layers
        ]
        by_groups = [wish for wish in wishes if wish.goes_by_groups]
        graph = self._read_graph(model) if by_groups else None
        in_groups = [
            graph is not None
            and wish.goes_by_groups
            and graph.has_layer(wish.layer.layer)
            for wish in wishes
        ]
        # Where the allocation ranks groups no weight need be ranked for it.
        if not (all(in_groups) and self._over_groups):
            wishes = self._share_out(wishes, sparsity, scorer)
        slices: Slices = {}
        if graph is not None:
            if len(by_groups) == len(wishes):
                _check_any_free(model, graph, layers)
            share_out = functools.partial(
                self._share_out_groups, layers, sparsity, progress, graph
            )
            slices = _choose_slices(graph, wishes, scorer, share_out)
        updated = [
            _masks_of(wish, slices, scorer, is_whole)
            for wish, is_whole in zip(wishes, in_groups)
        ]
        # All or none: what fails above leaves the masks as they were.
        for layer, of_layer in zip(layers, updated):
            for name, mask in of_layer.items():
                layer.masks[name].assign(mask)

    def _granularity_of(self, layer) -> Granularity:
        if self._granularity is not None:
            return self._granularity
        return granularities.get(layer.granularity)

    @property
    def _over_groups(self) -> Callable | None:
        return getattr(self._allocation, "over_groups", None)

    def _share_out(self, wishes, sparsity, scorer) -> list["_Wish"]:
        """The wishes with the sparsities that the allocation gives them."""
        layers = [wish.layer for wish in wishes]

        def score(weight):
            return scorer.scores(weight, sparsity)

        shares = requests.answer(
            self._allocation,
            "allocation",
            layers,
            sparsity,
            offers={
                "progress": lambda: scorer.progress,
                "scores": lambda: LazyScores(
                    [wish.kernels for wish in wishes], score
                ),
            },
        )
        names = [layer.name for layer in layers]
        found = _checked(
            shares, names, "The allocation", f"each of the layers {names}"
        )
        return [
            dataclasses.replace(wish, sparsity=share)
            for wish, share in zip(wishes, found)
        ]

    def _share_out_groups(
        self, layers, sparsity, progress, graph, classes
    ) -> list[float]:
        """The sparsity of each class of groups."""
        if self._over_groups is None:
            return [of_class.mean_sparsity() for of_class in classes]
        makers = [
            tuple({id(p.layer): p.layer for p in of_class.producers}.values())
            for of_class in classes
        ]
        shares = requests.answer(
            self._over_groups,
            "allocation over groups",
            [
                np.repeat(of_class.scores, of_class.channels)
                for of_class in classes
            ],
            sparsity,
            offers={
                "layers": lambda: layers,
                "least": lambda: [of_class.least for of_class in classes],
                "macs": lambda: GroupMacs(self._kernel_macs, graph, classes),
                "makers": lambda: makers,
                "progress": lambda: progress,
            },
        )
        names = [" and ".join(layer.name for layer in of) for of in makers]
        return _checked(
            shares,
            names,
            "`over_groups` of the allocation",
            f"each class of groups, those of {names}",
        )

    def _kernel_macs(self) -> dict[int, float | None]:
        """The multiply-accumulates of the kernels, counted once a graph."""
        if self._counts is None:
            self._counts = kernel_macs(self._readable)
        return self._counts

    def _read_graph(self, model) -> ChannelGraph | None:
        """The model's graph, `None` where it has none that can be read."""
        # A model that grew (Sequential.add) has another graph.
        of = keras_internals.graph_of(model) or model
        if of is not self._of:
            self._of = of
            self._readable = readable_or_none(model)
            self._graph = self._counts = None
            if self._readable is not None:
                self._graph = channel_graph(
                    self._readable, pad_layer_norm=self._pad_layer_norm
                )
        return self._graph


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What is asked of one layer.

    Args:
        layer: The prunable layer.
        kernels: List of its `PrunableWeight`s.
        sparsity: Float.
        granularity: A granularity.
    """

    layer: PrunableLayer
    kernels: list[PrunableWeight]
    sparsity: float
    granularity: Granularity

    @property
    def goes_by_groups(self) -> bool:
        """Boolean. Whether whole groups go where there is a graph."""
        return bool(getattr(self.granularity, "whole_groups", False))


def _checked(shares, names, who, each) -> list[float]:
    """The sparsities that an allocation returns, if it returns such."""
    is_list = isinstance(shares, Iterable) and not isinstance(
        shares, (Mapping, str)
    )
    found = list(shares) if is_list else shares
    if not isinstance(found, list) or len(found) != len(names):
        raise ValueError(
            f"{who} must return {len(names)} sparsities, one for {each}, in a "
            f"list. Received: {found!r} (of type {type(shares).__name__})"
        )
    return [
        schedules.validate_sparsity(share, f"sparsity of '{name}'")
        for name, share in zip(names, found)
    ]


def _places(model) -> dict[int, tuple[int, int]]:
    """Where in the model each kernel is, by the id of its variable."""
    return {
        id(variable): (place, index)
        for place, layer in enumerate(prunable_layers(model))
        for index, variable in enumerate(layer.kernels.values())
    }


def _choose_slices(graph, wishes, scorer, share_out) -> Slices:
    """Which slices of the layers' variables stay.

    Args:
        graph: The `ChannelGraph`.
        wishes: List of `_Wish`, of all layers: the kernels of those that do
            not lose groups count in the scores of groups as well.
        scorer: The `Scorer`.
        share_out: Callable from classes of groups to their sparsities.
    """
    gone = {
        id(weight.variable): None if dead is None else ~dead
        for wish in wishes
        for weight in wish.kernels
        for dead in [weight.gone()]
    }
    makers = {
        id(wish.layer.layer): wish for wish in wishes if wish.goes_by_groups
    }
    producers = [
        groups.Producer(
            maker.layer, binding.slots, maker.sparsity, maker.granularity
        )
        for binding in graph.bindings
        if binding.role == "out"
        if (maker := makers.get(id(binding.layer))) is not None
    ]

    def mask_now():
        kept = {
            id(weight.variable): weights.to_numpy(weight.mask)
            for wish in wishes
            for weight in wish.kernels
        }
        return groups.left(graph, kept)

    def call(granularity, row, sparsity, of_group):
        offers = {
            "generator": lambda: np.random.default_rng(of_group),
            "mask": lambda: mask_now()[of_group][None],
            "outputs_last": lambda: np.asarray,
            "progress": lambda: scorer.progress,
            "score": lambda: None,
        }
        return _ask(granularity, row, sparsity, offers, "a class of groups")

    keep = groups.choose(
        graph,
        _group_scores(graph, wishes, producers, scorer),
        ~groups.left(graph, gone),
        producers,
        share_out,
        call,
    )
    masked = {id(wish.layer.layer) for wish in wishes}
    return {
        (id(binding.variable), binding.axis): keep[
            graph.groups.of_slot[binding.slots]
        ]
        for binding in graph.bindings
        if id(binding.layer) in masked
    }


def _group_scores(graph, wishes, producers, scorer) -> np.ndarray:
    """The score of each group, as `_choose_slices` asks for it."""
    members: dict[int, groups.Member]
    if scorer.slices_of is None:
        members = {
            id(weight.variable): functools.partial(
                _slices, scorer, weight, wish
            )
            for wish in wishes
            for weight in wish.kernels
        }
    else:
        members = {
            id(binding.variable): scorer.slices_of_variable
            for binding in graph.bindings
            if binding.variable.name in scorer.slices_of
        }
    scores = groups.pool(graph, members)
    if not scorer.scores_slices:
        scores = np.nan_to_num(scores)
        # As long as a norm, in the order of the mean squares.
        return np.sign(scores) * np.sqrt(np.abs(scores))
    is_open = np.isnan(scores) & ~graph.groups.frozen
    silent = [
        producer.layer.name
        for producer in producers
        if is_open[graph.groups.of_slot[producer.slots]].any()
    ]
    if silent:
        raise ValueError(
            f"The criterion {scorer.criterion!r} has no score for the filters "
            f"of the layers {list(dict.fromkeys(silent))}. Leave these out, "
            "with `kprune.make_prunable(model, where=...)` or "
            "`layer.trainable = False`, or take another criterion."
        )
    return np.nan_to_num(scores)


def _slices(scorer, weight, wish, bindings) -> list[np.ndarray | None]:
    """The scores of the slices of a kernel, along each of its bindings."""
    if scorer.scores_slices:
        return scorer.slices(weight, wish.sparsity, bindings)
    pool = getattr(wish.granularity, "pool", granularities.mean_square)
    scores = scorer.scores(weight, wish.sparsity)
    return [pool(scores, binding.axis) for binding in bindings]


def _masks_of(wish, slices, scorer, in_groups) -> dict[str, np.ndarray]:
    """Computes the masks of one layer.

    Args:
        wish: The `_Wish`.
        slices: As `_choose_slices` returns it.
        scorer: The `Scorer`.
        in_groups: Boolean. Whether nothing goes but whole groups.

    Returns:
        Dict from the name of each weight to its mask, a boolean array.
    """
    kernels = {weight.name: weight for weight in wish.kernels}
    found = {}
    for name, variable in wish.layer.maskable.items():
        mask = masks.slice_mask(variable, slices)
        if name in kernels and not in_groups:
            mask = _mask_of(kernels[name], wish, mask, scorer)
        if mask is None:
            mask = np.broadcast_to(True, tuple(variable.shape))
        found[name] = mask
    # The bias of a filter that is gone for good stays away, whatever the
    # granularity is now.
    gone = {
        name: ~dead
        for name, weight in kernels.items()
        if (dead := weight.gone()) is not None
    }
    goes_whole = wish.goes_by_groups and not in_groups
    for name, bias in weights.biases(wish.layer.layer).items():
        of_bias = [weight for weight in wish.kernels if weight.bias is bias]
        if not of_bias:
            continue
        if goes_whole:
            found[name] = masks.of_bias(bias, of_bias, found)
        if gone:
            kept = masks.of_bias(bias, of_bias, gone)
            now = weights.to_numpy(wish.layer.masks[name])
            found[name] = found[name] & (kept | now)
    return found


def _mask_of(weight, wish, mask, scorer) -> np.ndarray:
    """Computes the mask of one kernel.

    Args:
        weight: The `PrunableWeight`.
        wish: The `_Wish` of its layer.
        mask: What whole groups leave of it, `None` if they leave all.
        scorer: The `Scorer`.

    Returns:
        Boolean array of the kernel's shape.
    """
    share = wish.sparsity
    dead = weight.gone()
    staying = masks.both(mask, None if dead is None else ~dead)
    asked = requests.names(wish.granularity, "granularity")
    offers = scorer.offers(weight, share)
    offers["outputs_last"] = lambda: weight.outputs_last
    if "score" not in asked:
        scores = _lowered(scorer.scores(weight, share), staying)
        now = offers["mask"]
        offers["mask"] = lambda: weight.outputs_last(now())
        offers["outputs_last"] = lambda: np.asarray
        turned = weight.outputs_last(scores)
        mask = _ask(wish.granularity, turned, share, offers, weight)
        chosen = weight.back(mask)
    elif (
        scorer.is_elementwise
        and staying is None
        # Where nothing goes no score is looked at, nor found to be nan.
        and removed_count(weight.size, share)
    ):
        # The usual case: no array of all scores, which takes longer to fill
        # than to rank.
        score = functools.partial(scorer.of_values, weight, share)
        offers["score"] = lambda: score
        chosen = _ask(wish.granularity, weight.value(), share, offers, weight)
    else:
        # Of equal scores the one with the lower index in the kernel stays.
        scores = _lowered(scorer.scores(weight, share), staying)
        offers["score"] = lambda: None
        chosen = _ask(wish.granularity, scores, share, offers, weight)
    return chosen if staying is None else chosen & staying


def _lowered(scores, staying) -> np.ndarray:
    return scores if staying is None else masks.lowered(scores, staying)


def _ask(granularity, scores, sparsity, offers, of) -> np.ndarray:
    """Calls a granularity, and checks what it returns."""
    mask = np.asarray(
        requests.answer(
            granularity, "granularity", scores, sparsity, offers=offers
        )
    )
    masks.check(mask, granularity, of, scores.shape)
    return mask


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
