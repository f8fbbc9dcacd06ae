"""Criteria that look at the weights alone."""

import dataclasses
import numbers

import numpy as np


def magnitude(kernel: np.ndarray) -> np.ndarray:
    """Scores each weight by its absolute value.

    The simplest criterion and a hard one to beat: small weights go first.

    Args:
        kernel: Array. The kernel to score.

    Returns:
        Array of the shape and dtype of `kernel`; higher means keep.

    Example:

    >>> kprune.criteria.magnitude(np.array([-2.0, 0.5]))
    array([2. , 0.5])

    Reference:

    - [Han et al., 2015](https://arxiv.org/abs/1506.02626)
    """
    return np.abs(kernel)


# A declaration, as a criterion of a user's own can make it.
setattr(magnitude, "elementwise", True)  # noqa: B010


@dataclasses.dataclass(frozen=True)
class Random:
    """Scores each weight by chance: the floor that a criterion must beat.

    Each kernel of a model has a generator of its own, the same at each update,
    so that the masks of two updates agree, in a resumed training too. Called
    by hand without one the scores depend on the seed and the shape only.

    Args:
        seed: Integer, at least 0.

    Example:

    >>> scores = kprune.criteria.Random(seed=7)(np.zeros((2, 3)))
    >>> scores.shape, bool((scores >= 0).all())
    ((2, 3), True)
    """

    seed: int = 0

    def __post_init__(self):
        if isinstance(self.seed, bool) or not isinstance(
            self.seed, numbers.Integral
        ):
            raise ValueError(
                f"`seed` must be an integer. Received: seed={self.seed!r}"
            )
        if self.seed < 0:
            raise ValueError(
                f"`seed` must be at least 0. Received: seed={self.seed!r}"
            )

    def __call__(
        self,
        kernel: np.ndarray,
        *,
        generator: np.random.Generator | None = None,
    ) -> np.ndarray:
        seed = [self.seed]
        if generator is not None:
            seed.append(int(generator.integers(2**63)))
        seeded = np.random.default_rng(seed)
        return seeded.random(kernel.shape, dtype=np.float32)
