"""Schedules that go to their sparsity at once."""

import dataclasses

from kprune.budgets import Budget
from kprune.schedules.contract import (
    validate_progress,
    validate_target,
    validate_window,
)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same sparsity from `begin` on; the mask may move until `end`.

    Args:
        sparsity: Float in `[0, 1)`, the fraction of zeros, or a
            `kprune.Budget`.
        begin: Float in `[0, 1]`. The progress from which weights are pruned.
        end: Float in `[0, 1]`. The progress at which the masks are frozen.

    Example:

    >>> schedule = kprune.schedules.Constant(0.5, begin=0.25)
    >>> schedule(0.2), schedule(0.25), schedule(1.0)
    (0.0, 0.5, 0.5)
    """

    sparsity: float | Budget
    begin: float = 0.0
    end: float = 0.5

    def __post_init__(self):
        validate_target(self.sparsity)
        validate_window(self.begin, self.end)

    def __call__(self, progress: float) -> float | Budget:
        asked = validate_target(self.sparsity)
        return asked if progress >= self.begin else 0.0


@dataclasses.dataclass(frozen=True)
class OneShot:
    """Everything at once, and frozen from there on.

    Args:
        sparsity: Float in `[0, 1)`, the fraction of zeros, or a
            `kprune.Budget`.
        at: Float in `[0, 1]`. The progress at which weights are pruned.

    Example:

    >>> schedule = kprune.schedules.OneShot(0.8, at=0.5)
    >>> schedule(0.49), schedule(0.5)
    (0.0, 0.8)
    """

    sparsity: float | Budget
    at: float = 0.5

    def __post_init__(self):
        validate_target(self.sparsity)
        validate_progress(self.at, "at")

    @property
    def end(self) -> float:
        """Float. The progress at which the masks are frozen."""
        return self.at

    def __call__(self, progress: float) -> float | Budget:
        asked = validate_target(self.sparsity)
        return asked if progress >= self.at else 0.0
