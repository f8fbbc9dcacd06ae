"""The walk over a model's calls that finds which channels belong together."""

import keras
import numpy as np

from kprune import layers, weights
from kprune.structure import functional, rules
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


class Walk:
    """Follows channels through a model; the rules write down what they find.

    Args:
        model: A built Sequential or Functional model.
        weigh: Boolean. Whether to look at the weights too: then the
            constants of channels are what they are now. Without it only the
            structure counts, and the constants are what they will be once
            the channel's unit is masked.
        pad_layer_norm: Boolean. Whether a unit may go through a
            LayerNormalization where only the structure counts. Where weights
            do, what is zero goes.
    """

    def __init__(self, model, weigh: bool, pad_layer_norm: bool = False):
        self.weigh = weigh
        self.pad_layer_norm = pad_layer_norm
        self.table = SlotTable()
        self.bindings = {}
        self.readings = []
        self.sums = []
        self.merges = []
        self.configs = {}
        self.scales = {}
        self.edits = {}
        self.padded = {}
        self.operations = {}
        self.held = []
        self.balanced = []
        self.spans = {}
        self.masks = {}
        self.visited = set()
        self._is_inside_masked = False
        self._has_masks = bool(functional.prunable_layers(model))
        self._owners = functional.owners(model)
        outputs = self._follow(model, [{} for _ in model.inputs])
        for tensor, axes in zip(model.outputs, outputs):
            self.freeze(axes, f"it is an output of the model ({tensor.name})")
        self._freeze_held()

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

    def hold(self, layer, owner, place) -> None:
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
        if channels is None:
            self.hold(layer, kernel, in_axis)
        else:
            self.bind(layer, kernel, in_axis, channels.slots, "in")
        if not self.weigh:
            return self.once_masked(kernel, slots)
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

    def project(self, layer, kernel, reads, makes, bias, bias_axes) -> dict:
        """As `contract`, for kernels that sum over or make several axes.

        Args:
            layer: The layer.
            kernel: Its kernel variable.
            reads: Dict from a kernel's axis that is summed over to the
                `Channels` that are read, or `None`.
            makes: Tuple of the kernel's axes that are made.
            bias: The bias variable or `None`.
            bias_axes: Dict from an axis in `makes` to the bias' axis.

        Returns:
            Dict from an axis in `makes` to the `Channels` of it.
        """
        made = {axis: self.produce(layer, kernel, axis) for axis in makes}
        for axis, bias_axis in bias_axes.items():
            self.bind(layer, bias, bias_axis, made[axis])
        for axis, channels in reads.items():
            if channels is None:
                self.hold(layer, kernel, axis)
            else:
                self.bind(layer, kernel, axis, channels.slots, "in")
        if not self.weigh:
            outputs = {}
            for axis, slots in made.items():
                outputs[axis] = self.once_masked(kernel, slots)
                if bias is not None and axis not in bias_axes:
                    # The bias stays where the kernel is masked.
                    outputs[axis] = outputs[axis].varying()
            return outputs
        filled = self.value(kernel) != 0
        for axis, channels in reads.items():
            if channels is not None:
                self.read(
                    layer,
                    kernel,
                    axis,
                    channels,
                    made[makes[0]],
                    _any(filled, (axis, makes[0])),
                )
        bias_filled = None if bias is None else self.value(bias) != 0
        outputs = {}
        for axis, slots in made.items():
            varies = _any(filled, (axis,))
            if bias is not None:
                varies |= (
                    _any(bias_filled, (bias_axes[axis],))
                    if axis in bias_axes
                    else bias_filled.any()
                )
            outputs[axis] = Channels(slots, np.where(varies, np.nan, 0.0))
        return outputs

    def read(self, layer, kernel, axis, channels, out_slots, linked) -> None:
        """Says that a kernel sums over channels, `Reading` by `Reading`.

        Args:
            layer: The layer.
            kernel: Its kernel variable.
            axis: The kernel's axis that is summed over.
            channels: The `Channels` that are read.
            out_slots: The slots that are made of them.
            linked: Boolean array of shape `(channels, out_slots)`: whether
                any weight links them.
        """
        self.readings.append(
            Reading(layer, kernel, axis, channels, out_slots, linked, None)
        )

    def look_up(self, layer, table, axis: int) -> Channels:
        """The channels that rows of a table have along its other axis.

        Args:
            layer: The layer.
            table: The variable, such as embeddings of shape `(rows, width)`.
            axis: The axis of the channels.

        Returns:
            The `Channels`.
        """
        slots = self.produce(layer, table, axis)
        if not self.weigh:
            return self.once_masked(table, slots)
        value = np.moveaxis(self.value(table), axis, -1)
        value = value.reshape(-1, len(slots))
        same = (value == value[0]).all(axis=0)
        return Channels(slots, np.where(same, value[0], np.nan))

    def once_masked(self, kernel, slots) -> Channels:
        """What a kernel makes of slots whose units are masked: zeros.

        Unless the model has masks, and this kernel has none.
        """
        if self._has_masks and id(kernel) not in self.masks:
            return Channels(slots, unknown(len(slots)))
        return Channels(slots, np.zeros(len(slots)))

    def sum_over(self, layer, channels: Channels, reason="") -> None:
        """Says that a call mixes channels without weights.

        A sum, a mean square, a product of two tensors: exact only if what
        goes is 0, so units that are not 0 once they are masked stay.

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

    def resize(self, layer, key, slots, new=None) -> None:
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

    def rescale(self, layer, variable, slots, factor) -> None:
        """Says that a variable's values are multiplied when slots go.

        Args:
            layer: The layer that owns the variable.
            variable: `keras.Variable`; `None` is no harm.
            slots: Integer array.
            factor: Callable `(number of slots, number kept) -> float`.
        """
        if variable is not None:
            self.scales.setdefault(id(variable), (slots, factor))

    def pad(self, layer, slots, like: Tensor) -> None:
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

    def edit(self, call: LayerCall, slots, change) -> None:
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

    def refusal(self, layer) -> str | None:
        """Why a layer whose kind has a rule is not cut all the same.

        Args:
            layer: A layer or an operation.

        Returns:
            The reason, `None` if it can be cut.
        """
        if not isinstance(layer, keras.layers.Layer):
            return None
        if getattr(layer, "quantization_mode", None) is not None:
            return f"'{layer.name}' is quantized"
        if getattr(layer, "lora_enabled", False):
            return f"'{layer.name}' has LoRA weights; merge them first"
        for variable in layer.weights:
            owners = self._owners[id(variable)]
            if len(owners) > 1:
                return f"{' and '.join(map(repr, owners))} share weights"
        return None

    # The walk itself.

    def _freeze_held(self) -> None:
        for layer, owner, place in self.held:
            key = (id(owner), place)
            reason = f"'{layer.name}' also takes what cannot be cut"
            if key in self.bindings:
                self.table.freeze(self.bindings[key].slots, reason)
            if key in self.configs:
                self.table.freeze(self.configs[key][0], reason)

    def _follow(self, model, inputs: list[Axes]) -> list[Axes]:
        traced = {
            id(tensor): self._tensor(tensor, axes)
            for tensor, axes in zip(model.inputs, inputs)
        }
        for call in functional.calls(model):
            outputs = self._apply(call, traced)
            for tensor, axes in zip(call.outputs, outputs):
                traced[id(tensor)] = self._tensor(tensor, axes)
        return [traced[id(tensor)].axes for tensor in model.outputs]

    def _note_merge(self, operation, outputs) -> None:
        slots = [c.slots for axes in outputs for c in axes.values()]
        if slots:
            merge = Merge(operation, np.concatenate(slots), len(self.bindings))
            self.merges.append(merge)

    def _tie_calls(self, model, inputs) -> None:
        """A nested model takes tensors of the same lengths at every call."""
        for place, tensor in enumerate(inputs):
            for axis in range(1, len(tensor.shape)):
                key = ("inputs", place, axis)
                if axis in tensor.axes:
                    self.resize(model, key, tensor.axes[axis].slots)
                else:
                    self.hold(model, model, key)

    def _tensor(self, tensor, axes) -> Tensor:
        for channels in axes.values():
            self.spans[id(channels.slots)] = channels.slots
        # A nested model's own graph does not know what it is called with.
        has_mask = self._is_inside_masked or functional.has_mask(tensor)
        return Tensor(tuple(tensor.shape), axes, tensor.dtype, has_mask)

    def _apply(self, call, traced) -> list[Axes]:
        operation = call.operation
        if isinstance(operation, layers.PrunableLayer):
            for name, variable in operation.maskable.items():
                self.masks[id(variable)] = operation.masks[name]
            operation = operation.layer
        self.visited.add(id(operation))
        inputs = tuple(traced[id(tensor)] for tensor in call.inputs)
        if functional.has_graph(operation):
            outside = self._is_inside_masked
            self._is_inside_masked = any(x.has_mask for x in inputs)
            self._tie_calls(operation, inputs)
            outputs = self._follow(operation, [x.axes for x in inputs])
            self._is_inside_masked = outside
            return outputs
        rule = rules.rule_for(operation)
        refusal = self.refusal(operation) if rule else rules.no_rule(operation)
        if refusal is None:
            args, kwargs = call.fill_in(traced)
            shapes = tuple(tuple(tensor.shape) for tensor in call.outputs)
            key = id(call.outputs[0])
            outputs = rule(
                self, LayerCall(operation, inputs, shapes, args, kwargs, key)
            )
            rules.check_outputs(operation, rule, outputs, shapes)
            for axes in outputs:
                reason = f"'{operation.name}' puts it in the batch's place"
                self.freeze({0: axes.pop(0)} if 0 in axes else {}, reason)
            if len(inputs) > 1:
                self._note_merge(operation, outputs)
            return outputs
        for tensor in inputs:
            self.freeze(tensor.axes, refusal)
        return [{} for _ in call.outputs]


def _any(filled, axes: tuple) -> np.ndarray:
    """Whether any element is True along all axes but those, in their order."""
    others = tuple(set(range(filled.ndim)) - set(axes))
    reduced = filled.any(axis=others)
    order = sorted(axes)
    return reduced.transpose([order.index(axis) for axis in axes])
