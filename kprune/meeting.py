"""Finding the sparsity at which a model meets a budget."""

import dataclasses
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from kprune.allocations.names import uniform
from kprune.budgets import Budget
from kprune.choosing import Wish
from kprune.criteria import magnitude
from kprune.formats import COUNTED
from kprune.granularities import Filter
from kprune.measuring.model_meter import ModelMeter
from kprune.planning import Plan, Planner, ReadGraph
from kprune.prunable import prunable_layers, weights_of
from kprune.scoring import Scorer
from kprune.structure.graph import channel_graph

# All but one of each goes: `floor(n * s)` is rounded up to there.
_MOST = 1.0 - 1e-9
_STEPS = 40
# How many models are built or written to meet what cannot be counted, and how
# near is near enough.
_TRIALS = 6
_NEAR, _AIM = 0.01, -0.005
# Sparsities that make no difference.
_CLOSE = 1e-4


class Unreachable(ValueError):
    """No sparsity meets a budget."""


@dataclasses.dataclass(frozen=True)
class Met:
    """How a budget was met. `str(met)` is a table.

    Args:
        sparsity: Float: what the allocation shared out.
        dense: Dict from each key of the budget to what the dense model has.
        asked: Dict from each key to how much may stay.
        reached: Dict from each key to what stayed.
        files: Integer. How many files were written to find out.
        spread: `kprune.tflite.latency.Ratio` of the latency to the dense
            file's; `None` where nothing was timed.
    """

    sparsity: float
    dense: Mapping[str, float]
    asked: Mapping[str, float]
    reached: Mapping[str, float]
    files: int = 0
    spread: Any = None

    @property
    def binds(self) -> str:
        """String. The key that allowed no more to stay."""
        return max(self.asked, key=lambda k: self.reached[k] / self.asked[k])

    def to_dict(self) -> dict:
        """Returns it as a dict of plain Python values, as of JSON."""
        return {**dataclasses.asdict(self), "binds": self.binds}

    def __str__(self) -> str:
        table = Table(title=f"Budget met at a sparsity of {self.sparsity:.4g}")
        table.add_column("")
        for title in ("dense", "asked", "reached", "share"):
            table.add_column(title, justify="right")
        for key, asked in self.asked.items():
            dense, reached = self.dense[key], self.reached[key]
            digits = ".3f" if key == "latency" else ",.0f"
            table.add_row(
                key + (" (binds)" if key == self.binds else ""),
                *(f"{number:{digits}}" for number in (dense, asked, reached)),
                f"{reached / dense:.3f}",
            )
        if self.spread is not None:
            table.caption = f"latency of the dense file's: {self.spread}"
        text = io.StringIO()
        Console(file=text, width=100).print(table)
        return text.getvalue().rstrip()


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
    search = _Search(planner, budget, meter)
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
    search = _Search(planner, budget, meter)
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
    search = _Search(planner, budget, meter)
    of = meter.of if search.is_counted else search.measure
    reached = of(planner.at(_MOST))
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
    least = meter.counted(planner.at(_MOST))
    return {
        key: least[key] / whole
        for key, whole in meter.counted(None).items()
        if whole
    }


