"""What is left of a model when groups of its channels go."""

import math

import keras
import numpy as np

from kprune import keras_internals, weights
from kprune.measuring import call_macs
from kprune.measuring.costs import parameters
from kprune.measuring.macs import layer_macs, total
from kprune.prunable import unwrapped
from kprune.structure.graph import ChannelGraph


class GroupCounts:
    """Counts parameters and multiply-accumulates without building a model.

    Args:
        model: A built Sequential or Functional model, with prunable layers.
        graph: Its `ChannelGraph`.

    Attributes:
        are_exact: Boolean. Whether all multiply-accumulates are those of
            kernels, so that they are counted as `kprune.cost` would of the
            smaller model. Products without a kernel, as in attention, count
            as they are in the dense model.
    """

    def __init__(self, model: keras.Model, graph: ChannelGraph):
        self._groups = _axes_by_variable(graph)
        self._parameters = parameters(model)
        counts = layer_macs(model)
        self._macs = total(counts)
        self._sizes = {
            id(variable): math.prod(variable.shape)
            for variable in (binding.variable for binding in graph.bindings)
        }
        # Of each variable the multiply-accumulates of one number in it.
        self._each: dict[int, float] = {}
        self.are_exact = True
        for layer in map(unwrapped, keras_internals.sublayers(model)):
            count = counts.pop(id(layer), 0)
            if not count:
                continue
            kernels = weights.kernels(layer).values()
            numbers = sum(math.prod(kernel.shape) for kernel in kernels)
            for kernel in kernels:
                self._each[id(kernel)] = count / numbers
            self.are_exact &= not call_macs.is_composite(layer)
        # What is left are operations.
        self.are_exact &= not any(counts.values())

    @property
    def dense(self) -> dict[str, int | None]:
        """What there is when nothing goes, as `of` returns it."""
        return {"parameters": self._parameters, "macs": self._macs}

    def of(self, keep: np.ndarray) -> dict[str, int | None]:
        """Counts what is left.

        Args:
            keep: Boolean array, one value per group: which stay.

        Returns:
            Dict of `"parameters"` and `"macs"`, `None` where these are not
            known.
        """
        gone, saved = 0, 0.0
        for key, axes in self._groups.items():
            size = left = self._sizes[key]
            for groups in axes:
                # Exact: what is left of an axis divides what is left before.
                left = left // len(groups) * np.count_nonzero(keep[groups])
            gone += size - left
            saved += (size - left) * self._each.get(key, 0.0)
        macs = None if self._macs is None else round(self._macs - saved)
        return {"parameters": int(self._parameters - gone), "macs": macs}


def _axes_by_variable(graph) -> dict[int, list[np.ndarray]]:
    """Of each variable the groups along each axis that can get shorter."""
    found: dict[int, list[np.ndarray]] = {}
    for binding in graph.bindings:
        if id(binding.layer) not in graph.padded:
            groups = graph.groups.of_slot[binding.slots]
            found.setdefault(id(binding.variable), []).append(groups)
    return found
