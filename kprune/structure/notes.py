"""What a walk over a model writes down."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from kprune import weights
from kprune.structure.records import (
    Axes,
    Binding,
    LayerCall,
    Merge,
    Reading,
    Sum,
    Tensor,
)
from kprune.structure.slots import Channels, SlotTable, unknown


class Notes:
    """Which slots there are, what ties them, and what changes with them.

    Args:
        weigh: Boolean. As `kprune.structure.walk.Walk` takes it.
    """

    def __init__(self, weigh: bool):
        self.weigh = weigh
        self.table = SlotTable()
        # By the id of a variable and its axis.
        self.bindings: dict[tuple[int, int], Binding] = {}
        self.readings: list[Reading] = []
        self.sums: list[Sum] = []
        self.merges: list[Merge] = []
        # By the ids of layers, variables and calls, as the methods say.
        self.configs: dict[
            tuple[int, str | tuple], tuple[np.ndarray, Callable | None]
        ] = {}
        self.scales: dict[
            int, tuple[np.ndarray, Callable[[int, int], float]]
        ] = {}
        self.edits: dict[int, tuple[np.ndarray, Callable]] = {}
        self.padded: dict[int, tuple[np.ndarray, int, str | None]] = {}
        self.operations: dict[int, Any] = {}
        self.held: list[tuple[Any, Any, Any]] = []
        self.balanced: list[tuple[np.ndarray, np.ndarray]] = []
        self.visited: dict[int, Any] = {}

    def variable(self, layer: Any, name: str) -> keras.Variable | None:
        """The layer's own variable of that name, `None` if it has none."""
        for variable in layer.weights:
            if variable.name == name:
                return variable
        return None

    def produce(
        self, layer: Any, variable: keras.Variable, axis: int
    ) -> np.ndarray:
        """The slots that a variable's axis makes, the same at every call."""
        key = (id(variable), axis)
        if key not in self.bindings:
            slots = self.table.fresh(variable.shape[axis])
            self.bindings[key] = Binding(layer, variable, axis, slots, "out")
        return self.bindings[key].slots

    def bind(
        self,
        layer: Any,
        variable: keras.Variable | None,
        axis: int,
        slots: np.ndarray,
        role: str = "through",
    ) -> None:
        """Ties a variable's axis to slots; `None` as variable is no harm."""
        if variable is None:
            return
        if len(slots) != variable.shape[axis]:
            raise ValueError(
                f"A rule gives {len(slots)} slots to axis {axis} of "
                f"'{variable.path}', a variable of shape "
                f"{tuple(variable.shape)}. Correct the rule of "
                f"{type(layer).__name__}."
            )
        key = (id(variable), axis)
        if key in self.bindings:
            self.table.tie(self.bindings[key].slots, slots)
        else:
            self.bindings[key] = Binding(layer, variable, axis, slots, role)

    def hold(self, layer: Any, owner: Any, place: int | str | tuple) -> None:
        """Says that a call needs an axis or a number in its full length.

        What another call of the same layer has along it stays too, then.

        Args:
            layer: The layer that is called with channels that stay.
            owner: The variable, or the layer that has the config; `None` is
                no harm.
            place: The variable's axis, or the key in the config as `resize`
                takes it.
        """
        self.held.append((layer, owner, place))

    def sum_over(
        self, layer: Any, channels: Channels, reason: str = ""
    ) -> None:
        """Says that a call mixes channels without weights.

        A sum, a mean square, a product of two tensors: exact only if what
        goes is 0, so groups that are not 0 once they are masked stay.

        Args:
            layer: The layer or operation.
            channels: The `Channels` that it mixes.
            reason: String. Why none of them is cut without an option that
                the user can set.
        """
        if self.weigh:
            self.sums.append(Sum(layer, channels, reason))
        else:
            self.table.freeze(
                channels.slots[channels.constants != 0],
                f"'{layer.name}' sums over it, and masked it is not 0",
            )

    def resize(
        self,
        layer: Any,
        key: str | tuple,
        slots: np.ndarray,
        new: Callable[[Any, np.ndarray], Any] | None = None,
    ) -> None:
        """Says that something in a config changes with these slots.

        Args:
            layer: The layer or operation.
            key: The name in the config, or a tuple: the name, and the keys
                and indices that lead to what changes in its value.
            slots: Integer array.
            new: Callable `(old value, keep) -> new value`, where `keep` is a
                boolean array as long as `slots`. `None` stands for the number
                of slots that are kept.
        """
        self.operations[id(layer)] = layer
        known, _ = self.configs.setdefault((id(layer), key), (slots, new))
        self.table.tie(known, slots)

    def rescale(
        self,
        layer: Any,
        variable: keras.Variable | None,
        slots: np.ndarray,
        factor: Callable[[int, int], float],
    ) -> None:
        """Says that a variable's values are multiplied when slots go.

        Args:
            layer: The layer that owns the variable.
            variable: `keras.Variable`; `None` is no harm.
            slots: Integer array.
            factor: Callable `(number of slots, number kept) -> float`.
        """
        if variable is not None:
            self.scales.setdefault(id(variable), (slots, factor))

    def pad(self, layer: Any, slots: np.ndarray, like: Tensor) -> None:
        """Says that a layer sees zeros where these slots go.

        In the rebuilt model it stands between a pad of its last axis and a
        slice, and its weights keep their length.

        Args:
            layer: A layer whose outputs have the shape of its input.
            slots: Integer array: the slots along the last axis.
            like: `Tensor`: its input.
        """
        known, rank, dtype = self.padded.setdefault(
            id(layer), (slots, len(like.shape), like.dtype)
        )
        self.table.tie(known, slots)
        if id(layer) not in self.visited:
            self.table.freeze(slots, f"'{layer.name}' is inside another layer")
        if (rank, dtype) != (len(like.shape), like.dtype):
            reason = f"'{layer.name}' takes tensors of several ranks or dtypes"
            self.table.freeze(slots, reason)

    def edit(
        self,
        call: LayerCall,
        slots: np.ndarray,
        change: Callable[[tuple, dict, np.ndarray], tuple],
    ) -> None:
        """Says that the arguments of a call change with these slots.

        Args:
            call: The `LayerCall`.
            slots: Integer array.
            change: Callable `(args, kwargs, keep) -> (args, kwargs)`, where
                `keep` is a boolean array as long as `slots`, and the
                arguments have the new model's tensors in place.
        """
        known, _ = self.edits.setdefault(call.key, (slots, change))
        self.table.tie(known, slots)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Says that equal positions of two arrays of slots go together."""
        self.table.tie(first, second)

    def balance(self, first: np.ndarray, second: np.ndarray) -> None:
        """Says that as many slots of the one array stay as of the other."""
        self.balanced.append((first, second))

    def fresh_frozen(self, length: int, reason: str) -> Channels:
        """Channels of an axis that nothing is known about: they stay."""
        slots = self.table.fresh(length)
        self.table.freeze(slots, reason)
        return Channels(slots, unknown(length))

    def freeze(self, axes: Axes, reason: str, but: int | None = None) -> None:
        """Says that all channels of a tensor stay, and why.

        Args:
            axes: The axes of a tensor.
            reason: String.
            but: An axis to leave out.
        """
        for axis, channels in axes.items():
            if axis != but:
                self.table.freeze(channels.slots, reason)

    def keep(self, layer: Any, reason: str) -> None:
        """Says that all channels which a layer makes stay, and why.

        Args:
            layer: The layer or operation.
            reason: String.
        """
        if isinstance(layer, keras.layers.Layer):
            for kernel in weights.all_kernels(layer).values():
                slots = self.produce(layer, kernel, len(kernel.shape) - 1)
                self.table.freeze(slots, reason)

    def refuse(
        self, layer: Any, tensors: Iterable[Tensor], reason: str
    ) -> None:
        """Says that nothing is cut of what a call reads and makes, and why.

        Args:
            layer: The layer or operation.
            tensors: The `Tensor`s that it is called with.
            reason: String.
        """
        for tensor in tensors:
            self.freeze(tensor.axes, reason)
        self.keep(layer, reason)

    def keep_rest(self) -> None:
        """Keeps what no rule has said anything of."""
        said = {
            id(b.variable)
            for b in self.bindings.values()
            if b.role != "in" and b.variable.ndim > 1
        }
        for layer in self.visited.values():
            if isinstance(layer, keras.layers.Layer) and not any(
                id(variable) in said for variable in layer.weights
            ):
                reason = f"'{layer.name}' makes no channels that can be cut"
                self.keep(layer, reason)

    def merge(self, operation: Any, outputs: list[Axes]) -> None:
        """Says that an operation makes these outputs of several tensors."""
        slots = [c.slots for axes in outputs for c in axes.values()]
        if slots:
            merge = Merge(operation, np.concatenate(slots), len(self.bindings))
            self.merges.append(merge)

    def freeze_held(self) -> None:
        """Freezes what calls need in its full length."""
        for layer, owner, place in self.held:
            key = (id(owner), place)
            reason = f"'{layer.name}' also takes what cannot be cut"
            if key in self.bindings:
                self.table.freeze(self.bindings[key].slots, reason)
            if key in self.configs:
                self.table.freeze(self.configs[key][0], reason)
