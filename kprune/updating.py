"""Updating the masks of a model: where the nouns meet."""

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
    schedules,
)
from kprune.allocations import Allocation
from kprune.choosing import (
    Slices,
    Wish,
    choose_slices,
    mask_of,
    masks_of_layer,
)
from kprune.criteria import Criterion
from kprune.granularities import Granularity
from kprune.measuring.group_macs import GroupMacs
from kprune.measuring.macs import kernel_macs
from kprune.observing import requests, samples
from kprune.observing.observations import Observations
from kprune.prunable import prunable_layers, weights_of
from kprune.received import describe_member
from kprune.reconstruction import Reconstruction
from kprune.reconstruction.repairing import Repair, all_or_nothing
from kprune.reconstruction.sites import KernelSite, look
from kprune.scoring import LazyScores, Scorer, check_requests
from kprune.structure.by_hand import keeping
from kprune.structure.graph import (
    ChannelGraph,
    channel_graph,
    readable_or_none,
)
from kprune.wrappers import trainable_layers


class MaskUpdater:
    """Updates the masks of a model, as often as it is asked to.

    Args:
        criterion: As `prune` takes it.
        granularity: As `prune` takes it.
        allocation: As `prune` takes it.
        keep: As `prune` takes it.
        data: As `prune` takes it; it is read at once.
        loss: As `prune` takes it.
        pad_layer_norm: As `prune` takes it.
    """

    def __init__(
        self,
        criterion: Criterion | str = "magnitude",
        granularity: Granularity | str | None = None,
        allocation: Allocation | Mapping[str, float] | str = "uniform",
        *,
        keep: Mapping[str, Iterable[int]] | None = None,
        data: Any = None,
        loss: Any = None,
        pad_layer_norm: bool = False,
    ):
        if keep is not None and not isinstance(keep, Mapping):
            raise ValueError(
                "`keep` must map names of layers to the filters that stay, "
                f"such as `{{'conv1': [0, 3]}}`. Received: keep={keep!r}"
            )
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
        self._keep = keep or {}
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
        self._batches: Any = None if data is None else samples.read(data)
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
        self,
        model: keras.Model,
        sparsity: float,
        progress: float = 1.0,
        final: float | None = None,
    ) -> None:
        """Recomputes all masks once.

        Args:
            model: A model with prunable layers.
            sparsity: Float in `[0, 1)`.
            progress: Float in `[0, 1]`, for members that ask for it.
            final: Float. The sparsity that the schedule ends with, `None` for
                this one; likewise.
        """
        self._assign(self._plan(model, sparsity, progress, final))

    def update_and_repair(
        self, model: keras.Model, sparsity: float, verbose: int = 0
    ) -> Reconstruction:
        """Recomputes all masks once, and fits what stays.

        A criterion that asks for `gram` chooses the mask of a kernel where
        that is fitted, by what it reads once the layers before it were.

        Args:
            model: A model with prunable layers.
            sparsity: Float in `[0, 1)`.
            verbose: As `kprune.reconstruct` takes it.
        """
        plan = self._plan(model, sparsity, 1.0)
        on_the_way = self._on_the_way(plan)

        def choose(site, gram, kernel):
            wish = on_the_way.get(id(site.weight.variable))
            if wish is None:
                return None
            scorer = plan.scorer.reading(site.weight, gram, kernel)
            return mask_of(site.weight, wish, None, scorer)

        repair = Repair(model, self._batches, verbose=verbose, choose=choose)
        with all_or_nothing(model):
            self._assign(plan, frozenset(on_the_way))
            return repair.run()

    def _on_the_way(self, plan: "_Plan") -> dict[int, Wish]:
        """The wishes of kernels whose masks are chosen where they are fitted.

        By the ids of their variables.
        """
        if "gram" not in requests.names(self._criterion, "criterion"):
            return {}
        seen = look(plan.model, self._batches[0].x, lifted=False)
        fitted = {
            id(site.weight.variable)
            for site in seen.sites
            if isinstance(site, KernelSite)
        }
        return {
            id(weight.variable): wish
            for wish, is_whole in zip(plan.wishes, plan.in_groups)
            for weight in wish.kernels
            if not is_whole and id(weight.variable) in fitted
        }

    def _plan(self, model, sparsity, progress, final=None) -> "_Plan":
        """What is to be masked where."""
        sparsity = schedules.validate_sparsity(sparsity)
        final = sparsity if final is None else final
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
            Wish(
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
        if self._keep:
            _check_groups_go(self._keep, model, graph, wishes)
        # Where the allocation ranks groups no weight need be ranked for it.
        if not (all(in_groups) and self._over_groups):
            wishes = self._share_out(wishes, sparsity, final, scorer)
        slices: Slices = {}
        if graph is not None:
            if len(by_groups) == len(wishes):
                _check_any_free(model, graph, layers)
            share_out = functools.partial(
                self._share_out_groups, layers, sparsity, final, progress, graph
            )
            slices = choose_slices(graph, wishes, scorer, share_out)
        return _Plan(model, wishes, in_groups, slices, scorer)

    def _assign(self, plan: "_Plan", but: frozenset[int] = frozenset()) -> None:
        """Sets the masks, but those of some variables, by their ids."""
        updated = [
            masks_of_layer(wish, plan.slices, plan.scorer, is_whole, but)
            for wish, is_whole in zip(plan.wishes, plan.in_groups)
        ]
        # All or none: what fails above leaves the masks as they were.
        for wish, of_layer in zip(plan.wishes, updated):
            for name, mask in of_layer.items():
                wish.layer.masks[name].assign(mask)

    def _granularity_of(self, layer) -> Granularity:
        if self._granularity is not None:
            return self._granularity
        return granularities.get(layer.granularity)

    @property
    def _over_groups(self) -> Callable | None:
        return getattr(self._allocation, "over_groups", None)

    def _share_out(self, wishes, sparsity, final, scorer) -> list["Wish"]:
        """The wishes with the sparsities that the allocation gives them."""
        layers = [wish.layer for wish in wishes]

        def score(weight):
            return scorer.scores_across(weight, sparsity)

        shares = requests.answer(
            self._allocation,
            "allocation",
            layers,
            sparsity,
            offers={
                "final_sparsity": lambda: final,
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
        self, layers, sparsity, final, progress, graph, classes
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
                "final_sparsity": lambda: final,
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
                graph = channel_graph(
                    self._readable, pad_layer_norm=self._pad_layer_norm
                )
                self._graph = keeping(graph, self._readable, self._keep)
        return self._graph


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is to be masked where.

    Args:
        model: The model.
        wishes: List of `Wish`, one a layer.
        in_groups: List of booleans: of which layers only groups go.
        slices: Which slices stay.
        scorer: The `Scorer`.
    """

    model: keras.Model
    wishes: list[Wish]
    in_groups: list[bool]
    slices: Slices
    scorer: Scorer


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


def _check_groups_go(keep, model, graph, wishes) -> None:
    """Raises if layers whose filters are to stay lose no filters as a whole."""
    single = {
        name: wish.layer.name
        for wish in wishes
        if graph is None or not wish.goes_by_groups
        for name in (wish.layer, wish.layer.layer, wish.layer.name)
    }
    named = [single[name] for name in keep if name in single]
    if named or graph is None:
        raise ValueError(
            "`keep` is for whole filters that go with all that is coupled to "
            f"them, and layers {named or list(keep)} of model '{model.name}' "
            "lose single weights, or the model has no graph that can be read. "
            "Leave them out, or prune with `granularity='filter'`."
        )


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
