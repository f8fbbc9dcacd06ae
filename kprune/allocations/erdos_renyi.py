"""Erdos-Renyi: densities that follow from the shapes of the kernels."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from kprune.prunable import PrunableWeight, weights_of
from kprune.ranking import removed_count
from kprune.received import is_real


@dataclasses.dataclass(frozen=True)
class ErdosRenyi:
    """Large kernels lose more than small ones, by their shapes alone.

    The density of a kernel is proportional to the sum of its dimensions over
    their product. The factor is such that as many weights go as if every
    kernel lost the sparsity itself, rounded down. Where a density would pass 1
    the layer stays dense, and the others make up for it. No weight is looked
    at, so it serves where masks are drawn before any training.

    Args:
        kernel: Boolean. Whether the spatial dimensions of a kernel count, as
            in Evci et al. (ERK). `False` counts inputs and outputs only, as in
            Mocanu et al.
        power_scale: Positive float. The ratios are raised to this power: less
            than 1 makes the layers more alike.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((784,)),
    ...     kprune.PrunableDense(300),
    ...     kprune.PrunableDense(100),
    ...     kprune.PrunableDense(10),
    ... ])
    >>> shares = kprune.allocations.ErdosRenyi()(model.layers, 0.9)
    >>> [round(share, 3) for share in shares]
    [0.92, 0.77, 0.0]

    Reference:

    - [Mocanu et al., 2018](https://arxiv.org/abs/1707.04780)
    - [Evci et al., 2020](https://arxiv.org/abs/1911.11134)
    """

    kernel: bool = True
    power_scale: float = 1.0

    def __post_init__(self):
        if not isinstance(self.kernel, bool):
            raise ValueError(
                "`kernel` must be True or False. "
                f"Received: kernel={self.kernel!r}"
            )
        if not (is_real(self.power_scale) and 0 < self.power_scale < math.inf):
            raise ValueError(
                "`power_scale` must be a positive number. "
                f"Received: power_scale={self.power_scale!r}"
            )

    def __call__(self, layers: Sequence, sparsity: float) -> list[float]:
        kernels = [weights_of(layer) for layer in layers]
        removed = sum(
            removed_count(kernel.size, sparsity)
            for of_layer in kernels
            for kernel in of_layer
        )
        if not removed:
            return [0.0] * len(layers)
        sizes = np.array([sum(k.size for k in of) for of in kernels], float)
        wanted = np.array(
            [sum(k.size * self._ratio(k) for k in of) for of in kernels]
        )
        is_dense = np.zeros(len(layers), bool)
        while True:
            free = ~is_dense
            # Dense layers are paid for by the others.
            left = sizes[free].sum() - removed
            densities = wanted / sizes * (left / wanted[free].sum())
            densities[is_dense] = 1.0
            # Those of equal ratios become dense together.
            highest = densities[free].max()
            if highest <= 1.0:
                break
            is_dense |= densities == highest
        return [float(share) for share in np.maximum(1.0 - densities, 0.0)]

    def _ratio(self, kernel: PrunableWeight) -> float:
        """The density of a kernel, up to a factor."""
        inputs = math.prod(kernel.shape[axis] for axis in kernel.in_axes)
        outputs = math.prod(kernel.shape[axis] for axis in kernel.out_axes)
        dimensions = [inputs, outputs]
        if self.kernel:
            used = {*kernel.in_axes, *kernel.out_axes}
            dimensions += [
                length
                for axis, length in enumerate(kernel.shape)
                if axis not in used
            ]
        ratio = sum(dimensions) / math.prod(dimensions)
        return ratio**self.power_scale
