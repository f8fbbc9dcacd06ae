"""Criteria that score slices of kernels as a whole, for groups of filters.

They declare `of_slices(kernel, axis)`, as a criterion of a user's own can; see
`kprune.observing.requests`.
"""

import dataclasses
from typing import ClassVar, NoReturn

import numpy as np


@dataclasses.dataclass(frozen=True)
class FPGM:
    """Filters near the geometric median of their layer go: others are alike.

    The score of a filter is the sum of its Euclidean distances to all other
    filters of its kernel. Kernels that only read channels have no say. The
    mean counts where several layers make the channels of a group.

    It scores whole filters, so it serves where whole groups go:
    `granularity="filter"`, in a model whose graph can be read.

    Example:

    >>> kernel = np.array([[0., 1., 5.]])  # three filters of one weight
    >>> kprune.criteria_of_groups.FPGM().of_slices(kernel, 1, role="out")
    array([6., 5., 9.])

    Reference:

    - [He et al., 2019](https://arxiv.org/abs/1811.00250)
    """

    def __call__(self, kernel: np.ndarray) -> np.ndarray:
        _refuse_weights(self)

    def of_slices(
        self, kernel: np.ndarray, axis: int, *, role: str
    ) -> np.ndarray | None:
        """Scores the slices of a kernel along an axis.

        Args:
            kernel: Array.
            axis: Integer.
            role: String: `"out"` where the slices are filters.

        Returns:
            Float array, one score a slice, `None` where they are no filters.
        """
        if role != "out":
            return None
        filters = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
        filters = filters.astype(np.float64)
        # The distances stay the same, with less to cancel.
        filters -= filters.mean(axis=0)
        norms = np.einsum("fw,fw->f", filters, filters)
        squares = norms[:, None] + norms - 2 * filters @ filters.T
        np.fill_diagonal(squares, 0.0)
        return np.sqrt(np.maximum(squares, 0.0)).sum(axis=1)


@dataclasses.dataclass(frozen=True)
class BNScale:
    """Channels that a BatchNormalization scales down go: network slimming.

    The score of a channel is the absolute value of its `gamma`, in a
    BatchNormalization or another normalization of single channels; the mean
    where several follow. The paper ranks over all layers by one threshold:
    `allocation=kprune.allocations.Global(normalize=None)`. It also trains with
    a penalty on gammas, `gamma_regularizer=keras.regularizers.L1(1e-4)` of a
    BatchNormalization.

    It scores whole filters, so it serves where whole groups go:
    `granularity="filter"`, in a model whose graph can be read. Layers without
    a normalization behind them have to be left out.

    Example:

    >>> gamma = np.array([0.5, -2.0, 0.0])
    >>> kprune.criteria_of_groups.BNScale().of_slices(gamma, 0)
    array([0.5, 2. , 0. ])

    Reference:

    - [Liu et al., 2017](https://arxiv.org/abs/1708.06519)
    """

    slices_of: ClassVar[tuple[str, ...]] = ("gamma",)

    def __call__(self, kernel: np.ndarray) -> np.ndarray:
        _refuse_weights(self)

    def of_slices(self, gamma: np.ndarray, axis: int) -> np.ndarray:
        """Scores channels.

        Args:
            gamma: Array: the scale of each channel.
            axis: Integer: 0.

        Returns:
            Array of the shape of `gamma`.
        """
        return np.abs(gamma)


def taylor_slices(
    kernel: np.ndarray, axis: int, *, gradient: np.ndarray
) -> np.ndarray:
    """Scores slices by what the loss would change if they were 0.

    The square of the sum of weight times gradient over each slice: to first
    order the squared change of the loss. Within a slice what has opposite signs
    cancels, as it does in the loss.

    Args:
        kernel: Array.
        axis: Integer.
        gradient: Array of the shape of the kernel: the loss's gradient.

    Returns:
        Float array, one score for each index along the axis.

    Example:

    >>> kernel = np.array([[1., 2.], [3., 4.]])
    >>> gradient = np.array([[1., 1.], [-1., 1.]])
    >>> kprune.criteria_of_groups.taylor_slices(kernel, 1, gradient=gradient)
    array([ 4., 36.])

    Reference:

    - [Molchanov et al., 2019](https://arxiv.org/abs/1906.10771)
    """
    others = tuple(set(range(kernel.ndim)) - {axis})
    changes = np.multiply(kernel, gradient, dtype=np.float64)
    return changes.sum(axis=others) ** 2


def _refuse_weights(criterion) -> NoReturn:
    raise ValueError(
        f"{criterion!r} scores whole filters, no single weights. Use it with "
        "`granularity='filter'` on a Sequential or Functional model, or a "
        "subclassed one whose call can be traced."
    )
