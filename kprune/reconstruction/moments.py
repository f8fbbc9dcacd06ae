"""What is summed over rows and samples: moments, means and variances."""

from typing import Any

import keras
import numpy as np


class Moments:
    """Second moments of inputs, and of inputs with what is still missing.

    Args:
        shape: Tuple of three integers: matrices, inputs, outputs.
        block: Slice of the inputs.
    """

    def __init__(self, shape, block):
        matrices, inputs, outputs = shape
        size = len(range(inputs)[block])
        self._block = block
        self.count = 0
        self._x = np.zeros((matrices, 1, size))
        self._y = np.zeros((matrices, 1, outputs))
        self._xx = np.zeros((matrices, size, size))
        self._xy = np.zeros((matrices, size, outputs))

    def add(self, rows: np.ndarray, residual: np.ndarray) -> None:
        rows = rows[..., self._block]
        self.count += rows.shape[1]
        self._x += rows.sum(axis=1, keepdims=True)
        self._y += residual.sum(axis=1, keepdims=True)
        turned = rows.swapaxes(1, 2)
        self._xx += turned @ rows
        self._xy += turned @ residual

    def left_by(self, change: np.ndarray) -> np.ndarray:
        """The mean of what is still missing once the weights have changed."""
        return (self._y - self._x @ change) / self.count

    def of(self, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """The moments, about the means where a bias takes these up."""
        gram, cross = self._xx / self.count, self._xy / self.count
        if centred:
            mean = self._x.swapaxes(1, 2) / self.count
            gram = gram - mean @ mean.swapaxes(1, 2)
            cross = cross - mean @ (self._y / self.count)
        return gram, cross


class Statistics:
    """Mean and variance of each channel that a BatchNormalization reads."""

    def __init__(self, owner: keras.layers.BatchNormalization):
        self._axis = owner.axis
        self._count = 0
        self._sums: Any = 0.0
        self._squares: Any = 0.0

    def add(self, x: np.ndarray) -> None:
        x = np.moveaxis(x, self._axis, -1)
        x = x.reshape(-1, x.shape[-1])
        self._count += len(x)
        self._sums = self._sums + x.sum(axis=0)
        self._squares = self._squares + np.square(x).sum(axis=0)

    @property
    def mean(self) -> np.ndarray:
        return self._sums / self._count

    @property
    def variance(self) -> np.ndarray:
        found = self._squares / self._count - np.square(self.mean)
        return np.maximum(found, 0.0)

    def shift(self, change: np.ndarray) -> float:
        """The squared size of a change of the means, over the variance."""
        total = float(self.variance.sum())
        return float(np.square(change).sum() / total) if total else 0.0
