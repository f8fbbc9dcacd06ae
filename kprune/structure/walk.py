"""What rules call to say how channels go through a layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune import weights
from kprune.prunable import prunable_layers
from kprune.structure.following import Follower
from kprune.structure.notes import Notes
from kprune.structure.records import Axes, Reading
from kprune.structure.slots import Channels, unknown
from kprune.wrappers import owners


class Walk(Notes):
    """Follows channels through a model; the rules write down what they find.

    Args:
        model: A built Sequential or Functional model.
        weigh: Boolean. Whether to look at the weights too: then the
            constants of channels are what they are now. Without it only the
            structure counts, and the constants are what they will be once
            the channel's group is masked.
        pad_layer_norm: Boolean. Whether a group may go through a
            LayerNormalization where only the structure counts. Where weights
            do, what is zero goes.
        masks: Mapping from the id of a variable to its mask, in place of those
            that the model holds.

    Example:

    ```python
    @kprune.structure.register_rule(Shift)  # adds a vector of its own
    def shift(walk: Walk, call: LayerCall):
        (x,) = call.inputs
        last = len(x.shape) - 1
        if last not in x.axes:
            return [{}]
        channels = x.axes[last]
        walk.bind(call.layer, call.layer.shift, 0, channels.slots)
        return [{last: channels.varying()}]
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        weigh: bool,
        pad_layer_norm: bool = False,
        masks: Mapping[int, Any] | None = None,
    ):
        super().__init__(weigh)
        self.pad_layer_norm = pad_layer_norm
        self.spans: dict[int, np.ndarray] = {}
        self.masks: dict[int, Any] = dict(masks or {})
        self._has_masks = bool(prunable_layers(model))
        self._owners = owners(model)
        Follower(self).follow_all(model)
        self.freeze_held()
        self.keep_rest()

    # What rules call, beside what `Notes` has.

    def value(self, variable: keras.Variable) -> np.ndarray:
        """The weights that count: masked ones are 0."""
        return weights.masked_value(variable, self.masks.get(id(variable)))

    def contract(
        self,
        layer: Any,
        kernel: keras.Variable,
        in_axis: int,
        out_axis: int,
        channels: Channels | None,
        bias: keras.Variable | None,
        folds: bool,
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

    def project(
        self,
        layer: Any,
        kernel: keras.Variable,
        reads: Mapping[int, Channels | None],
        makes: Sequence[int],
        bias: keras.Variable | None,
        bias_axes: Mapping[int, int],
    ) -> Axes:
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
        outputs = {}
        for axis, slots in made.items():
            varies = _any(filled, (axis,))
            if bias is not None:
                bias_filled = self.value(bias) != 0
                varies |= (
                    _any(bias_filled, (bias_axes[axis],))
                    if axis in bias_axes
                    else bias_filled.any()
                )
            outputs[axis] = Channels(slots, np.where(varies, np.nan, 0.0))
        return outputs

    def read(
        self,
        layer: Any,
        kernel: keras.Variable,
        axis: int,
        channels: Channels,
        out_slots: np.ndarray,
        linked: np.ndarray,
    ) -> None:
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

    def look_up(self, layer: Any, table: keras.Variable, axis: int) -> Channels:
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

    def once_masked(
        self, kernel: keras.Variable, slots: np.ndarray
    ) -> Channels:
        """What a kernel makes of slots whose groups are masked: zeros.

        Unless the model has masks, and this kernel has none.
        """
        if self._has_masks and id(kernel) not in self.masks:
            return Channels(slots, unknown(len(slots)))
        return Channels(slots, np.zeros(len(slots)))

    def refusal(self, layer: Any) -> str | None:
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


def _any(filled, axes: tuple) -> np.ndarray:
    """Whether any element is True along all axes but those, in their order."""
    others = tuple(set(range(filled.ndim)) - set(axes))
    reduced = filled.any(axis=others)
    order = sorted(axes)
    return reduced.transpose([order.index(axis) for axis in axes])
