"""What a convolution reads for each of its outputs."""

import dataclasses
import math
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
        x = self._channels_last(x)
        padding = [
            self._pad(length, axis) for axis, length in enumerate(x.shape[1:-1])
        ]
        x = np.pad(x, [(0, 0), *padding, (0, 0)])
        return _slide(x, self.size, self.strides, self.dilation, chosen)

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

    def of(self, x: np.ndarray, chosen) -> np.ndarray:
        x = self._channels_last(x)
        space = x.shape[1:-1]
        spread = [(n - 1) * s + 1 for n, s in zip(space, self.strides)]
        zeros = np.zeros((len(x), *spread, x.shape[-1]), x.dtype)
        zeros[(slice(None), *(slice(None, None, s) for s in self.strides))] = x
        zeros = np.pad(
            zeros, [(0, 0), *map(self._pad_between, range(len(space))), (0, 0)]
        )
        ones = (1,) * len(space)
        found = _slide(zeros, self.size, ones, self.dilation, chosen)
        return found[:, ::-1]

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


def _slide(x, size, strides, dilation, chosen) -> np.ndarray:
    reaches = [(n - 1) * d + 1 for n, d in zip(size, dilation)]
    axes = tuple(range(1, x.ndim - 1))
    views: Any = np.lib.stride_tricks.sliding_window_view(x, reaches, axes)
    # Of shape (samples, *outputs, channels, *window).
    views = views[(slice(None), *(slice(None, None, s) for s in strides))]
    steps = tuple(slice(None, None, d) for d in dilation)
    # The channels last, before anything is copied: it is copied once.
    views = np.moveaxis(views[(Ellipsis, *steps)], x.ndim - 1, -1)
    outputs = views.shape[: x.ndim - 1]
    count = math.prod(outputs)
    rows = chosen(count)
    if len(rows) < count:
        views = views[np.unravel_index(rows, outputs)]
    return views.reshape(len(rows), -1, x.shape[-1])
