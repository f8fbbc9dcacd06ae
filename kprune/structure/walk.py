"""The walk over a model's calls that finds which channels belong together."""

import dataclasses

import keras
import numpy as np

from kprune import layers, weights
from kprune.structure import functional, rules
from kprune.structure.slots import Channels, SlotTable, unknown

Axes = dict[int, Channels]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor on the walk.

    Args:
        shape: Tuple of integers and `None`, the batch axis included.
        axes: Dict from an axis to the channels along it. An axis that is not
            in it (model input, space, time) is of no interest.
    """

    shape: tuple
    axes: Axes


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """What a rule sees of one call.

    Args:
        layer: The layer or operation, unwrapped.
        inputs: Tuple of `Tensor`.
        output_shapes: Tuple of shapes.
    """

    layer: object
    inputs: tuple
    output_shapes: tuple


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

    layer: object
    variable: object
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

    layer: object
    variable: object
    in_axis: int
    channels: Channels
    out_slots: np.ndarray
    linked: np.ndarray
    bias: object


class Walk:
    """Follows channels through a model; the rules write down what they find.

    Args:
        model: A built Sequential or Functional model.
        weigh: Boolean. Whether to look at the weights too, to find channels
            that are constant whatever the input is. Without it only the
            structure counts.
    """

    def __init__(self, model, weigh: bool):
        self.weigh = weigh
        self.table = SlotTable()
        self.bindings = {}
        self.readings = []
        self.sizes = {}
        self.layers = {}
        self.masks = {}
        self.visited = set()
        outputs = self._follow(model, [{} for _ in model.inputs])
        for tensor, axes in zip(model.outputs, outputs):
            self.freeze(axes, f"it is an output of the model ({tensor.name})")

    # What rules call.

    def variable(self, layer, name: str):
        """The layer's own variable of that name, `None` if it has none."""
        for variable in layer.weights:
            if variable.name == name:
                return variable
        return None

    def value(self, variable) -> np.ndarray:
        """The weights that count: masked ones are 0."""
        return weights.masked_value(variable, self.masks.get(id(variable)))

    def produce(self, layer, variable, axis: int) -> np.ndarray:
        """The slots that a variable's axis makes, the same at every call."""
        key = (id(variable), axis)
        if key not in self.bindings:
            slots = self.table.fresh(variable.shape[axis])
            self.bindings[key] = Binding(layer, variable, axis, slots, "out")
        return self.bindings[key].slots

    def bind(self, layer, variable, axis: int, slots, role="through") -> None:
        """Ties a variable's axis to slots; `None` as variable is no harm."""
        if variable is None:
            return
        key = (id(variable), axis)
        if key in self.bindings:
            self.table.tie(self.bindings[key].slots, slots)
        else:
            self.bindings[key] = Binding(layer, variable, axis, slots, role)

    def contract(
        self, layer, kernel, in_axis, out_axis, channels, bias, folds
    ) -> Channels:
        """Reads channels with a kernel and makes those of its output.

        Args:
            layer: The layer.
            kernel: Its kernel variable.
            in_axis: The kernel's axis that is summed over.
            out_axis: The kernel's axis of output channels.
            channels: The `Channels` that are read, `None` where the input has
                none along that axis.
            bias: The bias variable or `None`.
            folds: Boolean. Whether a constant input adds a constant to the
                output everywhere (no padding that cuts it off).

        Returns:
            The `Channels` of the output.
        """
        slots = self.produce(layer, kernel, out_axis)
        self.bind(layer, bias, 0, slots)
        if channels is not None:
            self.bind(layer, kernel, in_axis, channels.slots, "in")
        if not self.weigh:
            return Channels(slots, unknown(len(slots)))
        value = np.moveaxis(self.value(kernel), (in_axis, out_axis), (-2, -1))
        space = tuple(range(value.ndim - 2))
        linked = (value != 0).any(axis=space)
        constants = np.zeros(len(slots))
        varying = np.ones(len(linked), bool)
        if channels is not None:
            if not folds:
                channels = channels.zeros_only()
            varying = np.isnan(channels.constants)
            known = np.where(varying, 0.0, channels.constants)
            if known.any():
                constants += known @ value.sum(axis=space, dtype=np.float64)
            self.readings.append(
                Reading(layer, kernel, in_axis, channels, slots, linked, bias)
            )
        if bias is not None:
            constants = constants + self.value(bias)
        constants[linked[varying].any(axis=0)] = np.nan
        return Channels(slots, constants)

    def resize(self, layer, key, slots) -> None:
        """Says that a number in a layer's config counts these slots.

        Args:
            layer: The layer.
            key: The name in the config, or a tuple `(name, index)`.
            slots: Integer array.
        """
        self.layers[id(layer)] = layer
        known = self.sizes.setdefault((id(layer), key), slots)
        self.table.tie(known, slots)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Says that equal positions of two arrays of slots go together."""
        self.table.tie(first, second)

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

    # The walk itself.

    def _follow(self, model, inputs: list[Axes]) -> list[Axes]:
        traced = {
            id(tensor): Tensor(tuple(tensor.shape), axes)
            for tensor, axes in zip(model.inputs, inputs)
        }
        for call in functional.calls(model):
            arguments = tuple(traced[id(tensor)] for tensor in call.inputs)
            shapes = tuple(tuple(tensor.shape) for tensor in call.outputs)
            outputs = self._apply(call.operation, arguments, shapes)
            for tensor, shape, axes in zip(call.outputs, shapes, outputs):
                traced[id(tensor)] = Tensor(shape, axes)
        return [traced[id(tensor)].axes for tensor in model.outputs]

    def _apply(self, operation, inputs, output_shapes) -> list[Axes]:
        if isinstance(operation, layers.PrunableLayer):
            for name, variable in operation.maskable.items():
                self.masks[id(variable)] = operation.masks[name]
            operation = operation.layer
        self.visited.add(id(operation))
        if functional.has_graph(operation):
            return self._follow(operation, [tensor.axes for tensor in inputs])
        rule = rules.rule_for(operation)
        refusal = _refusal(operation) if rule else rules.no_rule(operation)
        if refusal is None:
            return rule(self, LayerCall(operation, inputs, output_shapes))
        for tensor in inputs:
            self.freeze(tensor.axes, refusal)
        return [{} for _ in output_shapes]


def _refusal(layer) -> str | None:
    """Why a layer whose kind has a rule is not cut all the same."""
    if not isinstance(layer, keras.layers.Layer):
        return None
    if getattr(layer, "quantization_mode", None) is not None:
        return f"'{layer.name}' is quantized"
    if getattr(layer, "lora_enabled", False):
        return f"'{layer.name}' has LoRA weights; merge them first"
    return None