class _Search:
    def __init__(self, planner: Planner, budget: Budget, meter: ModelMeter):
        self._planner = planner
        self._budget = budget
        self._meter = meter
        self.dense = meter.dense(budget)
        self.limits = budget.limits(self.dense)
        self.counted = [key for key in budget.keys if key in COUNTED]
        # Whether nothing has to be written or built to know what is asked.
        self.is_counted = len(self.counted) == len(budget.keys)
        if "macs" in self.counted and not meter.counts_macs:
            self.counted.remove("macs")
            self.is_counted = False
        self._files = 0

    @property
    def is_dense(self) -> bool:
        return all(self.limits[key] >= self.dense[key] for key in self.limits)

    def met(self, plan: Plan, reached) -> Met:
        found = {key: reached[key] for key in self.limits}
        dense = {key: self.dense[key] for key in self.limits}
        return Met(
            plan.sparsity,
            dense,
            self.limits,
            found,
            self._files,
            reached.get("spread"),
        )

    def excess(self, reached) -> float:
        """What is reached beyond what may stay, as a share of it."""
        return max(
            reached[key] / limit - 1.0
            for key, limit in self.limits.items()
            if key in reached
        )

    def measure(self, plan: Plan) -> dict[str, float]:
        self._files += self._meter.writes(self._budget)
        return self._meter.measure(plan, self._budget)

    def most(self, of) -> Plan:
        """The plan that takes most, which has to meet the budget.

        Args:
            of: Callable from a `Plan` to what it reaches.
        """
        plan = self._planner.at(_MOST)
        reached = of(plan)
        if self.excess(reached) <= 0:
            return plan
        able = [
            f"{key} can fall to {reached[key]:,.4g} "
            f"({reached[key] / self.dense[key]:.2g} of the dense model's)"
            for key in self.limits
            if key in reached
        ]
        fits = (
            ""
            if self._planner.classes
            else (
                " Parameters and multiply-accumulates fall where whole filters "
                "go: pass `granularity='filter'`."
            )
        )
        raise Unreachable(
            f"{self._budget} cannot be reached: {'; '.join(able)}.{fits} Ask "
            "for more to stay, or wrap more layers."
        )

    def by_counting(self) -> Plan:
        """The largest plan whose counts fit."""
        low = self._planner.at(0.0)
        if self._fits(low):
            return low
        return self._largest(self._fits, low, self.most(self._meter.of))

    def _fits(self, plan: Plan) -> bool:
        return self.excess(self._meter.of(plan)) <= 0

    def _largest(
        self, fits: Callable[[Plan], bool], low: Plan, high: Plan
    ) -> Plan:
        """The largest plan that fits, between one that does not and one."""
        for _ in range(_STEPS):
            middle = self._planner.at((low.sparsity + high.sparsity) / 2)
            if fits(middle):
                high = middle
            else:
                low = middle
            if self._are_neighbours(low, high):
                break
        return self._filled(fits, low, high)

    def _are_neighbours(self, low: Plan, high: Plan) -> bool:
        if low.keep is None:
            return high.sparsity - low.sparsity < _CLOSE
        apart = low.keep != high.keep
        return all(
            np.count_nonzero(apart[of_class.members]) <= 1
            for of_class in self._planner.classes
        )

    def _filled(
        self, fits: Callable[[Plan], bool], low: Plan, high: Plan
    ) -> Plan:
        """The plan that fits, with what fits of the next larger one.

        Where many layers are of one size they all lose a filter at the same
        sparsity; of these some can stay, those of the highest scores.
        """
        steps = []
        for of_class in self._planner.classes:
            members = of_class.members
            back = low.keep[members] & ~high.keep[members]
            if back.any():
                steps.append((-of_class.scores[back].max(), of_class))
        plan = high
        for _, of_class in sorted(steps, key=lambda step: step[0]):
            keep = plan.keep.copy()
            keep[of_class.members] = low.keep[of_class.members]
            larger = self._planner.with_groups(plan, keep)
            if fits(larger):
                plan = larger
        return plan

    def by_measuring(self, start: Plan) -> tuple[Plan, dict]:
        """The largest plan that fits, as far as a few files show.

        A file gets smaller about as the model does: each guess lies on the
        straight line between the smallest that was too large and the largest
        that fits.

        Args:
            start: The largest plan that can.
        """
        reached = self.measure(start)
        if self.excess(reached) <= 0:
            return start, reached
        low, above = start, self.excess(reached)
        # A model of nothing is taken to cost nothing.
        left, below, best = 0.0, -1.0, None
        for _ in range(_TRIALS):
            size = self._size(low)
            # In the middle of what is near enough.
            part = (below - _AIM) / (below - above)
            wanted = left + (size - left) * part
            plan = self._of_size(wanted, low, best)
            if plan is None:
                break
            found = self.measure(plan)
            excess = self.excess(found)
            if excess > 0:
                low, above = plan, excess
                below /= 2 if best is not None else 1
            else:
                best, reached = plan, found
                left, below = self._size(plan), min(excess, 2 * _AIM)
                above /= 2
            if -_NEAR <= excess <= 0:
                break
        if best is None:
            best = self.most(self.measure)
            reached = self.measure(best)
        return best, reached

    def _size(self, plan: Plan) -> float:
        """What share of the model a plan leaves, as far as can be counted."""
        if plan.keep is None:
            return 1.0 - plan.sparsity
        key = "macs" if self._budget.latency is not None else "parameters"
        counts = self._meter.counted(plan)
        return counts[key] / self._meter.counted(None)[key]

    def _of_size(
        self, size: float, low: Plan, high: Plan | None
    ) -> Plan | None:
        """The largest plan of at most some size, between two others.

        `None` where there is none that differs from both.
        """
        first = self._planner.at(0.0)
        last = self._planner.at(_MOST)
        if self._size(last) > size:
            plan = last
        else:
            plan = self._largest(
                lambda plan: self._size(plan) <= size, first, last
            )
        known = [low] if high is None else [low, high]
        if any(_is_same(plan, other) for other in known):
            return None
        return plan


def _is_same(plan: Plan, other: Plan) -> bool:
    if plan.keep is None:
        return abs(plan.sparsity - other.sparsity) < _CLOSE
    return np.array_equal(plan.keep, other.keep)
