"""The kernels that read groups of channels, as matrices."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from kprune.observing.linear import LinearMap
from kprune.prunable import PrunableWeight
from kprune.structure.graph import ChannelGraph


@dataclasses.dataclass(frozen=True)
class Reader:
    """A kernel that reads groups.

    Args:
        kernel: Float array of shape `(inputs, outputs)`.
        gram: Float array of shape `(inputs, inputs)`: the covariance of its
            inputs.
        groups: Integer array of shape `(inputs,)`: the group of each input.
    """

    kernel: np.ndarray
    gram: np.ndarray
    groups: np.ndarray


def readers(
    graph: ChannelGraph,
    kernels: Iterable[PrunableWeight],
    map_of: Callable[[PrunableWeight], LinearMap],
    gram_of: Callable[[PrunableWeight], np.ndarray],
) -> list[Reader]:
    """The kernels that read groups and are one matrix.

    Args:
        graph: The `ChannelGraph`.
        kernels: Iterable of `PrunableWeight`.
        map_of: Callable from a kernel to its `LinearMap`.
        gram_of: Callable from a kernel to the covariance of its inputs.

    Returns:
        List of `Reader`.
    """
    weights = {id(weight.variable): weight for weight in kernels}
    found = []
    for binding in graph.bindings:
        weight = weights.get(id(binding.variable))
        if weight is None or binding.role != "in":
            continue
        of_kernel = map_of(weight)
        if of_kernel.shape[0] != 1:
            continue  # Grouped: no channel is read by all of its outputs.
        along = [1] * len(weight.shape)
        along[binding.axis] = -1
        of_slice = graph.groups.of_slot[binding.slots].reshape(along)
        of_weight = np.broadcast_to(of_slice, weight.shape)
        found.append(
            Reader(
                of_kernel.matrices(weight.masked())[0].astype(np.float64),
                gram_of(weight)[0],
                of_kernel.matrices(of_weight)[0, :, 0],
            )
        )
    return found
