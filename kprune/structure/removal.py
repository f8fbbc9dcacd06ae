"""Removing channels that nothing depends on, exactly."""

import keras
import numpy as np

from kprune import conversion
from kprune.structure.graph import check_graph
from kprune.structure.rebuilding import Rebuilder, clone, unwrapped
from kprune.structure.slots import Units
from kprune.structure.walk import Reading, Walk


def compact(model: keras.Model) -> keras.Model:
    """Makes a smaller model with equal outputs out of one with dead channels.

    It looks at the zeros in the weights, so it serves a model pruned by
    anyone. A unit (channels that must be cut together, see
    `kprune.structure.channel_graph`) goes when nothing depends on it: all
    weights that read it are zero, or its value is the same whatever the input
    is. Such a constant is 0 for a filter without weights and bias behind
    ReLU; one that is not 0 is added to the readers' biases where that is
    exact. At least one channel stays on every axis.

    The outputs are those of the model in inference, up to the rounding of
    sums that have fewer terms now.

    Args:
        model: A built Sequential or Functional model without prunable layers.

    Returns:
        A new model, not compiled. The one that is passed is not changed.

    Raises:
        ValueError: If the model is subclassed, not built, or has prunable
            layers.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    >>> kernel, bias, *others = model.get_weights()
    >>> kernel[:, 1:] = 0
    >>> model.set_weights([kernel, bias, *others])
    >>> kprune.compact(model).layers[0].units
    1
    """
    check_graph(model, "compact")
    if conversion.prunable_layers(model):
        raise ValueError(
            f"Model '{model.name}' has prunable layers. Use "
            "`kprune.strip(model)`: it folds their masks in and removes what "
            "they leave unused."
        )
    return remove_unused(model)


def remove_unused(model: keras.Model) -> keras.Model:
    """`compact` for a model that may have prunable layers, unwrapping them.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        A new model of plain Keras layers.
    """
    walk = Walk(model, weigh=True)
    units = walk.table.solve()
    removed = _unused(walk, units)
    keep = ~removed[units.of_slot]

    def replace(layer):
        return clone(unwrapped(layer), _new_sizes(walk, layer, keep))

    def value(variable):
        array = _folded(walk, units, removed, variable)
        for axis in range(array.ndim):
            binding = walk.bindings.get((id(variable), axis))
            if binding is not None and not keep[binding.slots].all():
                array = np.compress(keep[binding.slots], array, axis=axis)
        return array

    rebuilder = Rebuilder(replace)
    smaller = rebuilder.rebuild(model)
    rebuilder.copy_weights(value)
    return smaller


def _unused(walk: Walk, units: Units) -> np.ndarray:
    """Boolean array: the units that can go."""
    calls = {}
    for reading in walk.readings:
        calls.setdefault(id(reading.variable), []).append(reading)
    removed = np.zeros(len(units), bool)
    while True:
        needed = units.frozen.copy()
        for readings in calls.values():
            # One bias cannot take in the constants of several calls.
            folds = len(readings) == 1
            for reading in readings:
                gone = removed[units.of_slot[reading.out_slots]]
                linked = reading.linked[:, ~gone].any(axis=1)
                constants = reading.channels.constants
                free = constants == 0
                if folds and reading.bias is not None:
                    free = np.isfinite(constants)
                reads = units.of_slot[reading.channels.slots]
                needed[reads[linked & ~free]] = True
        if np.array_equal(~needed, removed):
            break
        # Without these units more weights link to nothing.
        removed = ~needed
    for binding in walk.bindings.values():
        along = units.of_slot[binding.slots]
        if removed[along].all():
            removed[along[0]] = False
    return removed


def _new_sizes(walk: Walk, layer, keep: np.ndarray) -> dict:
    """What changes in a layer's config."""
    layer = unwrapped(layer)
    changes = {}
    for (owner, key), slots in walk.sizes.items():
        if owner != id(layer) or keep[slots].all():
            continue
        size = int(np.count_nonzero(keep[slots]))
        if isinstance(key, tuple):
            name, index = key
            whole = list(changes.get(name, layer.get_config()[name]))
            whole[index] = size
            changes[name] = tuple(whole)
        else:
            changes[key] = size
    return changes


def _folded(walk, units, removed, variable) -> np.ndarray:
    """A variable's weights; a bias with the constants that were removed."""
    array = walk.value(variable)
    for reading in walk.readings:
        if reading.bias is variable:
            constants = _removed_constants(reading, units, removed)
            if constants.any():
                weights = np.moveaxis(
                    walk.value(reading.variable), reading.in_axis, -2
                )
                space = tuple(range(weights.ndim - 2))
                weights = weights.sum(axis=space, dtype=np.float64)
                array = (array + constants @ weights).astype(array.dtype)
    return array


def _removed_constants(reading: Reading, units, removed) -> np.ndarray:
    """The constants that a kernel no longer reads, 0 for what stays."""
    gone = removed[units.of_slot[reading.channels.slots]]
    constants = reading.channels.constants
    return np.where(gone & np.isfinite(constants), constants, 0.0)
