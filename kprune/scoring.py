"""Asking a criterion for the scores of weights."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from kprune import weights
from kprune.criteria import Criterion
from kprune.observing import requests
from kprune.observing.observations import Observations, of_names
from kprune.prunable import PrunableWeight


class Scorer:
    """Gives a criterion what it asks for, and checks what it returns.

    Args:
        criterion: A criterion.
        places: Mapping from the id of a variable to integers that tell the
            kernels of a model apart, the same at each update.
        progress: Float in `[0, 1]`.
        observations: `Observations` of the model, `None` without data.
    """

    def __init__(
        self,
        criterion: Criterion,
        places: Mapping[int, tuple[int, ...]],
        progress: float,
        observations: Observations | None = None,
    ):
        self._criterion = criterion
        self._places = places
        self._observations = observations
        self.progress = progress

    @property
    def is_elementwise(self) -> bool:
        """Boolean. Whether weights can be scored some at a time."""
        return bool(getattr(self._criterion, "elementwise", False))

    def offers(self, weight: PrunableWeight, sparsity: float) -> dict:
        """What a member can ask for when it is called for a kernel.

        Args:
            weight: The kernel.
            sparsity: Float. The sparsity asked of it.

        Returns:
            Dict from a name to a callable without arguments.
        """
        return {
            "generator": lambda: np.random.default_rng(
                self._places[id(weight.variable)]
            ),
            "mask": lambda: weights.to_numpy(weight.mask).copy(),
            "progress": lambda: self.progress,
            "sparsity": lambda: sparsity,
            **of_names(self._observations, weight, requests.OBSERVED),
        }

    def scores(self, weight: PrunableWeight, sparsity: float) -> np.ndarray:
        """The scores of a kernel.

        Args:
            weight: The kernel.
            sparsity: Float. The sparsity asked of it.

        Returns:
            Array of floats of its shape, none of them nan or infinite.

        Raises:
            ValueError: If the criterion returns something else.
        """
        return self.of_values(weight, sparsity, weight.value())

    def of_values(
        self, weight: PrunableWeight, sparsity: float, values: np.ndarray
    ) -> np.ndarray:
        """The scores of a kernel, or of some of its weights.

        Args:
            weight: The kernel.
            sparsity: Float. The sparsity asked of it.
            values: Array: the weights.

        Returns:
            Array of floats of the shape of the values.

        Raises:
            ValueError: As `scores` does.
        """
        offers = self.offers(weight, sparsity)
        if "gram" in requests.names(self._criterion, "criterion"):
            scores = self._by_matrices(weight, values, offers)
        else:
            scores = self._ask(weight, values, offers)
        if scores.dtype.kind in "biu":
            scores = scores.astype(np.float64)
        if not (np.isfinite(scores.max()) and np.isfinite(scores.min())):
            self._raise_not_finite(weight, values)
        return scores

    def _ask(self, weight, values, offers) -> np.ndarray:
        scores = np.asarray(
            requests.answer(self._criterion, "criterion", values, offers=offers)
        )
        if scores.shape != values.shape:
            raise ValueError(
                f"The criterion {self._criterion!r} must return scores of the "
                f"kernel's shape {values.shape} for '{weight.name}' of layer "
                f"'{weight.layer.name}'. Received: scores of shape "
                f"{scores.shape}"
            )
        return scores

    def _by_matrices(self, weight, values, offers) -> np.ndarray:
        """The scores of a criterion that sees kernels as matrices."""
        grams = offers["gram"]()
        of_kernel = self._observations.map_of(weight)

        def as_matrix(offer, index):
            return of_kernel.matrices(offer())[index]

        scores = [
            self._ask(
                weight,
                matrix,
                {
                    **offers,
                    "gram": functools.partial(grams.__getitem__, index),
                    **{
                        name: functools.partial(as_matrix, offers[name], index)
                        for name in requests.OF_KERNELS_SHAPE
                    },
                },
            )
            for index, matrix in enumerate(of_kernel.matrices(values))
        ]
        return of_kernel.kernel(np.stack(scores))

    def _raise_not_finite(self, weight, values):
        if np.isfinite(values).all():
            raise ValueError(
                f"The criterion {self._criterion!r} returned scores that are "
                f"nan or infinite for the weights '{weight.name}' of layer "
                f"'{weight.layer.name}', which are finite. Correct it; "
                "`kprune.testing.check_criterion` tries it on many kernels."
            )
        raise ValueError(
            f"The weights '{weight.name}' of layer '{weight.layer.name}' are "
            "nan or infinite, so they cannot be ranked. Has the training "
            "diverged? Lower the learning rate, or add "
            "`keras.callbacks.TerminateOnNaN()`."
        )


class LazyScores(Sequence[Iterator[np.ndarray]]):
    """The scores of the kernels of some layers, computed when they are read.

    Args:
        kernels: List of lists of `PrunableWeight`, one a layer.
        score: Callable from a `PrunableWeight` to its scores.
    """

    def __init__(
        self,
        kernels: list[list[PrunableWeight]],
        score: Callable[[PrunableWeight], np.ndarray],
    ):
        self._kernels = kernels
        self._score = score

    def __len__(self) -> int:
        return len(self._kernels)

    def __getitem__(self, index):
        return map(self._score, self._kernels[index])
