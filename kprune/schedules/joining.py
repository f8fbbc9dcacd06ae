"""Schedules one after the other."""

import dataclasses
from collections.abc import Iterable, Sequence

from kprune.budgets import Budget
from kprune.schedules.contract import Schedule, end, validate_progress
from kprune.schedules.identifiers import get


@dataclasses.dataclass(frozen=True)
class _Joined:
    schedules: tuple[Schedule, ...]
    boundaries: tuple[float, ...]

    @property
    def end(self) -> float:
        return max(end(self.schedules[-1]), self.boundaries[-1])

    def __call__(self, progress: float) -> float | Budget:
        index = sum(progress >= boundary for boundary in self.boundaries)
        return self.schedules[index](progress)


def join(
    schedules: Sequence[Schedule | float | str], boundaries: Sequence[float]
) -> Schedule:
    """One schedule after the other.

    Each schedule sees the progress of the whole training: `begin` and `end`
    of the second are not shifted by the boundary.

    Args:
        schedules: Sequence of schedules, at least two; each in a form that
            `get` takes.
        boundaries: Sequence of floats in `[0, 1]`, rising, one fewer than
            there are schedules. From `boundaries[i]` on `schedules[i + 1]`
            counts.

    Returns:
        The joined schedule. It ends where its last part ends, or at the last
        boundary if that is later.

    Raises:
        ValueError: If the numbers of schedules and boundaries do not fit, the
            boundaries do not rise, or either is no sequence.

    Example:

    >>> schedule = kprune.schedules.join(
    ...     [kprune.schedules.OneShot(0.3, at=0.1),
    ...      kprune.schedules.Linear(0.8, 0.3, begin=0.5, end=0.75)],
    ...     boundaries=[0.5])
    >>> schedule(0.05), schedule(0.4), schedule(0.75)
    (0.0, 0.3, 0.8)
    """
    for name, values in (("schedules", schedules), ("boundaries", boundaries)):
        if not isinstance(values, Iterable):
            raise ValueError(
                f"`{name}` must be a list or tuple. Received: {name}={values!r}"
            )
    parts = tuple(get(schedule) for schedule in schedules)
    boundaries = tuple(boundaries)
    for boundary in boundaries:
        validate_progress(boundary, "boundaries")
    rising = all(a < b for a, b in zip(boundaries, boundaries[1:]))
    if len(parts) < 2 or len(boundaries) != len(parts) - 1:
        raise ValueError(
            "`join` needs at least two schedules and one boundary fewer. "
            f"Received: {len(parts)} schedules and "
            f"boundaries={boundaries!r}"
        )
    if not rising:
        raise ValueError(
            f"`boundaries` must rise. Received: boundaries={boundaries!r}"
        )
    return _Joined(parts, boundaries)
