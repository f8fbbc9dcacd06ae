"""Asking a criterion for the scores of weights."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kprune import weights
from kprune.criteria import Criterion
from kprune.observing import requests
from kprune.observing.observations import Observations, of_names
from kprune.prunable import PrunableWeight
from kprune.structure.records import Binding

# What `of_slices` of a criterion can ask for: of kernels, of other variables.
_SLICES = "criterion of slices"
_OTHER_SLICES = "criterion of other slices"


def check_requests(criterion: Criterion) -> tuple[str, ...]:
    """Checks that a criterion asks for nothing that is not known.

    Args:
        criterion: A criterion.

    Returns:
        Tuple of all names that it asks for.

    Raises:
        ValueError: If it does, itself or its `of_slices`.
    """
    asked = requests.names(criterion, "criterion")
    of_slices = getattr(criterion, "of_slices", None)
    if of_slices is not None:
        has_names = getattr(criterion, "slices_of", None) is not None
        family = _OTHER_SLICES if has_names else _SLICES
        asked += requests.names(of_slices, family)
    return asked


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
        self.criterion = criterion
        self._slicer: Any = getattr(criterion, "of_slices", None)
        self._places = places
        self.observations: Any = observations
        self.progress = progress
        # Weights that are scored in the place of a kernel's own.
        self._values: dict[int, np.ndarray] = {}

    def reading(
        self, weight: PrunableWeight, gram: np.ndarray, kernel: np.ndarray
    ) -> "Scorer":
        """The same, but for one kernel that reads something else.

        Args:
            weight: The kernel.
            gram: Array, as `Observations.gram` returns it: the second moment
                of what it reads.
            kernel: Array of the kernel's shape: the weights to score.
        """
        found = Scorer(
            self.criterion,
            self._places,
            self.progress,
            self.observations.with_gram(weight, gram),
        )
        found._values[id(weight.variable)] = kernel
        return found

    def value(self, weight: PrunableWeight) -> np.ndarray:
        """The weights of a kernel, those that are scored."""
        found = self._values.get(id(weight.variable))
        return weight.value() if found is None else found

    @property
    def is_elementwise(self) -> bool:
        """Boolean. Whether weights can be scored some at a time."""
        return bool(getattr(self.criterion, "elementwise", False))

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
            **of_names(self.observations, weight, requests.OBSERVED),
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
        return self.of_values(weight, sparsity, self.value(weight))

    def scores_across(
        self, weight: PrunableWeight, sparsity: float
    ) -> np.ndarray:
        """The scores by which kernels are compared with each other.

        Those of the criterion, unless it declares another one `across`.
        """
        across = getattr(self.criterion, "across", None)
        if across is None:
            return self.scores(weight, sparsity)
        other = Scorer(across, self._places, self.progress, self.observations)
        return other.scores(weight, sparsity)

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
        if "gram" in requests.names(self.criterion, "criterion"):
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
            requests.answer(self.criterion, "criterion", values, offers=offers)
        )
        if scores.shape != values.shape:
            raise ValueError(
                f"The criterion {self.criterion!r} must return scores of the "
                f"kernel's shape {values.shape} for '{weight.name}' of layer "
                f"'{weight.layer.name}'. Received: scores of shape "
                f"{scores.shape}"
            )
        return scores

    def _by_matrices(self, weight, values, offers) -> np.ndarray:
        """The scores of a criterion that sees kernels as matrices."""
        of_kernel = self.observations.map_of(weight)
        turned = {
            name: functools.partial(
                lambda offer: of_kernel.matrices(offer()), offers[name]
            )
            for name in requests.OF_KERNELS_SHAPE
        }
        matrices = of_kernel.matrices(values)
        scores = self._ask(weight, matrices, {**offers, **turned})
        return of_kernel.kernel(scores)

    @property
    def scores_groups(self) -> Callable | None:
        """What the criterion declares as `of_readers`, `None` if nothing."""
        return getattr(self.criterion, "of_readers", None)

    @property
    def scores_slices(self) -> bool:
        """Boolean. Whether the criterion scores slices as a whole."""
        return self._slicer is not None

    @property
    def slices_of(self) -> tuple[str, ...] | None:
        """The names of the variables that it scores slices of.

        `None` stands for the kernels.
        """
        return getattr(self.criterion, "slices_of", None)

    def slices(
        self, weight: PrunableWeight, sparsity: float, bindings: list[Binding]
    ) -> list[np.ndarray | None]:
        """The scores of the slices of a kernel.

        Args:
            weight: The kernel.
            sparsity: Float. The sparsity asked of it.
            bindings: List of its `Binding`s.

        Returns:
            List of arrays, one for each binding: a score for each slice along
            its axis. `None` where the kernel has no say.

        Raises:
            ValueError: If the criterion returns something else.
        """
        return [
            self._of_slices(
                _SLICES,
                self.value(weight),
                binding,
                self.offers(weight, sparsity),
            )
            for binding in bindings
        ]

    def slices_of_variable(
        self, bindings: list[Binding]
    ) -> list[np.ndarray | None]:
        """As `slices`, of a variable that is named by `slices_of`.

        Args:
            bindings: List of its `Binding`s.
        """
        offers = {"progress": lambda: self.progress}
        return [
            self._of_slices(
                _OTHER_SLICES,
                weights.to_numpy(binding.variable),
                binding,
                offers,
            )
            for binding in bindings
        ]

    def _of_slices(self, family, values, binding, offers) -> np.ndarray | None:
        found = requests.answer(
            self._slicer,
            family,
            values,
            binding.axis,
            offers={**offers, "role": lambda: binding.role},
        )
        if found is None:
            return None
        scores, length = np.asarray(found), values.shape[binding.axis]
        if scores.shape != (length,) or not np.isfinite(scores).all():
            raise ValueError(
                f"`of_slices` of the criterion {self.criterion!r} must return "
                f"{length} finite scores, one for each slice of "
                f"'{binding.variable.name}' of layer '{binding.layer.name}' "
                f"along axis {binding.axis}, or None. Received: {found!r}"
            )
        return scores

    def _raise_not_finite(self, weight, values):
        if np.isfinite(values).all():
            raise ValueError(
                f"The criterion {self.criterion!r} returned scores that are "
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
