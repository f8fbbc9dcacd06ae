"""Looking for the sparsity that leaves as much as a budget allows."""

from collections.abc import Callable

import numpy as np

from kprune.budgets import Budget
from kprune.formats import COUNTED
from kprune.measuring.model_meter import ModelMeter
from kprune.meeting.results import Met, Unreachable
from kprune.planning import Plan, Planner

# All but one of each goes: `floor(n * s)` is rounded up to there.
MOST = 1.0 - 1e-9
_STEPS = 40
# How many models are built or written to meet what cannot be counted, and how
# near is near enough.
_TRIALS = 6
_NEAR, _AIM = 0.01, -0.005
# Sparsities that make no difference.
_CLOSE = 1e-4


class BudgetSearch:
    """Looks for the largest model that a budget allows.

    Args:
        planner: The `Planner` of the model.
        budget: The `Budget`.
        meter: The `ModelMeter` of the model.

    Attributes:
        dense: Dict from each key to what the dense model has.
        limits: Dict from each key to how much may stay.
        counted: List of the keys that are counted, not measured.
        is_counted: Boolean. Whether these are all, so that nothing has to be
            written or built.
    """

    def __init__(self, planner: Planner, budget: Budget, meter: ModelMeter):
        self._planner = planner
        self._budget = budget
        self._meter = meter
        self.dense = meter.dense(budget)
        self.limits = budget.limits(self.dense)
        self.counted = [key for key in budget.keys if key in COUNTED]
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
        plan = self._planner.at(MOST)
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
                # Also before anything fits: the next guess is a bolder one, so
                # that it never ends with all gone that can go.
                below /= 2
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
        """The largest plan of at most some size.

        `None` where it is one of two that were measured.
        """
        first = self._planner.at(0.0)
        last = self._planner.at(MOST)
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
