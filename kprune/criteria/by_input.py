"""Criteria that see what the kernel reads; those of second order among them.

One that asks for `gram` is called with the kernel as matrices, (matrices,
inputs, outputs): one for each group of a grouped convolution, else one.
"""

import numpy as np

from kprune import ranking
from kprune.criteria.by_weight import magnitude
from kprune.reconstruction import alps as admm
from kprune.reconstruction import brain_surgeon


def wanda(kernel: np.ndarray, *, input_norm: np.ndarray) -> np.ndarray:
    """Scores each weight by `abs(w) * norm`, norm being that of its input.

    What a weight adds to its output counts, not how large it is. The paper
    compares the weights of each output with each other only.

    Args:
        kernel: Array. The kernel to score.
        input_norm: Array that broadcasts to the shape of `kernel`: the root
            mean square of what each weight multiplies. It takes data, without
            targets.

    Returns:
        Array of the shape of `kernel`; higher means keep.

    Example:

    >>> kprune.criteria.wanda(
    ...     np.array([[-2.0], [0.5]]), input_norm=np.array([[0.1], [3.0]])
    ... )
    array([[0.2],
           [1.5]])

    Reference:

    - [Sun et al., 2023](https://arxiv.org/abs/2306.11695)
    """
    return np.abs(kernel) * input_norm


def obs(kernel: np.ndarray, *, gram: np.ndarray) -> np.ndarray:
    """Scores each weight by what it costs when the others make up for it.

    With H the damped `gram`, each output loses one weight at a time, that of
    the least `w**2 / [H^-1]_pp`; after each the rest is updated. The score is
    the cost at which a weight went. Above 1,024 inputs, or inputs^3 * outputs
    above 5e10, it is that of SparseGPT, without updates. It serves best where
    `reconstruct` repairs what stays.

    Args:
        kernel: Array of shape `(..., inputs, outputs)`. The kernel to score.
        gram: Array of shape `(..., inputs, inputs)`: the second moment of what
            the kernel reads. It takes data, without targets.

    Returns:
        Float64 array of the shape of `kernel`; higher means keep.

    Example:

    The two inputs are nearly alike, so either weight can do the other's work.
    Which goes hardly matters; the one that stays then has to.

    >>> kprune.criteria.obs(
    ...     np.array([[2.0], [1.5]]), gram=np.array([[1.0, 0.9], [0.9, 1.0]])
    ... ).round(2)
    array([[11.24],
           [ 0.47]])

    References:

    - [Frantar & Alistarh, 2022](https://arxiv.org/abs/2208.11580): OBC
    - [Frantar & Alistarh, 2023](https://arxiv.org/abs/2301.00774): SparseGPT
    """
    return brain_surgeon.losses(gram, kernel)


def alps(
    kernel: np.ndarray, *, gram: np.ndarray, sparsity: float
) -> np.ndarray:
    """Scores so that the weights that ALPS keeps are the highest.

    ADMM finds which weights, in the number that this sparsity leaves of the
    kernel, come nearest to its outputs; the order among those that stay, and
    among those that go, is by their magnitude in it. Above 2,500 inputs the
    order is that of `obs`. It serves best where `reconstruct` repairs what
    stays.

    Args:
        kernel: Array of shape `(..., inputs, outputs)`. The kernel to score.
        gram: Array of shape `(..., inputs, inputs)`: the second moment of what
            the kernel reads. It takes data, without targets.
        sparsity: Float. The sparsity that is asked of the kernel.

    Returns:
        Float64 array of the shape of `kernel`; higher means keep.

    Example:

    >>> scores = kprune.criteria.alps(
    ...     np.array([[2.0], [1.0]]), gram=np.diag([1.0, 9.0]), sparsity=0.5
    ... )
    >>> scores[0] < scores[1]
    array([ True])

    Reference:

    - [Meng et al., 2024](https://arxiv.org/abs/2406.07831)
    """
    kept = kernel.size - ranking.removed_count(kernel.size, sparsity)
    return admm.magnitudes(gram, kernel, kept)


# The costs of one kernel have no scale in common with those of another.
for _criterion in (obs, alps):
    setattr(_criterion, "across", magnitude)  # noqa: B010
    # Groups of channels go by what the kernels that read them lose.
    setattr(_criterion, "of_readers", brain_surgeon.total_losses)  # noqa: B010
