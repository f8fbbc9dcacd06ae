"""Optimal brain surgeon: what goes is made up for by what stays.

With H the damped second moment of the inputs, removing some inputs g of an
output raises its squared error by w_g' ([H^-1]_gg)^-1 w_g at least, reached by
w -= [H^-1]_:g ([H^-1]_gg)^-1 w_g; then H^-1 loses the same share of itself.
One removal after the other is the Cholesky factorization of H^-1 in the order
of the removals, and so it is computed here.

Damped is with 0.01 of the mean of H's diagonal. An input that is always 0
costs nothing: its weights are worth 0.

References:

- [Frantar & Alistarh, 2022](https://arxiv.org/abs/2208.11580): OBC
- [Frantar & Alistarh, 2023](https://arxiv.org/abs/2301.00774): SparseGPT
- [Kurtic et al., 2023](https://arxiv.org/abs/2302.04089): ZipLM
- [Meng et al., 2024](https://arxiv.org/abs/2403.12983): OSSCAR
"""

from collections.abc import Sequence

import numpy as np

_DAMPING = 0.01
# The largest kernel whose weights are removed one by one.
_INPUTS = 1024
_WORK = 5e10  # inputs^3 * outputs
# Removals after which the inverse is updated by one product of matrices.
_BLOCK = 64
_NUMBERS = 1 << 24  # in memory at once, 128 MB


