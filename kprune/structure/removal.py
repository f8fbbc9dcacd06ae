"""Removing channels that nothing depends on, exactly."""

import math
from collections.abc import Mapping

import keras
import numpy as np

from kprune import keras_internals
from kprune.prunable import PrunableWeight, prunable_layers, unwrapped
from kprune.structure import flattening
from kprune.structure.cloning import clone, padded
from kprune.structure.functions import config_with_functions
from kprune.structure.graph import readable
from kprune.structure.need import Need
from kprune.structure.rebuilding import Rebuilder
from kprune.structure.records import Reading
from kprune.structure.walk import Walk


def compact(model: keras.Model) -> keras.Model:
    """Makes a smaller model with equal outputs out of one with dead channels.

    It looks at the zeros in the weights, so it serves a model pruned by
    anyone. A group (channels that must be cut together, see
    `kprune.structure.channel_graph`) goes when nothing depends on it: all
    weights that read it are zero, or its value is the same whatever the input
    is. Such a constant is 0 for a filter without weights and bias behind
    ReLU; one that is not 0 is added to the readers' biases where that is
    exact. At least one channel stays on every axis.

    The outputs are those of the model in inference, up to the rounding of
    sums that have fewer terms now.

    Args:
        model: A built model without prunable layers. A subclassed one is
            flattened by a symbolic call; weights that this call does not use
            in inference are left out, with a warning.

    Returns:
        A new model, not compiled. The one that is passed is not changed.

    Raises:
        ValueError: If the model is not built, has prunable layers, or is
            subclassed with a call that cannot be traced.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    >>> kernel, bias, *others = model.get_weights()
    >>> kernel[:, 1:] = 0
    >>> model.set_weights([kernel, bias, *others])
    >>> kprune.compact(model).layers[0].units
    1
    """
    original, model = model, readable(model, "compact")
    flattening.warn_of_unused(original, model)
    if prunable_layers(model):
        raise ValueError(
            f"Model '{model.name}' has prunable layers. Use "
            "`kprune.strip(model)`: it folds their masks in and removes what "
            "they leave unused."
        )
    return remove_unused(model)


def remove_unused(
    model: keras.Model, removal: "Removal | None" = None
) -> keras.Model:
    """`compact` for a model that may have prunable layers, unwrapping them.

    Args:
        model: A built Sequential or Functional model.
        removal: Its `Removal`, where it is known already.

    Returns:
        A new model of plain Keras layers.
    """
    removal = removal or Removal(model)
    rebuilder = Rebuilder(
        removal.new_layer,
        removal.new_config,
        removal.new_arguments,
    )
    smaller = rebuilder.rebuild(model)
    rebuilder.copy_weights(removal.new_value)
    return smaller


