"""Criteria that see the gradients of the loss."""

import numpy as np


def taylor(kernel: np.ndarray, *, gradient: np.ndarray) -> np.ndarray:
    """Scores each weight by `abs(w * g)`, g being the loss's gradient.

    To first order this is how far the loss moves when the weight is set to 0.

    Args:
        kernel: Array. The kernel to score.
        gradient: Array of the shape of `kernel`: the mean over batches of the
            loss's gradient. It takes data with targets.

    Returns:
        Array of the shape of `kernel`; higher means keep.

    Example:

    >>> kprune.criteria.taylor(
    ...     np.array([-2.0, 0.5]), gradient=np.array([0.1, 3.0])
    ... )
    array([0.2, 1.5])

    Reference:

    - [Molchanov et al., 2019](https://arxiv.org/abs/1906.10771)
    """
    return np.abs(kernel * gradient)


def fisher(kernel: np.ndarray, *, squared_gradient: np.ndarray) -> np.ndarray:
    """Scores each weight by `w**2 * E[g**2] / 2`, the diagonal Fisher's loss.

    To second order this is what the loss gains when the weight is set to 0, at
    a minimum where weights do not interact: optimal brain damage, with the
    squared gradients for the curvature.

    Args:
        kernel: Array. The kernel to score.
        squared_gradient: Array of the shape of `kernel`: the mean over batches
            of the squared gradient of the loss. It takes data with targets.

    Returns:
        Array of the shape of `kernel`; higher means keep.

    Example:

    >>> kprune.criteria.fisher(
    ...     np.array([-2.0, 0.5]), squared_gradient=np.array([0.25, 8.0])
    ... )
    array([0.5, 1. ])

    References:

    - [Theis et al., 2018](https://arxiv.org/abs/1801.05787)
    - [LeCun et al., 1989](https://proceedings.neurips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract.html)
    """  # noqa: E501
    return np.square(kernel) * squared_gradient / 2


def snip(kernel: np.ndarray, *, gradient: np.ndarray) -> np.ndarray:
    """Scores each weight by `abs(w * g) / sum(abs(w * g))`.

    How much the loss depends on the connection, made for pruning before
    training. The sum is that of this kernel: it does not change the order
    within it, which is that of `taylor`, but how kernels compare where they
    share one threshold.

    Args:
        kernel: Array. The kernel to score.
        gradient: Array of the shape of `kernel`: the mean over batches of the
            loss's gradient. It takes data with targets.

    Returns:
        Array of the shape of `kernel`, all 0 where nothing has an effect;
        higher means keep.

    Example:

    >>> kprune.criteria.snip(
    ...     np.array([-2.0, 0.5]), gradient=np.array([0.5, 2.0])
    ... )
    array([0.5, 0.5])

    Reference:

    - [Lee et al., 2019](https://arxiv.org/abs/1810.02340)
    """
    effects = np.abs(kernel * gradient)
    total = effects.sum()
    return effects / total if total > 0 else effects


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
    >>> kprune.criteria.taylor_slices(kernel, 1, gradient=gradient)
    array([ 4., 36.])

    Reference:

    - [Molchanov et al., 2019](https://arxiv.org/abs/1906.10771)
    """
    others = tuple(set(range(kernel.ndim)) - {axis})
    changes = np.multiply(kernel, gradient, dtype=np.float64)
    return changes.sum(axis=others) ** 2


# Of a slice as a whole what has opposite signs cancels.
setattr(taylor, "of_slices", taylor_slices)  # noqa: B010
