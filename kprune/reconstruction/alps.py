"""ALPS: which weights of a kernel stay, by ADMM.

Minimized is the squared error |XW - XD|^2 over all D with a given number of
weights, W being the dense kernel: ADMM splits it into a ridge regression B and
a D of the largest entries, which are pulled together harder and harder.

Reference:

- [Meng et al., 2024](https://arxiv.org/abs/2406.07831)
"""

import numpy as np

from kprune import ranking
from kprune.reconstruction import brain_surgeon, least_squares

_DAMPING = 0.01
# One decomposition, 9 n^3, and up to 300 products: minutes above this.
_INPUTS = 2500
_ITERATIONS = 300
_SETTLED = 30  # From here on next to no changes are none.
_STRONGEST = 1e6


def support(gram: np.ndarray, weights: np.ndarray, kept: int) -> np.ndarray:
    """The weights that stay, exactly `kept` of them over the whole kernel.

    Among equals the lower flat index stays.

    Args:
        gram: Array of shape (..., inputs, inputs).
        weights: Array of shape (..., inputs, outputs).
        kept: Integer in `[1, weights.size]`.

    Returns:
        Boolean array of the shape of `weights`; True keeps.

    Example:

    >>> kprune.reconstruction.alps.support(
    ...     np.diag([1.0, 9.0]), np.array([[2.0], [1.0]]), kept=1
    ... )
    array([[False],
           [ True]])
    """
    found = magnitudes(gram, weights, kept)
    return ranking.keep_highest(found, weights.size - kept)


def magnitudes(gram: np.ndarray, weights: np.ndarray, kept: int) -> np.ndarray:
    """What the support is chosen by, the highest of which stay.

    H is damped with 0.01 of the mean of its diagonal, then scaled to a
    diagonal of 1. The penalty starts at 0.1. Every three iterations it grows
    by 1.3, 1.2 or 1.1, as more than 0.1 or 0.005 of the support, or any of
    it, has changed; it ends when nothing has, or from iteration 31 on less
    than 0.0003, and after 300 iterations. Until it has grown for the first
    time it gets five times smaller instead, and after a small change all
    starts again from the dense kernel. Where the largest weights of the scaled
    kernel leave less error, these stay.

    Of several matrices the support is that of all together. Above 2,500 inputs
    it is the square roots of the costs of `brain_surgeon.losses`.

    Args:
        gram: Array of shape (..., inputs, inputs).
        weights: Array of shape (..., inputs, outputs).
        kept: Integer in `[1, weights.size]`.

    Returns:
        Float64 array of the shape of `weights`, at least 0.
    """
    inputs = gram.shape[-1]
    if inputs > _INPUTS:
        return np.sqrt(brain_surgeon.losses(gram, weights))
    hessian = np.array(gram, np.float64)
    diagonal = np.diagonal(hessian, axis1=-2, axis2=-1)
    damped = diagonal + _DAMPING * diagonal.mean(axis=-1, keepdims=True)
    # Where all inputs are 0 any scale will do.
    scale = np.sqrt(np.where(damped > 0, damped, 1.0))
    hessian[..., range(inputs), range(inputs)] = damped
    hessian /= scale[..., :, None] * scale[..., None, :]
    dense = weights * scale[..., None]
    if np.count_nonzero(dense) <= kept:
        return np.abs(dense)  # without any error
    # On kernels of few weights ADMM can end worse than where it started.
    return min(
        (np.abs(dense), _admm(hessian, dense, kept)),
        key=lambda found: _error(hessian, dense, found, kept),
    )


def _error(hessian, dense, found, kept) -> float:
    """What a support leaves when its weights are fitted."""
    mask = ranking.keep_highest(found, found.size - kept)
    target = hessian @ dense
    error = 0.0
    for matrix in np.ndindex(dense.shape[:-2]):
        of_one = hessian[matrix], target[matrix]
        fitted = least_squares.fit(*of_one, dense[matrix], mask[matrix])
        energy = float(np.vdot(dense[matrix], target[matrix]))
        error += least_squares.error(*of_one, energy, fitted)
    return error


def _admm(hessian, dense, kept) -> np.ndarray:
    values, vectors = np.linalg.eigh(hessian)
    target = hessian @ dense
    removed = dense.size - kept
    start = ranking.keep_highest(np.abs(dense), removed)
    sparse, dual = np.where(start, dense, 0.0), np.zeros_like(dense)
    penalty, has_grown, before = 0.1, False, start
    for iteration in range(1, _ITERATIONS + 1):
        right = vectors.swapaxes(-1, -2) @ (target - dual + penalty * sparse)
        ridge = vectors @ (right / (values + penalty)[..., None])
        pulled = ridge + dual / penalty
        mask = ranking.keep_highest(np.abs(pulled), removed)
        sparse = np.where(mask, pulled, 0.0)
        dual += penalty * (ridge - sparse)
        if iteration % 3:
            continue
        changed = np.count_nonzero(mask != before)
        before = mask
        if changed > 0.005 * kept:
            has_grown = True
            penalty *= 1.3 if changed > 0.1 * kept else 1.2
        elif has_grown:
            if not changed:
                break
            penalty *= 1.1
        else:
            penalty /= 5
            if changed:
                sparse = np.where(start, dense, 0.0)
                dual = np.zeros_like(dense)
        penalty = min(penalty, _STRONGEST)
        if iteration > _SETTLED and changed < 0.0003 * kept:
            break
    return np.abs(pulled)
