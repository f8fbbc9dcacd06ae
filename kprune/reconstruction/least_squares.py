"""Least squares on the weights that stay.

A kernel is a matrix here, (inputs, outputs). All that is known of the data are
its second moments: `gram`, X'X / rows, of the inputs, and `cross`, X'Y / rows,
of inputs and target outputs.
"""

import numpy as np

# Solved exactly is what takes no more operations than this, or than so many
# steps of conjugate gradients: some ten are needed, and their large products
# run several times faster than small factorizations.
_CHEAP = 1e9
_STEPS_WORTH = 3
# What conjugate gradients are stopped by.
_STEPS = 100
_TOLERANCE = 1e-8


def fit(
    gram: np.ndarray,
    cross: np.ndarray,
    prior: np.ndarray,
    mask: np.ndarray,
    *,
    damping: float = 1e-3,
) -> np.ndarray:
    """Fits the kept weights of each output to its targets.

    With S the inputs that an output keeps, its weights w solve

        (gram_SS + l I) w_S = cross_S + l prior_S,  l = damping * mean(diag gram)

    An input that is always 0 keeps the weights of the prior. Outputs with the
    same inputs share one factorization. Where these take more than 1e9
    operations, and more than three products of `gram` with the kernel, it is
    conjugate gradients instead, of all outputs at once, preconditioned by the
    diagonal and restricted to the mask: at most 100 steps, to a residual of
    1e-8 of the first.

    Args:
        gram: Array of shape (inputs, inputs).
        cross: Array of shape (inputs, outputs).
        prior: Array of shape (inputs, outputs): what the damping pulls to.
        mask: Boolean array of shape (inputs, outputs); True keeps.
        damping: Float, greater than 0.

    Returns:
        Float64 array of shape (inputs, outputs), 0 where the mask is False.

    Example:

    >>> kprune.reconstruction.least_squares.fit(
    ...     gram=np.array([[1.0, 1.0], [1.0, 1.0]]),  # two equal inputs
    ...     cross=np.array([[3.0], [3.0]]),
    ...     prior=np.array([[1.0], [2.0]]),
    ...     mask=np.array([[False], [True]]),
    ...     damping=1.0,
    ... )
    array([[0. ],
           [2.5]])
    """  # noqa: E501
    gram = np.asarray(gram, np.float64)
    kept_prior = np.where(mask, prior, 0.0).astype(np.float64)
    diagonal = np.diagonal(gram)
    kept = mask & (diagonal > 0)[:, None]
    if not kept.any():
        return kept_prior
    damped = gram.copy()
    np.fill_diagonal(damped, diagonal + damping * diagonal.mean())
    # Solved for the change of the prior: the terms in `l prior` cancel.
    residual = np.where(kept, cross - gram @ kept_prior, 0.0)
    patterns = _patterns(kept)
    step = 2.0 * kept.size * len(kept)
    if _operations(patterns) <= max(_CHEAP, _STEPS_WORTH * step):
        change = _solve(damped, residual, patterns)
    else:
        change = _iterate(damped, residual, kept)
    return kept_prior + change


def error(
    gram: np.ndarray, cross: np.ndarray, energy: float, weights: np.ndarray
) -> float:
    """The mean over rows of the squared error of all outputs.

    Args:
        gram: Array of shape (inputs, inputs).
        cross: Array of shape (inputs, outputs).
        energy: Float. The mean over rows of the squared targets' sum.
        weights: Array of shape (inputs, outputs).

    Returns:
        Float, at least 0.

    Example:

    >>> gram, cross = np.array([[2.0]]), np.array([[4.0]])
    >>> kprune.reconstruction.least_squares.error(
    ...     gram, cross, 9.0, np.array([[1.0]])
    ... )
    3.0
    """
    weights = np.asarray(weights, np.float64)
    explained = np.vdot(weights, 2.0 * cross - gram @ weights)
    # Rounding can leave less than nothing of a perfect fit.
    return max(float(energy - explained), 0.0)


def _patterns(kept: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of the inputs that some outputs keep, and these outputs."""
    outputs: dict[bytes, list[int]] = {}
    for output, pattern in enumerate(np.packbits(kept, axis=0).T):
        outputs.setdefault(pattern.tobytes(), []).append(output)
    return [
        (np.flatnonzero(kept[:, same[0]]), np.array(same))
        for same in outputs.values()
    ]


def _operations(patterns) -> float:
    return sum(
        2.0 / 3.0 * len(inputs) ** 3 + 2.0 * len(inputs) ** 2 * len(outputs)
        for inputs, outputs in patterns
    )


def _solve(damped, residual, patterns) -> np.ndarray:
    change = np.zeros_like(residual)
    for inputs, outputs in patterns:
        where = np.ix_(inputs, outputs)
        # NumPy has no solver of triangles, so its LU is faster than Cholesky.
        change[where] = np.linalg.solve(
            damped[np.ix_(inputs, inputs)], residual[where]
        )
    return change


def _iterate(damped, residual, kept) -> np.ndarray:
    """Conjugate gradients for all outputs at once."""
    change = np.zeros_like(residual)
    scale = 1.0 / np.diagonal(damped)[:, None]
    outputs = np.arange(residual.shape[1])
    found = np.zeros_like(residual)
    direction = scale * residual
    norm = np.sum(residual * direction, axis=0)
    goal = _TOLERANCE**2 * norm
    for _ in range(_STEPS):
        done = norm <= goal
        if done.any():
            change[:, outputs[done]] = found[:, done]
            outputs, norm, goal = outputs[~done], norm[~done], goal[~done]
            found, residual, direction, kept = (
                array[:, ~done] for array in (found, residual, direction, kept)
            )
        if not outputs.size:
            break
        image = np.where(kept, damped @ direction, 0.0)
        step = norm / np.sum(direction * image, axis=0)
        found = found + step * direction
        residual = residual - step * image
        preconditioned = scale * residual
        before, norm = norm, np.sum(residual * preconditioned, axis=0)
        direction = preconditioned + norm / before * direction
    change[:, outputs] = found
    return change
