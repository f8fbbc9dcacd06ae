"""What every schedule keeps to: its numbers, and its end."""

from collections.abc import Callable

from kprune.budgets import Budget
from kprune.received import is_real

Schedule = Callable[[float], float | Budget]


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


def validate_target(value: object, name: str = "sparsity") -> float | Budget:
    """Returns `value`, or raises when it is no sparsity and no budget.

    Args:
        value: What to check.
        name: String. The argument's name, for the message.

    Returns:
        Float in `[0, 1)`, or the `kprune.Budget`.

    Raises:
        ValueError: As `validate_sparsity` does.

    Example:

    >>> kprune.schedules.validate_target(kprune.Budget(macs=0.5)).macs
    0.5
    """
    if isinstance(value, Budget):
        return value
    return validate_sparsity(value, name)


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


def validate_window(begin, end) -> None:
    """Raises where a schedule would end before it begins."""
    validate_progress(begin, "begin")
    validate_progress(end, "end")
    if begin > end:
        raise ValueError(
            "`begin` must not be later than `end`. "
            f"Received: begin={begin!r}, end={end!r}"
        )


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
