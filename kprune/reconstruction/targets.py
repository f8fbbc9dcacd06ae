"""What the dense model computes where the pruned one is repaired."""

import keras
import numpy as np

from kprune import weights
from kprune.observing.samples import Batch
from kprune.reconstruction.moments import Statistics
from kprune.reconstruction.sites import KernelSite, Sample, Seen, Site

# The two parts of the samples: to fit to, and to see whether a fit is one.
FIT, CHECK = 0, 1
# Of so many samples one is to check.
_HELD_OUT = 8
# As many rows, each an input of a kernel, as are taken of all samples: more
# change nothing that is seen. Four for each input of a wide kernel.
_ROWS, _ROWS_PER_INPUT, _CHECKED_ROWS = 10_000, 4, 2_000
# The widest second moment that is made at once, in inputs.
BLOCK = 4096
# How many numbers of inputs a model is called with at once: on a network of
# images its activations take some hundred times as much.
_NUMBERS = 1 << 21


class Targets:
    """What the dense model computes at its sites, on some rows.

    Args:
        dense: The dense `keras.Model`; masks are lifted.
        teacher: `Seen` of it.
        sites: List of its `Site`s that are of interest.
        batches: List of `Batch`.
    """

    def __init__(
        self,
        dense: keras.Model,
        teacher: Seen,
        sites: list[Site],
        batches: list[Batch],
    ):
        every = np.arange(sum(map(len, batches)))
        checked = every % _HELD_OUT == _HELD_OUT - 1
        parts = every[~checked], every[checked]
        if len(every) < 2 * _HELD_OUT:
            parts = every, every
        self._parts = [_take(batches, part) for part in parts]
        # Float32: there are many of them.
        self._outputs: dict[tuple, np.ndarray] = {}
        self._statistics: dict[int, Statistics] = {}
        # One call of the model serves all sites of as many rows.
        alike: dict[int, list[Site]] = {}
        for site in sites:
            alike.setdefault(_rows(site), []).append(site)
        for of_rows in alike.values():
            for part in (FIT, CHECK):

                def tell(site, place, read, part=part):
                    if isinstance(site, KernelSite):
                        found = _outputs_of(site, read())
                        self._outputs[id(site), part, place] = found
                    elif part == FIT:
                        self._statistics.setdefault(
                            id(site), Statistics(site.owner)
                        ).add(read())

                sample = self.sample(of_rows[0], part)
                sample.run(dense, teacher, of_rows, tell, lifted=True)

    def sample(self, site: Site, part: int) -> Sample:
        """The rows that a site is fitted to, or checked with."""
        rows = _rows(site) if part == FIT else _CHECKED_ROWS
        return Sample(self._parts[part], rows)

    def outputs(self, site: KernelSite, part: int, place: tuple) -> np.ndarray:
        """What a kernel with its bias computes.

        Args:
            site: A site of the dense model.
            part: `FIT` or `CHECK`.
            place: As `Sample.run` tells it.

        Returns:
            Float64 array of shape `(matrices, rows, outputs)`.
        """
        return self._outputs[id(site), part, place].astype(np.float64)

    def rows(self, site: Site) -> int:
        """How many rows of inputs a kernel is fitted to."""
        return sum(
            outputs.shape[1]
            for (of, part, _), outputs in self._outputs.items()
            if of == id(site) and part == FIT
        )

    def statistics(self, site: Site) -> Statistics:
        """Those of what a BatchNormalization of the dense model reads."""
        return self._statistics[id(site)]


def _outputs_of(site: KernelSite, rows: np.ndarray) -> np.ndarray:
    outputs = rows @ site.map.matrices(site.weight.value())
    if site.bias is not None:
        outputs += site.outputs_of(weights.to_numpy(site.bias))
    return outputs.astype(np.float32)


def _rows(site: Site) -> int:
    if not isinstance(site, KernelSite):
        return _ROWS
    return max(_ROWS, _ROWS_PER_INPUT * min(site.map.shape[1], BLOCK))


def _take(batches: list[Batch], indices: np.ndarray) -> list[Batch]:
    """Some of the samples of all batches, in batches as large as memory has.

    Args:
        batches: List of `Batch`; their targets are left out.
        indices: Integer array: which of all samples.

    Returns:
        List of `Batch`.
    """
    found: list[list] = []
    start = numbers = 0
    for batch in batches:
        of_batch = indices[(indices >= start) & (indices < start + len(batch))]
        rows = of_batch - start
        start += len(batch)
        whole = keras.tree.flatten(batch.x)
        of_sample = sum(leaf[:1].size for leaf in whole)
        step = max(_NUMBERS // max(of_sample, 1), 1)
        for first in range(0, len(rows), step):
            leaves = [leaf[rows[first : first + step]] for leaf in whole]
            numbers += sum(leaf.size for leaf in leaves)
            is_alike = found and all(
                leaf.shape[1:] == other.shape[1:]
                for leaf, other in zip(leaves, found[-1][-1])
            )
            if not is_alike or numbers > _NUMBERS:
                found.append([])
                numbers = sum(leaf.size for leaf in leaves)
            found[-1].append(leaves)
    return [
        Batch(
            keras.tree.pack_sequence_as(
                batches[0].x, [np.concatenate(parts) for parts in zip(*group)]
            )
        )
        for group in found
    ]
