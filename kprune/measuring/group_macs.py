"""What the removal of groups of channels saves."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kprune.structure.graph import ChannelGraph
from kprune.structure.groups import GroupClass


class GroupMacs(Sequence[float]):
    """What one filter of each class of groups costs, counted when it is read.

    The multiply-accumulates of all slices that go with it, as long as nothing
    else goes, a mean over the filters of the class; at least 1.

    Args:
        of_kernels: Callable without arguments that returns what
            `kprune.measuring.macs.kernel_macs` does.
        graph: The `ChannelGraph`.
        classes: Sequence of `GroupClass`.
    """

    def __init__(
        self,
        of_kernels: Callable[[], Mapping[int, float | None]],
        graph: ChannelGraph,
        classes: Sequence[GroupClass],
    ):
        self._of_kernels = of_kernels
        self._graph = graph
        self._classes = classes

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, index):
        of_class = self._classes[index]
        saved = self._of_groups[of_class.members].sum()
        return max(float(saved / of_class.channels.sum()), 1.0)

    @functools.cached_property
    def _of_groups(self) -> np.ndarray:
        counts, count = self._of_kernels(), len(self._graph.groups)
        saved = np.zeros(count)
        for binding in self._graph.bindings:
            of_kernel = counts.get(id(binding.variable), 0.0)
            if of_kernel is None:
                raise ValueError(
                    "What a filter costs is not known, since the "
                    "multiply-accumulates of layer "
                    f"'{binding.layer.name}' are not: is the size of its "
                    "input open? Give the model an input of one size, or do "
                    "not ask for scores per multiply-accumulate."
                )
            of_slot = self._graph.groups.of_slot[binding.slots]
            times = np.bincount(of_slot, minlength=count)
            saved += times * (of_kernel / len(binding.slots))
        return saved
