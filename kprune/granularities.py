"""Granularities: in what shape weights go.

A granularity is any callable that maps the scores of a kernel and a sparsity
to a mask of the shape of the scores: True keeps the weight. The scores come as
`(..., inputs, outputs)`, whatever the layer's kind: gates and axes of space
first, inputs before outputs in transposed convolutions too, and one input for
each output of a depthwise convolution. What else it needs it asks for by the
names of keyword-only parameters, see `kprune.observing.requests`.

What is special about one it declares by attributes:

- `whole_groups`, true: in a model whose graph can be read it chooses among
  *groups*, a filter together with every slice that has to go with it (see
  `kprune.structure`). It is called with the groups' scores as one row.
- `pool(scores, axis)`: how slices of a kernel are scored as a whole, one score
  for each index along the axis. Without it `mean_square` is taken.
"""

import dataclasses
import math
import operator
import warnings
from collections.abc import Callable
from typing import ClassVar, Self

import keras
import numpy as np

from kprune.ranking import keep_highest, removed_count

Granularity = Callable[..., np.ndarray]

_register = keras.saving.register_keras_serializable(package="kprune")


def _positive(name: str, value) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return number


class _Savable:
    """Saves and loads with the layer that it was given to."""

    def get_config(self) -> dict:
        """Returns the arguments of the constructor as a dict."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """Returns the granularity that `get_config` describes."""
        return cls(**config)


@_register
@dataclasses.dataclass(frozen=True)
class Unstructured(_Savable):
    """Single weights go, wherever they are.

    Of a kernel of n weights the `floor(n * sparsity)` with the lowest scores
    go. This shrinks files; it does not make a dense kernel faster.

    Example:

    >>> kprune.granularities.Unstructured()(np.array([[3., 1.], [2., 4.]]), 0.5)
    array([[ True, False],
           [False,  True]])
    """

    def __call__(
        self,
        scores: np.ndarray,
        sparsity: float,
        *,
        score: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        removed = removed_count(scores.size, sparsity)
        return keep_highest(scores, removed, score)


@_register
@dataclasses.dataclass(frozen=True)
class Filter(_Savable):
    """Whole output channels go: filters of a convolution, units of a Dense.

    Called with the scores of one kernel it pools them over all axes but the
    last. In a model whose graph can be read `kprune.prune` scores and masks
    *groups* instead: a filter together with every slice that has to go with it
    (see `kprune.structure`). The score of a group is the mean over its members,
    the kernels that have slices of it, of the mean square of the slice over
    that of the whole kernel: so it does not grow with the number of members,
    of positions or of weights, nor with the scale of a kernel.

    Args:
        multiple_of: Positive integer. The number of channels that are kept is
            rounded up to a multiple of it. One channel past the width of the
            kernel's tile is slow: in LiteRT 65 channels were seen to take 1.5
            times as long as 64, in int8 1.4 times, and 60 hardly less. 8
            suits float32 on ARM, 16 int8, and float32 on x86 CPUs with
            AVX-512.

    Example:

    >>> scores = np.array([[3., 1., 2.], [3., 1., 2.]])
    >>> kprune.granularities.Filter()(scores, 0.34)
    array([[ True, False,  True],
           [ True, False,  True]])

    Reference:

    - [Li et al., 2016](https://arxiv.org/abs/1608.08710)
    - [Fang et al., 2023](https://arxiv.org/abs/2301.12900), for groups
    """

    whole_groups: ClassVar[bool] = True
    multiple_of: int = 1

    def __post_init__(self):
        _positive("multiple_of", self.multiple_of)

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        pooled = self.pool(scores, scores.ndim - 1)
        mask = keep_highest(pooled, self.removed_count(pooled.size, sparsity))
        return np.broadcast_to(mask, scores.shape).copy()

    def removed_count(self, size: int, sparsity: float) -> int:
        """How many of `size` channels go after rounding.

        Args:
            size: Integer. The number of channels.
            sparsity: Float in `[0, 1)`.

        Returns:
            Integer in `[0, size)`.
        """
        kept = size - removed_count(size, sparsity)
        kept = math.ceil(kept / self.multiple_of) * self.multiple_of
        return max(size - kept, 0)

    def pool(self, scores: np.ndarray, axis: int) -> np.ndarray:
        """The mean square of each slice, see `mean_square`."""
        return mean_square(scores, axis)

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """Returns the granularity that `get_config` describes."""
        config = dict(config)
        # Files of version 0.1 have it here.
        if config.pop("pad_layer_norm", False):
            warnings.warn(
                "`pad_layer_norm` is an option of the model's pruning now: "
                "`kprune.prune(model, ..., pad_layer_norm=True)`, and of "
                "`kprune.PruningScheduler`.",
                stacklevel=2,
            )
        return cls(**config)


@_register
@dataclasses.dataclass(frozen=True)
class NM(_Savable):
    """At most `n` of every `m` consecutive weights along the input axis stay.

    The input axis is the last but one: the inputs of a Dense, the input
    channels of a convolution. Where `m` does not divide its length `l`, the
    last group has `l % m` weights and keeps at most `n` of them, as if it were
    filled up with zeros. Ties keep the lower index.

    The sparsity is fixed by the pattern, `1 - n / m`: the mask keeps all until
    the schedule asks for at least that much, and then follows the pattern.

    Args:
        n: Positive integer, less than `m`. The weights that stay in a group.
        m: Integer. The size of a group.

    Example:

    >>> kernel_scores = np.array([[1.], [4.], [2.], [3.]])
    >>> kprune.granularities.NM(2, 4)(kernel_scores, 0.5).ravel()
    array([False,  True, False,  True])
    >>> kprune.granularities.NM(2, 4)(kernel_scores, 0.4).ravel()
    array([ True,  True,  True,  True])

    Reference:

    - [Zhou et al., 2021](https://arxiv.org/abs/2102.04010)
    """

    n: int = 2
    m: int = 4

    def __post_init__(self):
        if _positive("n", self.n) >= _positive("m", self.m):
            raise ValueError(
                "`NM(n, m)` keeps n of every m weights, so n must be less "
                f"than m. Received: n={self.n!r}, m={self.m!r}"
            )

    @property
    def sparsity(self) -> float:
        """Float. The fraction of zeros of the pattern."""
        return 1 - self.n / self.m

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        if sparsity < self.sparsity - 1e-9:
            return np.ones(scores.shape, bool)
        axis = max(scores.ndim - 2, 0)
        columns = np.moveaxis(scores, axis, -1)
        length = columns.shape[-1]
        padding = [(0, 0)] * (columns.ndim - 1) + [(0, -length % self.m)]
        padded = np.pad(
            columns.astype(np.float64), padding, constant_values=-np.inf
        )
        groups = padded.reshape(*padded.shape[:-1], -1, self.m)
        order = np.argsort(-groups, axis=-1, kind="stable")
        mask = np.zeros(groups.shape, bool)
        np.put_along_axis(mask, order[..., : self.n], True, axis=-1)
        mask = mask.reshape(padded.shape)[..., :length]
        return np.ascontiguousarray(np.moveaxis(mask, -1, axis))


@_register
@dataclasses.dataclass(frozen=True)
class Block(_Savable):
    """Whole blocks of neighbouring weights go.

    The shape lies on the last axes of the scores: `(4, 1)` is 4 inputs by 1
    output in a Dense and in every pixel of a convolution. A block is scored by
    the mean of its scores. A block that overhangs the edge has only the
    weights inside, and its mean is over those. The count is in blocks:
    `floor(blocks * sparsity)` go, so a kernel with cut blocks can end a little
    above or below the sparsity.

    Args:
        shape: Tuple of positive integers, no longer than the kernel's rank.

    Example:

    >>> scores = np.array([[1., 1., 5.], [1., 1., 5.]])
    >>> kprune.granularities.Block((2, 2))(scores, 0.5)
    array([[False, False,  True],
           [False, False,  True]])

    Reference:

    - [Narang et al., 2017](https://arxiv.org/abs/1711.02782)
    """

    shape: tuple = (4, 1)

    def __post_init__(self):
        if not isinstance(self.shape, (tuple, list)) or not self.shape:
            raise ValueError(
                "`shape` must be a tuple of positive integers. "
                f"Received: shape={self.shape!r}"
            )
        shape = tuple(_positive("shape", size) for size in self.shape)
        object.__setattr__(self, "shape", shape)

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        if len(self.shape) > scores.ndim:
            raise ValueError(
                f"`Block(shape={self.shape})` has more axes than the kernel "
                f"of shape {scores.shape}. Give a shape for its last axes, "
                f"such as `Block({self.shape[-scores.ndim :]})`."
            )
        block = (1,) * (scores.ndim - len(self.shape)) + self.shape
        totals = scores.astype(np.float64)
        counts = np.ones((1,) * scores.ndim)
        for axis, (length, size) in enumerate(zip(scores.shape, block)):
            starts = np.arange(0, length, size)
            totals = np.add.reduceat(totals, starts, axis=axis)
            along = [1] * scores.ndim
            along[axis] = len(starts)
            widths = np.minimum(starts + size, length) - starts
            counts = counts * widths.reshape(along)
        means = totals / counts
        mask = keep_highest(means, removed_count(means.size, sparsity))
        for axis, (length, size) in enumerate(zip(scores.shape, block)):
            mask = np.take(mask, np.arange(length) // size, axis=axis)
        return mask

    def get_config(self) -> dict:
        """Returns the arguments of the constructor as a dict."""
        return {"shape": list(self.shape)}


def mean_square(scores: np.ndarray, axis: int) -> np.ndarray:
    """The mean square of each slice along an axis, over that of all of it.

    Of negative scores the square is taken as negative, so that slices come in
    the order of their scores.

    Args:
        scores: Array.
        axis: Integer, not negative.

    Returns:
        Float64 array, one value for each index along the axis. Their mean is 1
        unless scores are negative, or all zero.

    Example:

    >>> kprune.granularities.mean_square(np.array([[1., 3.], [-1., 3.]]), 1)
    array([0. , 1.8])

    Reference:

    - [Fang et al., 2023](https://arxiv.org/abs/2301.12900)
    """
    length = scores.shape[axis]
    outer = math.prod(scores.shape[:axis])
    block = scores.reshape(outer, length, -1)
    sizes = block
    if block.size and block.min() < 0:
        sizes = np.abs(block)
    means, weight = np.zeros(length), block.size / max(length, 1)
    if weight:
        totals = np.einsum("oci,oci->c", block, sizes, dtype=np.float64)
        means = totals / weight
        if sizes is not block:
            totals = np.einsum("oci,oci->c", sizes, sizes, dtype=np.float64)
        scale = totals.sum() / block.size
        if scale > 0:
            means /= scale
    return means


_BUILT_IN: dict[str, Granularity] = {
    "block": Block(),
    "filter": Filter(),
    "nm": NM(),
    "unstructured": Unstructured(),
}


def get(identifier: Granularity | str) -> Granularity:
    """Returns the granularity that `identifier` stands for.

    Args:
        identifier: The name of a built-in granularity, `"unstructured"`,
            `"filter"`, `"nm"` or `"block"`, or a callable from scores and
            sparsity to a mask.

    Returns:
        A callable from scores and sparsity to a boolean mask.

    Raises:
        ValueError: If there is no such granularity.

    Example:

    >>> kprune.granularities.get("filter")
    Filter(multiple_of=1)
    """
    if isinstance(identifier, str) and identifier.lower() in _BUILT_IN:
        return _BUILT_IN[identifier.lower()]
    if callable(identifier) and not isinstance(identifier, type):
        return identifier
    raise ValueError(
        "Unknown granularity. Expected a callable from scores and sparsity to "
        f"a mask, or one of {sorted(_BUILT_IN)}. Received: {identifier!r}"
    )
