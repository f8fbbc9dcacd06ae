"""Updating the masks of a model, as often as it is asked for."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kprune import (
    allocations,
    criteria,
    fitting,
    granularities,
    keras_internals,
    schedules,
)
from kprune.allocations import Allocation
from kprune.budgets import Budget
from kprune.choosing import Wish
from kprune.criteria import Criterion
from kprune.granularities import Granularity
from kprune.measuring.model_meter import ModelMeter
from kprune.meeting import Met, check_reachable, meet
from kprune.observing import requests, samples
from kprune.observing.observations import Observations
from kprune.planning import Plan, Planner, ReadGraph
from kprune.prunable import prunable_layers, weights_of
from kprune.received import describe_member
from kprune.reconstruction import Reconstruction
from kprune.restoring import all_or_nothing
from kprune.scoring import Scorer, check_requests
from kprune.structure.by_hand import keeping
from kprune.structure.graph import channel_graph, readable_or_none
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
        over_groups = getattr(self._allocation, "over_groups", None)
        if over_groups is not None:
            requests.names(over_groups, "allocation over groups")
        if self._granularity is not None:
            requests.names(self._granularity, "granularity")
        self._read: ReadGraph | None = None
        self._meter: ModelMeter | None = None
        self._of: keras.Model | None = None
        # How the last budget was met.
        self.met: Met | None = None

    @property
    def batches(self) -> Any:
        """List of `Batch`: the data; `None` without."""
        return self._batches

    def with_allocation(self, allocation: Allocation) -> "MaskUpdater":
        """The same with another allocation; nothing is read again.

        Args:
            allocation: A callable.
        """
        found = copy.copy(self)
        found._allocation = allocation
        return found

    def update(
        self,
        model: keras.Model,
        target: float | Budget,
        progress: float = 1.0,
        final: float | Budget | None = None,
    ) -> float:
        """Recomputes all masks once.

        Args:
            model: A model with prunable layers.
            target: A sparsity, a float in `[0, 1)`, or a `Budget`.
            progress: Float in `[0, 1]`, for members that ask for it.
            final: What the schedule ends with, `None` for the target;
                likewise.

        Returns:
            Float: the sparsity that was shared out.
        """
        plan = self._plan(model, target, progress, final)
        plan.assign()
        return plan.sparsity

    def check(self, model: keras.Model, target: float | Budget) -> None:
        """Raises where a model cannot become what is asked for.

        Args:
            model: A model with prunable layers.
            target: As `update` takes it.
        """
        self._wishes(model)
        if isinstance(target, Budget):
            planner = self.planner(model, 1.0, target.way)
            check_reachable(planner, target, self._meter_of(planner))

    def outlook(self, model: keras.Model) -> tuple[Planner, ModelMeter]:
        """What tells how budgets would be met, while no weight changes.

        Args:
            model: A model with prunable layers.

        Returns:
            Tuple of what `kprune.meeting` asks for.
        """
        planner = self.planner(model, 1.0, 1.0)
        return planner, self._meter_of(planner)

    def update_and_repair(
        self, model: keras.Model, target: float | Budget, verbose: int = 0
    ) -> tuple[float, Reconstruction]:
        """Recomputes all masks once, and fits what stays.

        A criterion that asks for `gram` chooses the mask of a kernel where
        that is fitted, by what it reads once the layers before it were; groups
        in two rounds.

        Args:
            model: A model with prunable layers.
            target: As `update` takes it.
            verbose: As `kprune.reconstruct` takes it.

        Returns:
            Tuple of the sparsity that was shared out and what was fitted.
        """
        plan = self._plan(model, target, 1.0, target)
        with all_or_nothing(model):
            if plan.goes_by_readers:
                # What the readers lose is judged again once a part is gone.
                with fitting.halfway(plan, self._batches):
                    plan = self._plan(model, target, 1.0, target)
            return plan.sparsity, fitting.fit(plan, self._batches, verbose)

    def _plan(self, model, target, progress, final) -> Plan:
        if not isinstance(target, Budget):
            target = schedules.validate_sparsity(target)
            way = 1.0
            if target and isinstance(final, float):
                way = min(target / final, 1.0)
            return self.planner(model, progress, way).at(target)
        planner = self.planner(model, progress, target.way)
        plan, self.met = meet(planner, target, self._meter_of(planner))
        return plan

    def _meter_of(self, planner) -> ModelMeter:
        """The meter of the model; it writes the dense file once."""
        meter = self._meter
        is_of_it = (
            meter is not None
            and meter.model is planner.model
            and meter.read is planner.read
        )
        if self._meter is None or not is_of_it:
            self._meter = ModelMeter(planner.model, planner.read, self._batches)
        return self._meter

    def planner(
        self, model: keras.Model, progress: float = 1.0, way: float = 1.0
    ) -> Planner:
        """Plans the masks of a model as it is now.

        Args:
            model: A model with prunable layers.
            progress: As `update` takes it.
            way: As `Planner` takes it.
        """
        wishes, read = self._wishes(model)
        observations = None
        if self._batches is not None:
            observations = Observations(model, self._batches, self._loss)
        scorer = Scorer(self._criterion, _places(model), progress, observations)
        return Planner(model, wishes, scorer, self._allocation, read, way)

    def _wishes(self, model) -> tuple[list[Wish], ReadGraph | None]:
        """What can be masked in which shape, and the graph if that counts."""
        layers = trainable_layers(model)
        if not any(layer.built for layer in layers):
            raise ValueError(
                f"Model '{model.name}' is not built, so there are no weights "
                "to mask. Start it with `keras.Input(shape)`, or call it on "
                "data first."
            )
        wishes = [
            Wish(layer, weights_of(layer), 0.0, self._granularity_of(layer))
            for layer in layers
        ]
        by_groups = [wish for wish in wishes if wish.goes_by_groups]
        read = self._read_graph(model) if by_groups else None
        if self._keep:
            _check_groups_go(self._keep, model, read, wishes)
        if read is not None and len(by_groups) == len(wishes):
            _check_any_free(model, read.channels, layers)
        return wishes, read

    def _granularity_of(self, layer) -> Granularity:
        if self._granularity is not None:
            return self._granularity
        return granularities.get(layer.granularity)

    def _read_graph(self, model) -> ReadGraph | None:
        """The model's graph, `None` where it has none that can be read."""
        # A model that grew (Sequential.add) has another graph.
        of = keras_internals.graph_of(model) or model
        if of is not self._of:
            self._of = of
            found = readable_or_none(model)
            self._read = None
            if found is not None:
                channels = channel_graph(
                    found, pad_layer_norm=self._pad_layer_norm
                )
                channels = keeping(channels, found, self._keep)
                self._read = ReadGraph(found, channels)
        return self._read


def _places(model) -> dict[int, tuple[int, int]]:
    """Where in the model each kernel is, by the id of its variable."""
    return {
        id(variable): (place, index)
        for place, layer in enumerate(prunable_layers(model))
        for index, variable in enumerate(layer.kernels.values())
    }


def _check_groups_go(keep, model, read, wishes) -> None:
    """Raises if layers whose filters are to stay lose no filters as a whole."""
    single = {
        name: wish.layer.name
        for wish in wishes
        if read is None or not wish.goes_by_groups
        for name in (wish.layer, wish.layer.layer, wish.layer.name)
    }
    named = [single[name] for name in keep if name in single]
    if named or read is None:
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
