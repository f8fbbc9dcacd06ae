"""Criteria: which weights matter.

A criterion is any callable that maps a kernel, a NumPy array, to scores of the
same shape; a higher score means keep. Scores may be negative: their order
counts. What else it needs it asks for by the names of keyword-only parameters,
see `kprune.observing.requests`.

One that scores each weight by its own value alone, whatever the others are,
may say so by an attribute `elementwise` that is true: large kernels are then
scored in pieces, which takes less memory. One whose scores have no scale in
common between kernels declares another criterion `across`, by which an
allocation compares them.
"""

from collections.abc import Callable

import numpy as np

from kprune.criteria.by_gradient import fisher as fisher
from kprune.criteria.by_gradient import snip as snip
from kprune.criteria.by_gradient import taylor as taylor
from kprune.criteria.by_gradient import taylor_slices as taylor_slices
from kprune.criteria.by_input import alps as alps
from kprune.criteria.by_input import obs as obs
from kprune.criteria.by_input import wanda as wanda
from kprune.criteria.by_weight import Random as Random
from kprune.criteria.by_weight import magnitude as magnitude
from kprune.criteria.of_groups import FPGM as FPGM
from kprune.criteria.of_groups import Activation as Activation
from kprune.criteria.of_groups import BNScale as BNScale
from kprune.received import describe_member

Criterion = Callable[..., np.ndarray]

_BUILT_IN: dict[str, Criterion] = {
    "magnitude": magnitude,
    "random": Random(),
    "taylor": taylor,
    "fisher": fisher,
    "snip": snip,
    "wanda": wanda,
    "obs": obs,
    "alps": alps,
    "fpgm": FPGM(),
    "bn_scale": BNScale(),
    "activation": Activation(),
}


def get(identifier: Criterion | str) -> Criterion:
    """Returns the criterion that `identifier` stands for.

    Args:
        identifier: The name of a built-in criterion (`"magnitude"`,
            `"random"`, `"taylor"`, `"fisher"`, `"snip"`, `"wanda"`, `"obs"`,
            `"alps"`; of whole filters `"fpgm"`, `"bn_scale"`,
            `"activation"`), or a callable from kernel to scores.

    Returns:
        A callable from a kernel to scores of the same shape.

    Raises:
        ValueError: If there is no such criterion.

    Example:

    >>> kprune.criteria.get("magnitude")(np.array([-3.0]))
    array([3.])
    """
    if isinstance(identifier, str) and identifier.lower() in _BUILT_IN:
        return _BUILT_IN[identifier.lower()]
    if callable(identifier) and not isinstance(identifier, type):
        return identifier
    raise ValueError(
        "Unknown criterion. Expected a callable from kernel to scores, or one "
        f"of {sorted(_BUILT_IN)}. Received: {describe_member(identifier)}"
    )
