"""Putting the parts of a mask together."""

from collections.abc import Mapping, Sequence

import numpy as np

from kprune.prunable import PrunableWeight


def slice_mask(variable, slices) -> np.ndarray | None:
    """The mask of a variable of which whole slices go, `None` if none do."""
    shape = tuple(variable.shape)
    mask = None
    for axis in range(len(shape)):
        keep = slices.get((id(variable), axis))
        if keep is not None and not keep.all():
            along = [-1 if a == axis else 1 for a in range(len(shape))]
            mask = both(mask, np.broadcast_to(keep.reshape(along), shape))
    return mask


def both(first, second) -> np.ndarray | None:
    """What two masks keep; `None` stands for a mask that keeps all."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def lowered(scores, staying) -> np.ndarray:
    """Gives the lowest score to weights that go already, so that they count.

    A kernel at 0.8 then has 0.8 zeros in all.
    """
    lowest = np.nextafter(scores.min(), scores.dtype.type(-np.inf))
    # Where `torch.set_flush_denormal` is on, smaller numbers equal 0; float16
    # has none as small.
    tiny = 2.0**-1022 if scores.dtype == np.float64 else 2.0**-126
    if scores.dtype != np.float16 and abs(lowest) < tiny:
        lowest = scores.dtype.type(-tiny)
    return np.where(staying, scores, lowest)


def check(mask, granularity, of, expected: tuple) -> None:
    """Raises unless a granularity returned a mask of the scores' shape.

    Args:
        mask: What it returned.
        granularity: The granularity.
        of: What is masked, a `PrunableWeight` or a text, for the message.
        expected: Tuple. The shape of the scores that it got.
    """
    if mask.dtype != bool or mask.shape != expected:
        raise ValueError(
            f"The granularity {granularity!r} must return a boolean mask of "
            f"the kernel's shape {expected} for {of}. "
            f"Received: {mask.dtype} of shape {mask.shape}"
        )
    if not mask.any():
        raise ValueError(
            f"The granularity {granularity!r} must keep at least one weight "
            f"of {of}. It kept none"
        )


def of_bias(
    bias, kernels: Sequence[PrunableWeight], kept: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The mask of a bias: it goes where no weight of its output is kept.

    Args:
        bias: `keras.Variable`.
        kernels: The weights whose outputs it is added to.
        kept: Mapping from the name of a weight to a boolean array of its
            shape; all of one that is not in it are kept.

    Returns:
        Boolean array of the shape of the bias.
    """
    left = np.zeros(tuple(bias.shape), bool)
    for weight in kernels:
        if weight.name not in kept:
            return ~np.zeros_like(left)
        left |= weight.outputs_left(kept[weight.name])
    return left


def is_of_slices(mask: np.ndarray) -> bool:
    """Whether a mask takes away whole slices along axes, or nothing."""
    slices = np.ones((), bool)
    for axis in range(mask.ndim):
        others = tuple(set(range(mask.ndim)) - {axis})
        slices = slices[..., None] & mask.any(axis=others)
    return np.array_equal(slices, mask)
