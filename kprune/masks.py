"""Putting the parts of a mask together."""

import numpy as np

from kprune.weights import to_numpy


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


def mask_biases(layer) -> None:
    """Masks the biases of filters of which nothing is left."""
    masks = layer.masks
    for name in layer.kernels:
        bias = masks.get(name.removesuffix("kernel") + "bias")
        if bias is not None:
            kept = to_numpy(masks[name])
            kept = kept.reshape(-1, kept.shape[-1]).any(axis=0)
            if kept.shape == tuple(bias.shape):
                bias.assign(kept)
