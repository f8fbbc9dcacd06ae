"""Meeting a budget: from what may stay to a sparsity."""

import warnings

import keras

from kprune.allocations.names import uniform
from kprune.budgets import Budget
from kprune.choosing import Wish
from kprune.criteria import magnitude
from kprune.granularities import Filter
from kprune.measuring.model_meter import ModelMeter
from kprune.meeting.results import Met as Met
from kprune.meeting.results import Unreachable as Unreachable
from kprune.meeting.searching import MOST, BudgetSearch
from kprune.planning import Plan, Planner, ReadGraph
from kprune.prunable import prunable_layers, weights_of
from kprune.scoring import Scorer
from kprune.structure.graph import channel_graph


def meet(
    planner: Planner, budget: Budget, meter: ModelMeter
) -> tuple[Plan, Met]:
    """Plans the masks of the largest model that a budget allows.

    Args:
        planner: The `Planner` of the model.
        budget: The `Budget`.
        meter: The `ModelMeter` of the model.

    Returns:
        Tuple of the `Plan` and how it meets the budget.

    Raises:
        Unreachable: If no sparsity does, with what can be reached.
    """
    search = BudgetSearch(planner, budget, meter)
    plan = planner.at(0.0)
    if search.is_dense:
        warnings.warn(
            f"{budget} is no less than the dense model has, so nothing is "
            "pruned. Ask for less.",
            stacklevel=6,
        )
        return plan, search.met(plan, search.dense)
    reached = meter.of(plan) if search.is_counted else None
    if search.counted:
        plan = search.by_counting()
        reached = meter.of(plan) if meter.is_right_about(plan) else None
    if reached is None or not search.is_counted:
        plan, reached = search.by_measuring(plan)
    return plan, search.met(plan, reached)


def check_reachable(
    planner: Planner, budget: Budget, meter: ModelMeter
) -> None:
    """Raises where no sparsity meets a budget.

    Args:
        planner: The `Planner` of the model.
        budget: The `Budget`.
        meter: The `ModelMeter` of the model.

    Raises:
        Unreachable: With what can be reached.
    """
    search = BudgetSearch(planner, budget, meter)
    if search.counted:
        search.most(meter.of)
    if not search.is_counted:
        search.most(search.measure)


def least(
    planner: Planner, budget: Budget, meter: ModelMeter
) -> dict[str, float]:
    """How little can be left of each key of a budget, whatever it asks for.

    Args:
        planner: The `Planner` of the model.
        budget: The `Budget`.
        meter: The `ModelMeter` of the model.

    Returns:
        Dict from each key to a share of the dense model.
    """
    search = BudgetSearch(planner, budget, meter)
    of = meter.of if search.is_counted else search.measure
    reached = of(planner.at(MOST))
    return {key: reached[key] / search.dense[key] for key in budget.keys}


def reachable(model: keras.Model, graph: keras.Model) -> dict[str, float]:
    """How far parameters and multiply-accumulates fall where filters go.

    Args:
        model: A model with prunable layers.
        graph: The same as a Sequential or Functional one.

    Returns:
        Dict from `"parameters"` and `"macs"`, where these are known, to the
        share of the dense model that is left when all filters go that can.
    """
    wishes = [
        Wish(layer, weights_of(layer), 0.0, Filter())
        for layer in prunable_layers(model)
        if layer.trainable and layer.built
    ]
    read = ReadGraph(graph, channel_graph(graph))
    planner = Planner(model, wishes, Scorer(magnitude, {}, 1.0), uniform, read)
    meter = ModelMeter(model, read)
    least = meter.counted(planner.at(MOST))
    return {
        key: least[key] / whole
        for key, whole in meter.counted(None).items()
        if whole
    }
