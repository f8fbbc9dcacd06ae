"""How layers use their kernels: as matrices, and the rows these multiply.

Each kernel that is known here computes `rows @ matrix`, whatever the kind of
its layer: the rows of a convolution are its windows, one for each position.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator

import keras
import numpy as np

from kprune.observing.watching import to_numpy

# How many numbers of rows are in memory at once, 64 MB.
_NUMBERS = 1 << 24

# From a number of rows to the indices of those that are wanted.
Chosen = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap:
    """A kernel as matrices, side by side where their inputs are not the same.

    Those of a grouped convolution are as many as its groups, those of a
    depthwise one as many as its channels; most kernels are one matrix.

    Args:
        variable: The `keras.Variable`.
        split: Tuple of integers: the kernel's shape with every axis split
            that has to be.
        order: Tuple of integers: how the axes of `split` are turned to make
            `(matrices, inputs, outputs)`.
        shape: Tuple of three integers: matrices, inputs, outputs.
        read: Callable `(arguments, chosen) -> rows`, of the arguments that
            the layer was called with, as a dict, and a callable from a number
            of rows to the indices of those that are wanted. The rows are an
            array of shape `(matrices, rows, inputs)`.
        total: Callable `(arguments, of) -> (sums, rows)` that returns what
            `sums` does, faster than by the rows; `None` where nothing is.
    """

    variable: keras.Variable
    split: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int]
    read: Callable
    total: Callable | None = None

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        """An array of the kernel's shape as `(matrices, inputs, outputs)`."""
        turned = kernel.reshape(self.split).transpose(self.order)
        return turned.reshape(self.shape)

    def kernel(self, matrices: np.ndarray) -> np.ndarray:
        """The inverse of `matrices`."""
        turned = [self.split[axis] for axis in self.order]
        back = matrices.reshape(turned).transpose(np.argsort(self.order))
        return back.reshape(tuple(self.variable.shape))

    def sums(
        self, arguments: dict, of: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, int]:
        """Of a call, the sums of a function of the inputs, and how many rows.

        Args:
            arguments: Dict: what the layer is called with.
            of: Callable from an array to one of its shape.

        Returns:
            Tuple of a float array of shape `(matrices, inputs)` and an
            integer.
        """
        if self.total is not None:
            return self.total(arguments, of)
        rows = self.read(arguments, every)
        return of(rows).sum(axis=1, dtype=np.float64), rows.shape[1]

    def moments(self, arguments: dict) -> tuple[np.ndarray, int]:
        """Of a call, the sum of products of the inputs, and how many rows.

        Args:
            arguments: Dict: what the layer is called with.

        Returns:
            Tuple of a float array of shape `(matrices, inputs, inputs)` and an
            integer.
        """
        matrices, inputs, _ = self.shape
        sums, count = np.zeros((matrices, inputs, inputs)), 0
        for piece in self._pieces(arguments):
            rows = self.read(piece, every)
            # As precise as the inputs here; summed in float64.
            sums += rows.swapaxes(1, 2) @ rows
            count += rows.shape[1]
        return sums, count

    def _pieces(self, arguments: dict) -> Iterator[dict]:
        """The arguments for some samples at a time, where these are apart.

        The windows of a convolution take several times the memory of what
        they are of.
        """
        if self.total is None:
            yield arguments
            return
        x = inputs_of(arguments)
        matrices, inputs, _ = self.shape
        # Of a depthwise kernel each matrix reads one of the channels.
        numbers = x[:1].size * max(inputs * matrices // x.shape[-1], 1)
        step = max(_NUMBERS // numbers, 1)
        for start in range(0, len(x), step):
            yield {**arguments, "inputs": x[start : start + step]}


class IndexMap(LinearMap):
    """An Embedding: each index reads one row."""

    def sums(
        self, arguments: dict, of: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, int]:
        indices = inputs_of(arguments).ravel().astype(np.int64)
        counts = np.bincount(indices, minlength=self.shape[1])
        read, unread = of(np.ones(1)), of(np.zeros(1))
        totals = counts * read + (indices.size - counts) * unread
        return totals[None].astype(np.float64), indices.size

    def moments(self, arguments: dict) -> tuple[np.ndarray, int]:
        counts, rows = self.sums(arguments, np.abs)
        return np.diag(counts[0])[None], rows


def every(count: int) -> np.ndarray:
    """All rows are wanted."""
    return np.arange(count)


def arguments_of(owner: keras.layers.Layer, args, kwargs) -> dict:
    """What a layer was called with, by the names of its parameters."""
    call = inspect.signature(type(owner).call)
    bound = call.bind(owner, *args, **kwargs).arguments
    bound.update(bound.pop("kwargs", {}))
    return bound


def inputs_of(arguments: dict) -> np.ndarray:
    """The tensor that most layers are called with, as an array."""
    return to_numpy(arguments["inputs"])
