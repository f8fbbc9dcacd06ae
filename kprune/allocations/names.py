"""The allocations by their names, and the simplest of them."""

from collections.abc import Callable, Mapping, Sequence

from kprune.allocations.erdos_renyi import ErdosRenyi
from kprune.allocations.lamp import Lamp
from kprune.allocations.one_threshold import Global
from kprune.allocations.per_layer import PerLayer
from kprune.received import describe_member

Allocation = Callable[..., Sequence[float]]


def uniform(layers: Sequence, sparsity: float) -> list[float]:
    """Gives every layer the same sparsity.

    Args:
        layers: Sequence of prunable layers.
        sparsity: Float in `[0, 1)`.

    Returns:
        List of floats, one per layer.

    Example:

    >>> layers = [kprune.PrunableDense(2), kprune.PrunableDense(3)]
    >>> kprune.allocations.uniform(layers, 0.5)
    [0.5, 0.5]
    """
    return [sparsity] * len(layers)


_BUILT_IN: dict[str, Allocation] = {
    "erdos_renyi": ErdosRenyi(),
    "global": Global(),
    "lamp": Lamp(),
    "uniform": uniform,
}


def get(identifier: Allocation | Mapping[str, float] | str) -> Allocation:
    """Returns the allocation that `identifier` stands for.

    Args:
        identifier: The name of a built-in allocation, `"uniform"`,
            `"global"`, `"lamp"` or `"erdos_renyi"`; a callable from layers
            and sparsity to one sparsity per layer; or a dict from names of
            layers to their sparsities, see `PerLayer`.

    Returns:
        A callable from layers and sparsity to a sequence of sparsities.

    Raises:
        ValueError: If there is no such allocation.

    Example:

    >>> kprune.allocations.get("uniform")([None, None], 0.8)
    [0.8, 0.8]
    """
    if isinstance(identifier, str) and identifier.lower() in _BUILT_IN:
        return _BUILT_IN[identifier.lower()]
    if isinstance(identifier, Mapping):
        return PerLayer(identifier)
    if callable(identifier) and not isinstance(identifier, type):
        return identifier
    raise ValueError(
        "Unknown allocation. Expected a callable from layers and sparsity to "
        "one sparsity per layer, a dict from names of layers to sparsities, or "
        f"one of {sorted(_BUILT_IN)}. "
        f"Received: {describe_member(identifier)}"
    )
