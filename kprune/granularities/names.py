"""The granularities by their names."""

from collections.abc import Callable

import numpy as np

from kprune.granularities.block import Block
from kprune.granularities.filters import Filter
from kprune.granularities.nm import NM
from kprune.granularities.unstructured import Unstructured
from kprune.received import describe_member

Granularity = Callable[..., np.ndarray]

_BUILT_IN: dict[str, Granularity] = {
    "block": Block(),
    "filter": Filter(),
    "nm": NM(),
    "unstructured": Unstructured(),
}


def get(identifier: Granularity | str) -> Granularity:
    """Returns the granularity that `identifier` stands for.

    Args:
        identifier: The name of a built-in granularity, `"unstructured"`,
            `"filter"`, `"nm"` or `"block"`, or a callable from scores and
            sparsity to a mask.

    Returns:
        A callable from scores and sparsity to a boolean mask.

    Raises:
        ValueError: If there is no such granularity.

    Example:

    >>> kprune.granularities.get("filter")
    Filter(multiple_of=1)
    """
    if isinstance(identifier, str) and identifier.lower() in _BUILT_IN:
        return _BUILT_IN[identifier.lower()]
    if callable(identifier) and not isinstance(identifier, type):
        return identifier
    raise ValueError(
        "Unknown granularity. Expected a callable from scores and sparsity to "
        f"a mask, or one of {sorted(_BUILT_IN)}. "
        f"Received: {describe_member(identifier)}"
    )
