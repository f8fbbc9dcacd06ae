"""What a convolution reads for each of its outputs."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of an input that a convolution slides over.

    Args:
        size: Tuple of integers: the kernel's, one an axis of space.
        strides: Tuple of integers.
        dilation: Tuple of integers.
        padding: `"valid"`, `"same"` or `"causal"`.
        channels_first: Boolean. Whether the channels come before space.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    channels_first: bool

    def of(self, x: np.ndarray, chosen) -> np.ndarray:
        """The windows, one for each output of each sample.

        Args:
            x: Array of shape `(samples, *space, channels)`, or with the
                channels first.
            chosen: Callable from a number of rows to the indices of those
                that are wanted.

        Returns:
            Array of shape `(rows, positions, channels)`.
        """
        views = self._views(x)
        outputs = views.shape[: -len(self.size) - 1]
        count = math.prod(outputs)
        rows = chosen(count)
        if len(rows) < count:
            views = views[np.unravel_index(rows, outputs)]
        return views.reshape(len(rows), -1, views.shape[-1])

    def sums(self, x: np.ndarray, of: Callable) -> tuple[np.ndarray, int]:
        """The sums over all windows of a function of what is in them.

        Args:
            x: As `of` takes it.
            of: Callable from an array to one of its shape.

        Returns:
            Tuple of an array of shape `(positions, channels)`, and how many
            windows there are.
        """
        views = self._views(x, of)
        rank = views.ndim - len(self.size) - 1
        outputs, window = views.shape[:rank], views.shape[rank:]
        totals = np.zeros(window)
        # No window is copied, and what they share is computed once.
        for position in np.ndindex(*window[:-1]):
            part = views[(*(slice(None),) * rank, *position)]
            totals[position] = part.sum(axis=tuple(range(rank)), dtype=float)
        return totals.reshape(-1, window[-1]), math.prod(outputs)

    def _views(self, x, of=np.asarray) -> np.ndarray:
        """The windows as `(samples, *outputs, *window, channels)`."""
        x = self._channels_last(x)
        padding = [
            self._pad(length, axis) for axis, length in enumerate(x.shape[1:-1])
        ]
        x = of(np.pad(x, [(0, 0), *padding, (0, 0)]))
        return _slide(x, self.size, self.strides, self.dilation)

    def _channels_last(self, x):
        return np.moveaxis(x, 1, -1) if self.channels_first else x

    def _pad(self, length: int, axis: int) -> tuple[int, int]:
        stride, reach = self.strides[axis], self._reach(axis)
        if self.padding == "causal":
            return reach, 0
        if self.padding == "valid":
            return 0, 0
        outputs = -(-length // stride)
        total = max((outputs - 1) * stride + reach + 1 - length, 0)
        return total // 2, total - total // 2

    def _reach(self, axis: int) -> int:
        return (self.size[axis] - 1) * self.dilation[axis]


@dataclasses.dataclass(frozen=True)
class TransposedWindows(Windows):
    """What a transposed convolution reads for each output.

    Its outputs are those of a convolution with stride 1 over the input with
    zeros between its values, with the kernel turned round.

    Args:
        output_padding: Tuple of integers, or `None`.
    """

    output_padding: tuple[int, ...] | None = None

    def _views(self, x, of=np.asarray) -> np.ndarray:
        x = self._channels_last(x)
        space = x.shape[1:-1]
        spread = [(n - 1) * s + 1 for n, s in zip(space, self.strides)]
        zeros = np.zeros((len(x), *spread, x.shape[-1]), x.dtype)
        zeros[(slice(None), *(slice(None, None, s) for s in self.strides))] = x
        zeros = np.pad(
            zeros, [(0, 0), *map(self._pad_between, range(len(space))), (0, 0)]
        )
        ones = (1,) * len(space)
        views = _slide(of(zeros), self.size, ones, self.dilation)
        # The kernel is turned round.
        return np.flip(views, tuple(range(-len(space) - 1, -1)))

    def _pad_between(self, axis: int) -> tuple[int, int]:
        """How Keras pads what has zeros between its values."""
        stride, size = self.strides[axis], self._reach(axis) + 1
        extra = None
        if self.output_padding is not None:
            extra = self.output_padding[axis]
        if self.padding == "valid":
            if extra is None:
                extra = max(stride - size, 0)
            return size - 1, size - 1 + extra
        total = stride + size - 2
        if extra is not None:
            total = size + size % 2 - 2 + extra
        left = min(-(-total // 2), size - 1)
        return left, total - left


def _slide(x, size, strides, dilation) -> np.ndarray:
    reaches = [(n - 1) * d + 1 for n, d in zip(size, dilation)]
    axes = tuple(range(1, x.ndim - 1))
    views: Any = np.lib.stride_tricks.sliding_window_view(x, reaches, axes)
    # Of shape (samples, *outputs, channels, *window).
    views = views[(slice(None), *(slice(None, None, s) for s in strides))]
    steps = tuple(slice(None, None, d) for d in dilation)
    # The channels last, before anything is copied: it is copied once.
    return np.moveaxis(views[(Ellipsis, *steps)], x.ndim - 1, -1)
