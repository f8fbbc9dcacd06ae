"""Which schedule a name or a number stands for."""

import numbers
from collections.abc import Callable

from kprune.budgets import Budget
from kprune.schedules.contract import Schedule, validate_sparsity
from kprune.schedules.jumps import Constant, OneShot
from kprune.schedules.ramps import Cosine, Linear, Polynomial

_BUILT_IN: dict[str, Callable[[float], Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "linear": Linear,
    "oneshot": OneShot,
    "polynomial": Polynomial,
}


def get(identifier: Schedule | Budget | float | str) -> Schedule:
    """Returns the schedule that `identifier` stands for.

    Args:
        identifier: A float or a `kprune.Budget` `s`, short for
            `Polynomial(final_sparsity=s)`; the
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
    if isinstance(identifier, Budget):
        return Polynomial(final_sparsity=identifier)
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
