"""What rules read and change of the arguments of an operation."""

import inspect

import keras
import numpy as np
from keras import ops

from kprune.structure.records import Tensor


def replaced(call, args: tuple, kwargs: dict, new: dict) -> tuple:
    """The arguments of a call with some of them replaced.

    Args:
        call: A `LayerCall`.
        args: Tuple of the positional arguments.
        kwargs: Dict of the keyword arguments.
        new: Dict from a parameter's name to its new argument.

    Returns:
        Tuple `(args, kwargs)`.
    """
    bound = inspect.signature(call.layer.call).bind(*args, **kwargs)
    bound.arguments.update(new)
    return bound.args, bound.kwargs


def operand(argument):
    """An argument as a `Tensor`, or as an array if it is a constant.

    Args:
        argument: `Tensor`, number, array or backend tensor. A variable is a
            `Tensor` of which nothing can be cut.

    Returns:
        `Tensor` or `numpy.ndarray`.
    """
    if isinstance(argument, Tensor):
        return argument
    if isinstance(argument, keras.Variable):
        return Tensor(tuple(argument.shape), {})
    if ops.is_tensor(argument):
        return ops.convert_to_numpy(argument)
    return np.asarray(argument)


def resize(walk, operation, key, slots, new=None) -> None:
    """As `walk.resize`, for an operation whose config may not be written.

    Keras keeps an operation's config only if it is made of Python's numbers
    and strings; `ops.reshape(x, (-1, np.int64(4)))` has none.
    """
    try:
        operation.get_config()
    except NotImplementedError:
        reason = f"'{operation.name}' has no config that can be changed"
        walk.table.freeze(slots, reason)
    else:
        walk.resize(operation, key, slots, new)


def normalized(axis, rank: int) -> tuple:
    """An axis, several or `None` for all, as a tuple of axes from the left."""
    if axis is None:
        return tuple(range(rank))
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    return tuple(each % rank for each in axes)
