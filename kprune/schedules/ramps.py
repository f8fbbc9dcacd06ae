"""Schedules on which the sparsity grows bit by bit."""

import dataclasses
import math

from kprune.budgets import Budget
from kprune.received import is_real
from kprune.schedules.contract import (
    validate_sparsity,
    validate_target,
    validate_window,
)


@dataclasses.dataclass(frozen=True)
class _Ramp:
    """From `initial_sparsity` at `begin` to `final_sparsity` at `end`."""

    final_sparsity: float | Budget
    initial_sparsity: float = 0.0
    begin: float = 0.0
    end: float = 0.5

    def __post_init__(self):
        validate_target(self.final_sparsity, "final_sparsity")
        validate_sparsity(self.initial_sparsity, "initial_sparsity")
        if isinstance(self.final_sparsity, Budget) and self.initial_sparsity:
            raise ValueError(
                "The way to a budget begins at the dense model: leave out "
                f"`initial_sparsity`. Received: {self.initial_sparsity!r}"
            )
        validate_window(self.begin, self.end)

    def __call__(self, progress: float) -> float | Budget:
        if progress >= self.end:
            left = 0.0
        elif progress <= self.begin:
            left = 1.0
        else:
            position = (progress - self.begin) / (self.end - self.begin)
            left = self._left(position)
        if isinstance(self.final_sparsity, Budget):
            return self.final_sparsity.at(1.0 - left)
        if left in (0.0, 1.0):
            return float(self.initial_sparsity if left else self.final_sparsity)
        span = self.initial_sparsity - self.final_sparsity
        return float(self.final_sparsity + span * left)

    def _left(self, position: float) -> float:
        """The share of the way that is still to go at `position`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Polynomial(_Ramp):
    """The sparsity grows fast at first and slowly at the end.

    With `p = clip((progress - begin) / (end - begin), 0, 1)` the sparsity is
    `final + (initial - final) * (1 - p) ** power`. Before `begin` nothing is
    pruned unless `initial_sparsity` says otherwise.

    Args:
        final_sparsity: Float in `[0, 1)`, or a `kprune.Budget`. The sparsity
            from `end` on.
        initial_sparsity: Float in `[0, 1)`. The sparsity up to `begin`.
        begin: Float in `[0, 1]`. The progress at which the sparsity starts
            to grow.
        end: Float in `[0, 1]`. The progress at which it has its final value
            and the masks are frozen.
        power: Positive float. 1 is a straight line, 3 the cubic of the paper.

    Example:

    >>> schedule = kprune.schedules.Polynomial(0.8)
    >>> schedule(0.0), round(schedule(0.25), 6), schedule(0.5)
    (0.0, 0.7, 0.8)

    Reference:

    - [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    power: float = 3

    def __post_init__(self):
        super().__post_init__()
        if not is_real(self.power) or not self.power > 0:
            raise ValueError(
                "`power` must be a positive number. "
                f"Received: power={self.power!r}"
            )

    def _left(self, position: float) -> float:
        return (1 - position) ** self.power


@dataclasses.dataclass(frozen=True)
class Linear(_Ramp):
    """The sparsity grows in a straight line from `begin` to `end`.

    Args:
        final_sparsity: Float in `[0, 1)`, or a `kprune.Budget`. The sparsity
            from `end` on.
        initial_sparsity: Float in `[0, 1)`. The sparsity up to `begin`.
        begin: Float in `[0, 1]`. The progress at which the sparsity starts
            to grow.
        end: Float in `[0, 1]`. The progress at which it has its final value
            and the masks are frozen.

    Example:

    >>> schedule = kprune.schedules.Linear(0.8)
    >>> schedule(0.0), schedule(0.25), schedule(0.5)
    (0.0, 0.4, 0.8)
    """

    def _left(self, position: float) -> float:
        return 1 - position


@dataclasses.dataclass(frozen=True)
class Cosine(_Ramp):
    """The sparsity grows along half a cosine: slow, fast, slow.

    Args:
        final_sparsity: Float in `[0, 1)`, or a `kprune.Budget`. The sparsity
            from `end` on.
        initial_sparsity: Float in `[0, 1)`. The sparsity up to `begin`.
        begin: Float in `[0, 1]`. The progress at which the sparsity starts
            to grow.
        end: Float in `[0, 1]`. The progress at which it has its final value
            and the masks are frozen.

    Example:

    >>> schedule = kprune.schedules.Cosine(0.8)
    >>> schedule(0.0), round(schedule(0.25), 6), schedule(0.5)
    (0.0, 0.4, 0.8)
    """

    def _left(self, position: float) -> float:
        return (1 + math.cos(math.pi * position)) / 2