class Removal:
    """What can be removed from a model as its weights are now.

    Args:
        model: A built Sequential or Functional model.
        masks: As `Walk` takes them.
        only: Tuple of a variable, an axis of it, and indices along it: nothing
            else may go but these channels. `None` for all.
    """

    def __init__(
        self,
        model: keras.Model,
        masks: Mapping[int, np.ndarray] | None = None,
        only: tuple[keras.Variable, int, np.ndarray] | None = None,
    ):
        self._model = model
        self._walk = Walk(model, weigh=True, masks=masks)
        self._groups = self._walk.table.solve()
        self._folding = _grouped(self._walk.readings, lambda r: id(r.bias))
        self._configs = _grouped(
            self._walk.configs.items(), lambda item: item[0][0]
        )
        # By variable: a layer may hold the layers that the graph shows.
        self._bindings = _grouped(
            self._walk.bindings.values(), lambda b: id(b.variable)
        )
        allowed = None
        if only is not None:
            variable, axis, index = only
            slots = self._walk.bindings[id(variable), axis].slots[index]
            allowed = np.zeros(len(self._groups), bool)
            allowed[self._groups.of_slot[slots]] = True
        self._need = Need(self._walk, self._groups, allowed)
        self._removed = self._need.removed
        self._keep = ~self._removed[self._groups.of_slot]

    def takes(self, variable: keras.Variable, axis: int) -> np.ndarray:
        """Boolean array: which channels along an axis of a variable go."""
        return ~self._keep[self._walk.bindings[id(variable), axis].slots]

    def filters(self, layer, kernel: PrunableWeight) -> tuple[int, int] | None:
        """How many channels a layer makes, and how many of them go.

        Args:
            layer: A layer, not wrapped.
            kernel: The last of its kernels.

        Returns:
            Tuple of two integers; `None` where nothing is known of it.
        """
        made = [b for b in self._made_by(layer) if b.role == "out"]
        if made:
            # The gates of a recurrent unit are of one slot.
            slots = np.unique(np.concatenate([b.slots for b in made]))
            return len(slots), int(np.count_nonzero(~self._keep[slots]))
        for binding in self._bindings.get(id(kernel.variable), ()):
            # Channels go through it, as through a depthwise convolution.
            if binding.role == "through":
                each = kernel.outputs // len(binding.slots)
                gone = int(np.count_nonzero(~self._keep[binding.slots]))
                return each * len(binding.slots), each * gone
        return None

    def reasons(self, layer) -> list[str]:
        """Why output channels stay: frozen groups, and readers to wrap."""
        made = self._made_by(layer)
        if not made:
            return [f"'{layer.name}' is not used in inference"]
        reasons: dict[str, None] = {}
        for binding in made:
            along = self._groups.of_slot[binding.slots]
            for index in np.unique(self._groups.reason_index[along]):
                if index >= 0:
                    reasons[self._groups.reasons[index]] = None
            empty = along[_empty_slices(self._walk, binding)]
            empty = empty[~self._removed[empty]]
            for name in self._need.readers_of(empty):
                reasons[
                    f"masked filters stay: '{name}' reads them; wrap it too"
                ] = None
            reasons.update(dict.fromkeys(self._sums_over(along, empty)))
        groups = np.unique(self._groups.of_slot[_slots_of(made)])
        if len(groups) == 1 and not reasons:
            return [f"all filters of '{layer.name}' go together, so they stay"]
        return list(reasons)

    def _made_by(self, layer) -> list:
        """Where a layer's output channels are, or those that go through it."""
        own = [
            binding
            for variable in layer.weights
            for binding in self._bindings.get(id(variable), ())
        ]
        made = [binding for binding in own if binding.role == "out"]
        return made or [
            b for b in own if b.role == "through" and b.variable.ndim > 1
        ]

    def new_layer(self, layer):
        """What stands in the place of a layer, without its weights."""
        layer = unwrapped(layer)
        new = clone(layer, self.new_config(layer))
        if id(layer) in self._walk.padded:
            slots, rank, dtype = self._walk.padded[id(layer)]
            kept = int(np.count_nonzero(self._keep[slots]))
            if kept < len(slots):
                return padded(new, len(slots), kept, rank, dtype)
        return new

    def new_config(self, operation) -> dict:
        """What changes in the config of a layer or operation."""
        operation = unwrapped(operation)
        changes: dict[str, object] = {}
        for (_, key), (slots, new) in self._configs.get(id(operation), ()):
            keep = self._keep[slots]
            if keep.all():
                continue
            name, *path = key if isinstance(key, tuple) else (key,)
            old = changes.get(name, config_with_functions(operation).get(name))
            changes[name] = _changed(old, path, keep, new)
        return changes

    def new_arguments(self, call, args, kwargs) -> tuple:
        """The arguments of a call in the smaller model."""
        edit = self._walk.edits.get(id(call.outputs[0]))
        if edit is None:
            return args, kwargs
        slots, change = edit
        keep = self._keep[slots]
        return (args, kwargs) if keep.all() else change(args, kwargs, keep)

    def new_value(self, variable) -> np.ndarray:
        """A variable's weights without the channels that go.

        A bias takes in what its layer read from removed constants.
        """
        array = self._walk.value(variable)
        dtype = array.dtype
        for reading in self._folding.get(id(variable), ()):
            array = array + self._removed_constant(reading)
        if id(variable) in self._walk.scales:
            slots, factor = self._walk.scales[id(variable)]
            kept = int(np.count_nonzero(self._keep[slots]))
            if kept < len(slots):
                array = array * factor(len(slots), kept)
        return self.cut(variable, array.astype(dtype, copy=False))

    def parameters(self) -> int:
        """How many weights the smaller model has."""
        variables = {
            id(variable): variable
            for layer in keras_internals.sublayers(self._model)
            for variable in unwrapped(layer).weights
        }
        masks = {
            id(mask)
            for layer in prunable_layers(self._model)
            for mask in layer.masks.values()
        }
        return sum(
            math.prod(self._shape(variable))
            for key, variable in variables.items()
            if key not in masks
        )

    def _shape(self, variable) -> list[int]:
        shape = list(variable.shape)
        for axis in range(len(shape)):
            binding = self._walk.bindings.get((id(variable), axis))
            if binding is None or id(binding.layer) in self._walk.padded:
                continue
            shape[axis] = int(np.count_nonzero(self._keep[binding.slots]))
        return shape

    def cut(self, variable, array: np.ndarray) -> np.ndarray:
        """An array of a variable's shape without the channels that go."""
        for axis in range(array.ndim):
            binding = self._walk.bindings.get((id(variable), axis))
            if binding is not None and not self._keep[binding.slots].all():
                keep = self._keep[binding.slots]
                index = np.flatnonzero(keep)
                if id(binding.layer) in self._walk.padded:
                    # Padding puts the zeros last.
                    index = np.append(index, np.flatnonzero(~keep))
                array = np.take(array, index, axis=axis)
        return array

    def _sums_over(self, groups: np.ndarray, empty: np.ndarray) -> list[str]:
        """Why groups stay for calls that mix channels without weights.

        Args:
            groups: Integer array.
            empty: Integer array: those of the groups that have no weights.
        """
        masked, uncut = [], []
        for mixed in self._walk.sums:
            mixes = self._groups.of_slot[mixed.channels.slots]
            not_zero = mixes[mixed.channels.constants != 0]
            if np.isin(not_zero, empty).any():
                masked.append(
                    f"masked filters stay: '{mixed.layer.name}' sums over "
                    "them, and they are not 0"
                )
            elif mixed.reason and not self._removed[mixes].any():
                if np.isin(mixes, groups).any():
                    uncut.append(mixed.reason)
        # One option is the same for every layer of a deep stack.
        return masked + uncut[:1]

    def _removed_constant(self, reading: Reading) -> np.ndarray:
        """What a kernel made of the constants that it no longer reads."""
        gone = self._removed[self._groups.of_slot[reading.channels.slots]]
        constants = reading.channels.constants
        constants = np.where(gone & np.isfinite(constants), constants, 0.0)
        if not constants.any():
            return np.zeros(len(reading.out_slots))
        weights = np.moveaxis(
            self._walk.value(reading.variable), reading.in_axis, -2
        )
        space = tuple(range(weights.ndim - 2))
        return constants @ weights.sum(axis=space, dtype=np.float64)


def _slots_of(bindings) -> np.ndarray:
    return np.concatenate([binding.slots for binding in bindings])


def _grouped(items, key) -> dict:
    """The items in lists, by what `key` returns for them."""
    groups: dict = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _changed(old, path, keep, new):
    """A value of a config once channels went at the end of a path in it."""
    if not path:
        return int(np.count_nonzero(keep)) if new is None else new(old, keep)
    step, *rest = path
    if isinstance(old, dict):
        return {**old, step: _changed(old[step], rest, keep, new)}
    return tuple(
        _changed(item, rest, keep, new) if index == step else item
        for index, item in enumerate(old)
    )


def _empty_slices(walk: Walk, binding) -> np.ndarray:
    """Boolean array: where along an axis all weights are zero."""
    value = walk.value(binding.variable)
    others = tuple(set(range(value.ndim)) - {binding.axis})
    return ~(value != 0).any(axis=others)
