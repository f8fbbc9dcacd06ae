"""How channels go through functions of several tensors, element by element."""

import functools

import numpy as np

from kprune.structure.records import Axes, Tensor
from kprune.structure.rules.arguments import operand, replaced
from kprune.structure.slots import Channels, unknown


def strict(function):
    """Makes of a function of constants one that is unknown where any is.

    Args:
        function: Callable that takes arrays of constants.

    Returns:
        Callable that takes a list of arrays of constants.
    """

    @functools.wraps(function)
    def combine(parts):
        with np.errstate(all="ignore"):
            constants = function(*parts).astype(np.float64)
        known = np.isfinite(constants) & ~np.isnan(parts).any(axis=0)
        return np.where(known, constants, np.nan)

    return combine


def product(parts: list) -> np.ndarray:
    """A channel of zeros makes zeros of whatever it is multiplied with."""
    zero = (np.asarray(parts) == 0).any(axis=0)
    return np.where(zero, 0.0, strict(lambda *p: np.prod(p, axis=0))(parts))


def equal(parts: list) -> np.ndarray:
    """The constant that all parts have in common."""
    same = (np.asarray(parts) == parts[0]).all(axis=0)
    return np.where(same, parts[0], np.nan)


def varying(parts: list) -> np.ndarray:
    """Nothing is known of the function's value."""
    return unknown(len(parts[0]))


def merge(walk, call, operands: dict, combine) -> dict:
    """The axes behind a function that broadcasts as NumPy does.

    Equal positions are tied. An array of constants is cut along with the
    channels.

    Args:
        walk: The walk.
        call: The `LayerCall`.
        operands: Dict from the name of a parameter to a `Tensor` or an array.
        combine: Callable from a list of constants, one array per operand, to
            the constants of the result.

    Returns:
        The axes behind it.
    """
    rank = len(call.output_shapes[0])
    axes: Axes = {}
    cuts: list[tuple[str, int, np.ndarray]] = []
    for axis in range(rank):
        channels = merge_axis(walk, call, operands, axis, combine, cuts)
        if channels is not None:
            axes[axis] = channels
    if cuts:
        slots = np.concatenate([slots for _, _, slots in cuts])
        change = functools.partial(_cut_arrays, call, operands, cuts)
        walk.edit(call, slots, change)
    return axes


def merge_axis(walk, call, operands, axis, combine, cuts):
    """The channels of one axis of the result, `None` if it has none.

    Args:
        walk: The walk.
        call: The `LayerCall`.
        operands: As `merge` takes it.
        axis: The axis of the result.
        combine: As `merge` takes it.
        cuts: List that gets `(name, axis, slots)` for each array that is as
            long as the result along the axis.

    Returns:
        `Channels` or `None`.
    """
    shape = call.output_shapes[0]
    length = shape[axis]
    labelled: list[Channels] = []
    constants: list[Channels | tuple | None] = []
    full: list[tuple[str, int]] = []
    stays = False
    for name, each in operands.items():
        own = axis - len(shape) + len(each.shape)
        spreads = own < 0 or (each.shape[own] == 1 and length != 1)
        channels = None
        if not isinstance(each, Tensor):
            constants.append((each, own, spreads))
            if not spreads and length != 1:
                full.append((name, own))
            continue
        channels = each.axes.get(own)
        if channels is None:
            stays |= not spreads
        elif spreads:
            reason = f"'{call.layer.name}' broadcasts it over an axis"
            walk.table.freeze(channels.slots, reason)
            channels = None
        else:
            labelled.append(channels)
        constants.append(channels)
    if not labelled:
        return None
    reason = f"'{call.layer.name}' merges it with a tensor that cannot be cut"
    slots = tied(walk, labelled, reason if stays else "")
    cuts.extend((name, own, slots) for name, own in full)
    parts = [_constants(part, len(slots)) for part in constants]
    return Channels(slots, combine(parts))


def tied(walk, channels: list[Channels], reason: str) -> np.ndarray:
    """The slots of channels that go together.

    Args:
        walk: The walk.
        channels: List of `Channels` of one length, at least one.
        reason: String. Why they stay, empty where they can go.

    Returns:
        Integer array.
    """
    slots = channels[0].slots
    for other in channels[1:]:
        walk.tie(slots, other.slots)
    if reason:
        walk.table.freeze(slots, reason)
    return slots


def _constants(part, length: int) -> np.ndarray:
    """The constants of one operand along an axis."""
    if part is None:
        return unknown(length)
    if isinstance(part, Channels):
        return part.constants
    array, own, spreads = part
    rows = array.reshape(1, -1)
    if not spreads:
        rows = np.moveaxis(array, own, 0).reshape(array.shape[own], -1)
    same = (rows == rows[:, :1]).all(axis=1)
    values = np.where(same, rows[:, 0].astype(np.float64), np.nan)
    return np.broadcast_to(values, (length,))


def _cut_arrays(call, operands, cuts, args, kwargs, keep) -> tuple:
    """The arguments with the arrays cut that lie along what is cut."""
    new: dict[str, np.ndarray] = {}
    for name, axis, slots in cuts:
        along, keep = keep[: len(slots)], keep[len(slots) :]
        array = new.get(name, operands[name])
        new[name] = np.compress(along, array, axis=axis)
    return replaced(call, args, kwargs, new)


def operands_of(arguments: dict) -> dict:
    """The operands of an operation: all of its arguments but `None`."""
    return {
        name: operand(argument)
        for name, argument in arguments.items()
        if argument is not None
    }
