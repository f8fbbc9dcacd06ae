"""Putting the parts of a mask together."""

import numpy as np

from kprune.weights import filters_last


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


def check_mask(mask, granularity, layer, name) -> None:
    """Raises unless a granularity returned a mask of the kernel's shape."""
    expected = tuple(layer.kernels[name].shape)
    if mask.dtype != bool or mask.shape != expected:
        raise ValueError(
            f"The granularity {granularity!r} must return a boolean mask of "
            f"the kernel's shape {expected} for '{name}' of layer "
            f"'{layer.name}'. Received: {mask.dtype} of shape {mask.shape}"
        )
    if not mask.any():
        raise ValueError(
            f"The granularity {granularity!r} must keep at least one weight "
            f"of '{name}' of layer '{layer.name}'. It kept none"
        )


def of_biases(layer, found, kernels) -> dict:
    """The masks of biases of filters of which nothing is left.

    Args:
        layer: The prunable layer.
        found: Dict from the name of each weight of the layer to its mask.
        kernels: The names of those that are kernels.

    Returns:
        Dict from the name of each such bias to its mask.
    """
    changed = {}
    for name in kernels:
        bias = name.removesuffix("kernel") + "bias"
        if bias in found:
            mask = filters_last(layer.layer, found[name])
            kept = mask.reshape(-1, mask.shape[-1]).any(axis=0)
            if kept.shape == found[bias].shape:
                changed[bias] = kept
    return changed
