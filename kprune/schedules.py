"""Schedules: how sparse the model is to be, and when.

A schedule is any callable that maps the training progress, a float in
`[0, 1]`, to a sparsity, a float in `[0, 1)`. The built-in ones are frozen
dataclasses. Masks are frozen from the first update at which the progress has
reached the attribute `end` of the schedule (1.0 for a callable without one):
what remains of the training fine-tunes the weights that are left. A schedule
that is above 0 at progress 0 is heard before the first step.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Sequence

from kprune.received import is_real

Schedule = Callable[[float], float]


def validate_sparsity(value: object, name: str = "sparsity") -> float:
    """Returns `value` as a float, or raises when it is not a sparsity.

    Args:
        value: The number to check.
        name: String. The argument's name, for the message.

    Returns:
        Float in `[0, 1)`.

    Raises:
        ValueError: If `value` is no real number, is nan, or is outside
            `[0, 1)`.

    Example:

    >>> kprune.schedules.validate_sparsity(0.5)
    0.5
    """
    if not is_real(value):
        raise ValueError(
            f"`{name}` must be a number in [0, 1), the fraction of zeros. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if not 0 <= value < 1:
        raise ValueError(
            f"`{name}` must be in [0, 1): it is the fraction of zeros, and "
            f"at least one weight has to stay. Received: {name}={value!r}"
        )
    return float(value)


def validate_progress(value: object, name: str = "progress") -> float:
    """Returns `value` as a float, or raises when it is not a progress.

    Args:
        value: The number to check.
        name: String. The argument's name, for the message.

    Returns:
        Float in `[0, 1]`.

    Raises:
        ValueError: If `value` is no real number, is nan, or is outside
            `[0, 1]`.

    Example:

    >>> kprune.schedules.validate_progress(1)
    1.0
    """
    if not is_real(value) or not 0 <= value <= 1:
        raise ValueError(
            f"`{name}` must be a fraction of the training in [0, 1]. "
            f"Received: {name}={value!r}"
        )
    return float(value)


def _validate_window(begin, end) -> None:
    validate_progress(begin, "begin")
    validate_progress(end, "end")
    if begin > end:
        raise ValueError(
            "`begin` must not be later than `end`. "
            f"Received: begin={begin!r}, end={end!r}"
        )


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same sparsity from `begin` on; the mask may move until `end`.

    Args:
        sparsity: Float in `[0, 1)`. The fraction of zeros.
        begin: Float in `[0, 1]`. The progress from which weights are pruned.
        end: Float in `[0, 1]`. The progress at which the masks are frozen.

    Example:

    >>> schedule = kprune.schedules.Constant(0.5, begin=0.25)
    >>> schedule(0.2), schedule(0.25), schedule(1.0)
    (0.0, 0.5, 0.5)
    """

    sparsity: float
    begin: float = 0.0
    end: float = 0.5

    def __post_init__(self):
        validate_sparsity(self.sparsity)
        _validate_window(self.begin, self.end)

    def __call__(self, progress: float) -> float:
        return float(self.sparsity) if progress >= self.begin else 0.0


@dataclasses.dataclass(frozen=True)
class OneShot:
    """Everything at once, and frozen from there on.

    Args:
        sparsity: Float in `[0, 1)`. The fraction of zeros.
        at: Float in `[0, 1]`. The progress at which weights are pruned.

    Example:

    >>> schedule = kprune.schedules.OneShot(0.8, at=0.5)
    >>> schedule(0.49), schedule(0.5)
    (0.0, 0.8)
    """

    sparsity: float
    at: float = 0.5

    def __post_init__(self):
        validate_sparsity(self.sparsity)
        validate_progress(self.at, "at")

    @property
    def end(self) -> float:
        """Float. The progress at which the masks are frozen."""
        return self.at

    def __call__(self, progress: float) -> float:
        return float(self.sparsity) if progress >= self.at else 0.0


@dataclasses.dataclass(frozen=True)
class _Ramp:
    """From `initial_sparsity` at `begin` to `final_sparsity` at `end`."""

    final_sparsity: float
    initial_sparsity: float = 0.0
    begin: float = 0.0
    end: float = 0.5

    def __post_init__(self):
        validate_sparsity(self.final_sparsity, "final_sparsity")
        validate_sparsity(self.initial_sparsity, "initial_sparsity")
        _validate_window(self.begin, self.end)

    def __call__(self, progress: float) -> float:
        if progress >= self.end:
            return float(self.final_sparsity)
        if progress <= self.begin:
            return float(self.initial_sparsity)
        position = (progress - self.begin) / (self.end - self.begin)
        left = self._left(position)
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
        final_sparsity: Float in `[0, 1)`. The sparsity from `end` on.
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
        final_sparsity: Float in `[0, 1)`. The sparsity from `end` on.
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
        final_sparsity: Float in `[0, 1)`. The sparsity from `end` on.
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


@dataclasses.dataclass(frozen=True)
class _Joined:
    schedules: tuple[Schedule, ...]
    boundaries: tuple[float, ...]

    @property
    def end(self) -> float:
        return max(end(self.schedules[-1]), self.boundaries[-1])

    def __call__(self, progress: float) -> float:
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


def end(schedule: Schedule) -> float:
    """The progress at which the schedule has its final value.

    Args:
        schedule: A schedule.

    Returns:
        Float in `[0, 1]`: its attribute `end`, or 1.0 where it has none.

    Example:

    >>> kprune.schedules.end(kprune.schedules.Polynomial(0.5))
    0.5
    >>> kprune.schedules.end(lambda progress: 0.5 * progress)
    1.0
    """
    return float(getattr(schedule, "end", 1.0))


_BUILT_IN: dict[str, Callable[[float], Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "linear": Linear,
    "oneshot": OneShot,
    "polynomial": Polynomial,
}


def get(identifier: Schedule | float | str) -> Schedule:
    """Returns the schedule that `identifier` stands for.

    Args:
        identifier: A float `s`, short for `Polynomial(final_sparsity=s)`; the
            name of a built-in schedule, which then ends at a sparsity of 0.5;
            or a callable from progress to sparsity.

    Returns:
        A callable from progress in `[0, 1]` to sparsity in `[0, 1)`.

    Raises:
        ValueError: If there is no such schedule, or the number is outside
            `[0, 1)`.

    Example:

    >>> kprune.schedules.get(0.8)
    Polynomial(final_sparsity=0.8, initial_sparsity=0.0, begin=0.0, end=0.5, power=3)
    """  # noqa: E501
    if isinstance(identifier, str) and identifier.lower() in _BUILT_IN:
        return _BUILT_IN[identifier.lower()](0.5)
    if isinstance(identifier, numbers.Real):
        sparsity = validate_sparsity(identifier, "schedule")
        return Polynomial(final_sparsity=sparsity)
    if isinstance(identifier, type):
        name = identifier.__name__
        raise ValueError(
            "Unknown schedule. Expected a callable from progress to sparsity. "
            f"Received: the class {name}; call it, such as `{name}(0.8)`"
        )
    if callable(identifier):
        return identifier
    raise ValueError(
        "Unknown schedule. Expected a sparsity in [0, 1), a callable from "
        f"progress to sparsity, or one of {sorted(_BUILT_IN)}. "
        f"Received: {identifier!r}"
    )