def losses(gram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What each weight costs when it goes, the cheapest of its output first.

    Each output loses one weight at a time, w^2 / [H^-1]_pp being the least,
    and is updated after each. A weight never costs less than one before it,
    so that ranking all of a kernel's weights keeps each output's order.

    Above 1,024 inputs, or inputs^3 * outputs above 5e10, the costs are those
    of SparseGPT, w^2 / U_ii^2 where H^-1 = U'U, U upper triangular: input i
    is made up for by the inputs behind it.

    Args:
        gram: Array of shape (..., inputs, inputs).
        weights: Array of shape (..., inputs, outputs).

    Returns:
        Float64 array of the shape of `weights`, at least 0.

    Example:

    >>> kprune.reconstruction.brain_surgeon.losses(
    ...     np.array([[1.0, 0.0], [0.0, 4.0]]), np.array([[2.0], [0.5]])
    ... ).round(1)
    array([[4.1],
           [1. ]])
    """
    if weights.ndim > 2:
        return np.stack([losses(*of_one) for of_one in zip(gram, weights)])
    hessian, is_live = _damped(gram)
    weights = np.where(is_live[:, None], weights, 0.0).astype(np.float64)
    inputs, outputs = weights.shape
    if inputs > _INPUTS or inputs**3 * outputs > _WORK:
        return weights**2 * _inverse_pivots(hessian)[:, None]
    inverse = np.linalg.inv(hessian)
    batch = max(_NUMBERS // (3 * inputs**2), 1)
    result = np.empty((inputs, outputs))
    for start in range(0, outputs, batch):
        part = slice(start, start + batch)
        result[:, part] = _one_by_one(inverse, weights[:, part].T).T
    return result


class Surgeon:
    """Removes groups of inputs from a kernel, and repairs it each time.

    Args:
        gram: Array of shape (inputs, inputs).
        weights: Array of shape (inputs, outputs).
        members: Integer array of shape (inputs,): the group of each input, or
            -1 for one that never goes.

    Attributes:
        weights: Float64 array of shape (inputs, outputs): the kernel as it is
            now, 0 where inputs are gone.

    Example:

    >>> surgeon = kprune.reconstruction.brain_surgeon.Surgeon(
    ...     gram=np.array([[1.0, 0.8], [0.8, 1.0]]),
    ...     weights=np.array([[1.0], [2.0]]),
    ...     members=np.array([0, 1]),
    ... )
    >>> surgeon.losses().round(2)
    array([0.19, 0.75])
    >>> round(surgeon.remove(0), 2)
    0.19
    >>> surgeon.weights.round(2), surgeon.losses().round(2)
    (array([[0.  ],
           [2.79]]), array([ inf, 3.94]))
    """

    def __init__(
        self, gram: np.ndarray, weights: np.ndarray, members: np.ndarray
    ):
        hessian, self._is_live = _damped(gram)
        self._inverse = np.linalg.inv(hessian)
        # H^-1 now is what it was less the product of the first columns of
        # this with their transpose.
        self._factor = np.empty_like(self._inverse)
        self._gone_inputs = 0
        self.weights = np.array(weights, np.float64)
        members = np.asarray(members)
        count = int(members.max(initial=-1)) + 1
        self._rows = [np.flatnonzero(members == g) for g in range(count)]
        self._is_gone = np.zeros(count, bool)
        self._batches = self._by_size()

    def _by_size(self):
        """For groups of one size each: which, their rows, their H^-1."""
        sizes = np.array([len(rows) for rows in self._rows], np.intp)
        batches = []
        for size in np.unique(sizes[sizes > 0]):
            groups = np.flatnonzero(sizes == size)
            rows = np.stack([self._rows[group] for group in groups])
            blocks = self._inverse[rows[:, :, None], rows[:, None, :]]
            batches.append((groups, rows, blocks))
        return batches

    def losses(self) -> np.ndarray:
        """What each group would cost now: half the rise of the squared error.

        Returns:
            Float64 array of shape (groups,); infinite where a group is gone.
        """
        result = np.where(self._is_gone, np.inf, 0.0)
        for groups, rows, blocks in self._batches:
            weights = self._counted(rows)
            solved = np.linalg.solve(blocks, weights)
            result[groups] += 0.5 * np.sum(weights * solved, axis=(1, 2))
        return result

    def remove(self, group: int) -> float:
        """Takes a group away, and makes up for it.

        Args:
            group: Integer. One that is still there.

        Returns:
            Float. What it cost, as `losses` gave it.
        """
        rows = self._rows[group]
        past = self._factor[:, : self._gone_inputs]
        columns = self._inverse[:, rows] - past @ past[rows].T
        root = np.linalg.cholesky(columns[rows])
        # Rows that were gone before keep zeros, whatever rounding left there.
        columns[self._is_gone_row()] = 0.0
        factor = np.linalg.solve(root, columns.T).T
        step = np.linalg.solve(root, self._counted(rows))
        self.weights -= factor @ step
        self.weights[rows] = 0.0
        self._factor[:, self._gone_inputs : self._gone_inputs + len(rows)] = (
            factor
        )
        self._gone_inputs += len(rows)
        self._is_gone[group] = True
        for groups, rows_of, blocks in self._batches:
            parts = factor[rows_of]
            blocks -= parts @ parts.transpose(0, 2, 1)
            # Nothing is asked of it any more; it must only be invertible.
            blocks[groups == group] = np.eye(blocks.shape[-1])
        return 0.5 * float(np.sum(step**2))

    def _counted(self, rows):
        """Weights by what they are worth: 0 for inputs that are always 0."""
        return np.where(self._is_live[rows][..., None], self.weights[rows], 0.0)

    def _is_gone_row(self):
        is_gone = np.zeros(len(self.weights), bool)
        for group in np.flatnonzero(self._is_gone):
            is_gone[self._rows[group]] = True
        return is_gone


def total_losses(
    kernels: Sequence[np.ndarray],
    grams: Sequence[np.ndarray],
    members: Sequence[np.ndarray],
) -> np.ndarray:
    """What the kernels that read some groups have lost when each goes.

    The groups go one by one, the cheapest first, from all kernels at once,
    each of which makes up for it. What a kernel loses is relative to its
    outputs' energy.

    Args:
        kernels: Sequence of arrays of shape (inputs, outputs).
        grams: Sequence of arrays of shape (inputs, inputs).
        members: Sequence of integer arrays of shape (inputs,): the group of
            each input, -1 for one that never goes.

    Returns:
        Float64 array of shape (groups,): the sum of the losses up to and with
        the group's own; so the order is that in which they went.

    Example:

    >>> kprune.reconstruction.brain_surgeon.total_losses(
    ...     [np.array([[2.0], [1.0], [3.0]])],
    ...     [np.eye(3)],
    ...     [np.array([0, 1, 2])],
    ... ).round(3)
    array([0.18 , 0.036, 0.505])
    """
    surgeons = [Surgeon(*of) for of in zip(grams, kernels, members)]
    energies = [
        max(float(np.vdot(kernel, gram @ kernel)), 1e-30)
        for kernel, gram in zip(kernels, grams)
    ]
    count = 1 + max(int(of.max(initial=-1)) for of in members)
    totals, total = np.empty(count), 0.0
    for _ in range(count):
        costs = np.zeros(count)
        for surgeon, energy in zip(surgeons, energies):
            of_groups = surgeon.losses() / energy
            costs[: len(of_groups)] += of_groups
        group = int(count - 1 - np.argmin(costs[::-1]))
        total += costs[group]
        totals[group] = total
        for surgeon, of_kernel in zip(surgeons, members):
            if group <= of_kernel.max(initial=-1):
                surgeon.remove(group)
    return totals


def _damped(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H, positive definite, and which inputs are not always 0."""
    hessian = np.array(gram, np.float64)
    diagonal = np.diagonal(hessian).copy()
    is_live = diagonal > 0
    damping = _DAMPING * diagonal.mean()
    np.fill_diagonal(hessian, np.where(is_live, diagonal, 1.0) + damping)
    return hessian, is_live


def _inverse_pivots(hessian: np.ndarray) -> np.ndarray:
    """1 / U_ii^2 of H^-1 = U'U, where 1 / U is H's factor from its end."""
    root = np.linalg.cholesky(hessian[::-1, ::-1])
    return np.diagonal(root)[::-1] ** 2


def _one_by_one(inverse: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The costs of weights that go one by one; both are (outputs, inputs)."""
    outputs, inputs = weights.shape
    each = np.arange(outputs)
    result = np.empty((outputs, inputs))
    highest = np.zeros(outputs)
    # What is left of each output: its inputs, weights, H^-1 and its diagonal.
    places = np.tile(np.arange(inputs), (outputs, 1))
    weights = weights.copy()
    inverses = np.broadcast_to(inverse, (outputs, inputs, inputs))
    diagonals = np.tile(np.diagonal(inverse), (outputs, 1))
    while (left := places.shape[1]) > 0:
        steps = min(_BLOCK, left)
        factor = np.zeros((outputs, left, steps))
        is_left = np.ones((outputs, left), bool)
        for step in range(steps):
            costs = np.where(is_left, weights**2 / diagonals, np.inf)
            # Of equals the last goes, so that the lower index stays.
            chosen = left - 1 - np.argmin(costs[:, ::-1], axis=1)
            highest = np.maximum(highest, costs[each, chosen])
            result[each, places[each, chosen]] = highest
            past = factor[:, :, :step]
            column = inverses[each, chosen]
            column -= (past @ past[each, chosen][:, :, None])[:, :, 0]
            column /= np.sqrt(diagonals[each, chosen])[:, None]
            column[~is_left] = 0.0
            ratio = weights[each, chosen] / np.sqrt(diagonals[each, chosen])
            weights -= column * ratio[:, None]
            is_left[each, chosen] = False
            diagonals -= np.where(is_left, column**2, 0.0)
            factor[:, :, step] = column
        kept = np.nonzero(is_left)[1].reshape(outputs, left - steps)
        places, weights, diagonals = (
            np.take_along_axis(array, kept, axis=1)
            for array in (places, weights, diagonals)
        )
        factor = np.take_along_axis(factor, kept[:, :, None], axis=1)
        inverses = inverses[
            each[:, None, None], kept[:, :, None], kept[:, None]
        ]
        inverses -= factor @ factor.transpose(0, 2, 1)
    return result
