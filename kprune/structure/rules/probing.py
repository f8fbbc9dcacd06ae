"""Trying whether a function that is not Keras's acts on each element alone."""

import keras
import numpy as np
from keras import ops

# Of axes without channels so much is tried.
_LONGEST = 32


def problem(function, shape: tuple, axes) -> str | None:
    """Why a function does not act on each element alone, as far as is seen.

    It is called on random values. Of one that does, what an element becomes
    depends on nothing else: not on where the element is, on what the others
    are, on how many there are, or on how often the function was called. And
    a masked channel, which is 0, has a finite value and slope behind it.

    Args:
        function: Callable from a tensor to a tensor.
        shape: The shape that it is called with, the batch included.
        axes: The axes of the channels, which are tried in their full length.

    Returns:
        What there is to say of the function, `None` if it passes.
    """
    try:
        with keras.StatelessScope():
            return _problem(function, shape, axes)
    except Exception as error:
        # Whatever a user's own function does with a tensor of another size.
        (first, *_) = str(error).splitlines() or [""]
        return (
            f"cannot be tried ({type(error).__name__}: {first[:80]}): write it "
            "for tensors of any size, as those of `keras.activations` are"
        )


def _problem(function, shape, axes) -> str | None:
    generator = np.random.default_rng(0)
    sizes = [
        size if axis in axes else min(size or 3, _LONGEST)
        for axis, size in enumerate(shape)
    ]
    sizes[0] = 3
    x = generator.normal(scale=3, size=sizes)
    x.reshape(-1)[::5] = 0
    y = _call(function, x)
    if not _is_close(_call(function, x), y):
        return "differs from call to call"
    if y.shape != x.shape or not _acts_alone(function, x, y, axes, generator):
        return "can mix channels"
    if not np.isfinite(y).all():
        return "may not be finite where it is masked"
    if np.isnan(_call(guarded(function), np.zeros((1, 1)))).any():
        return "has no finite slope at 0, where masked channels are"
    return None


def _acts_alone(function, x, y, axes, generator) -> bool:
    """Whether a function from `x` to `y` looks at one element at a time."""
    order = generator.permutation(x.size)
    moved = x.reshape(-1)[order].reshape(x.shape)
    expected = y.reshape(-1)[order].reshape(x.shape)
    tried = [(moved, expected, ...)]
    for others in (0.0, 100 * generator.normal(size=x.shape) ** 3):
        stays = generator.random(x.shape) < 0.5
        tried.append((np.where(stays, x, others), y, stays))
    for axis in axes:
        count = x.shape[axis]
        index = generator.permutation(count)[: max(count // 2, 1)]
        tried.append((np.take(x, index, axis), np.take(y, index, axis), ...))
    tried.append((x.reshape(1, -1), y.reshape(1, -1), ...))
    for values, expected, where in tried:
        received = _call(function, values)
        if received.shape != values.shape:
            return False
        if not _is_close(received[where], expected[where]):
            return False
    return True


def guarded(function):
    """The function with nan, for unknown, where it jumps or is not finite.

    Close to a jump rounding decides on which side a constant is.

    Args:
        function: Callable from a tensor to a tensor.

    Returns:
        Callable.
    """

    def known(x):
        y = function(x)
        step = 1e-5 * ops.maximum(ops.abs(x), 1.0)
        is_known = ops.isfinite(y)
        for near in (x - step, x + step):
            change = ops.abs(function(near) - y)
            is_known = ops.logical_and(is_known, change <= 100 * step)
        return ops.where(is_known, y, float("nan"))

    return known


def _call(function, values) -> np.ndarray:
    values = values.astype(keras.config.floatx())
    made = function(ops.convert_to_tensor(values))
    return ops.convert_to_numpy(made).astype(np.float64)


def _is_close(one, other) -> bool:
    """Equal but for rounding, which may differ from place to place."""
    is_half = keras.config.floatx() in ("bfloat16", "float16")
    tolerance = 0.05 if is_half else 1e-5
    return np.allclose(
        one, other, rtol=tolerance, atol=tolerance, equal_nan=True
    )
