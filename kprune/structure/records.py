"""What the walk hands to the rules, and what it writes down."""

import dataclasses
import functools
import inspect
from typing import Any

import keras
import numpy as np

from kprune.structure.slots import Channels

Axes = dict[int, Channels]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor on the walk.

    Args:
        shape: Tuple of integers and `None`, the batch axis included.
        axes: Dict from an axis to the channels along it. An axis that is not
            in it (model input, space, time) is of no interest.
        dtype: String.
        has_mask: Boolean. Whether it carries a mask, such as that of an
            Embedding with `mask_zero=True`, or can.
    """

    shape: tuple
    axes: Axes
    dtype: str | None = None
    has_mask: bool = False


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """What a rule sees of one call.

    Args:
        layer: The layer or operation, unwrapped.
        args: Tuple of the positional arguments, `Tensor`s in their places.
        kwargs: Dict of the keyword arguments, likewise.
        output_shapes: Tuple of shapes.
        key: Integer that tells the call from others of the same layer.

    Example:

    >>> x = kprune.structure.Tensor((None, 5, 8), axes={})
    >>> mask = kprune.structure.Tensor((None, 5), axes={}, dtype="bool")
    >>> call = kprune.structure.LayerCall(
    ...     keras.layers.LSTM(4), (x,), {"mask": mask}, ((None, 4),), key=0)
    >>> [tensor.shape for tensor in call.inputs]
    [(None, 5, 8)]
    >>> [tensor.shape for tensor in call.masks]
    [(None, 5)]
    """

    layer: Any
    args: tuple
    kwargs: dict
    output_shapes: tuple
    key: int

    def named(self) -> dict:
        """The arguments of the call by their names; those not given lack."""
        signature = inspect.signature(self.layer.call)
        return signature.bind(*self.args, **self.kwargs).arguments

    @functools.cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """All `Tensor`s among the arguments but masks."""
        return self._split[0]

    @functools.cached_property
    def masks(self) -> tuple[Tensor, ...]:
        """The masks among the arguments, given by the user or by Keras.

        They are what goes by the name `mask`, or by one that ends in
        `_mask`, behind the first argument. The walk freezes their axes.
        """
        return self._split[1]

    @functools.cached_property
    def _split(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        inputs: list[Tensor] = []
        masks: list[Tensor] = []
        signature = inspect.signature(self.layer.call)
        first = next(iter(signature.parameters))
        named = self.named()
        for name, argument in named.items():
            kind = signature.parameters[name].kind
            is_open = kind is inspect.Parameter.VAR_KEYWORD
            given = argument if is_open else {name: argument}
            for key, value in given.items():
                is_mask = key != first and f"_{key}".endswith("_mask")
                found = masks if is_mask else inputs
                found.extend(
                    item
                    for item in keras.tree.flatten(value)
                    if isinstance(item, Tensor)
                )
        return tuple(inputs), tuple(masks)


@dataclasses.dataclass(frozen=True)
class Binding:
    """One axis of one variable, and the slots along it.

    Args:
        layer: The layer that owns the variable.
        variable: `keras.Variable`.
        axis: Integer.
        slots: Integer array of the axis' length.
        role: `"out"` where the axis makes the slots, `"in"` where it reads
            them, `"through"` where it goes along (norms, depthwise kernels).
    """

    layer: Any
    variable: keras.Variable
    axis: int
    slots: np.ndarray
    role: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """One call that sums over channels with a kernel.

    Args:
        layer: The layer that is called.
        variable: The kernel.
        in_axis: Integer: the kernel's axis that is summed over.
        channels: The `Channels` that are read.
        out_slots: The slots along the kernel's output axis.
        linked: Boolean array of shape `(inputs, outputs)`: whether any weight
            links them.
        bias: `keras.Variable` that a constant input can be folded into, or
            `None`.
    """

    layer: Any
    variable: keras.Variable
    in_axis: int
    channels: Channels
    out_slots: np.ndarray
    linked: np.ndarray
    bias: keras.Variable | None


@dataclasses.dataclass(frozen=True)
class Merge:
    """One call that makes one tensor of several.

    Args:
        layer: The layer or operation that is called.
        slots: Integer array: the slots of what it makes.
        after: Integer. How many bindings were written down before.
    """

    layer: Any
    slots: np.ndarray
    after: int


@dataclasses.dataclass(frozen=True)
class Sum:
    """One call that mixes channels without weights, so that only 0 can go.

    Args:
        layer: The layer or operation that is called.
        channels: The `Channels` that it mixes.
        reason: String. Why none of them is cut without an option that the
            user can set, or empty.
    """

    layer: Any
    channels: Channels
    reason: str
