"""Rules of recurrent layers."""

import keras
import numpy as np
from keras import layers

from kprune.structure.records import Tensor
from kprune.structure.rules.activations import elementwise, name_of, tried
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels


@register_rule(
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
    layers.GRU,
    layers.LSTM,
    layers.SimpleRNN,
)
def recurrent(walk, call):
    """A unit makes one column of each gate, and all gates read its state."""
    layer = call.layer
    given = call.named()
    x = given["sequences"]
    axis = _channel_axis(layer, len(x.shape), steps=1)
    walk.freeze(x.axes, f"'{layer.name}' runs over this axis", but=axis)
    channels = x.axes.get(axis)
    kernel = walk.variable(layer, "kernel")
    recurrent_kernel = walk.variable(layer, "recurrent_kernel")
    bias = walk.variable(layer, "bias")
    out_axis = len(kernel.shape) - 1
    slots = walk.produce(layer, recurrent_kernel, out_axis - 1)
    columns = np.tile(slots, kernel.shape[-1] // len(slots))
    walk.bind(layer, kernel, out_axis, columns)
    walk.bind(layer, recurrent_kernel, out_axis, columns)
    if bias is not None:
        walk.bind(layer, bias, len(bias.shape) - 1, columns)
    if channels is None:
        walk.hold(layer, kernel, out_axis - 1)
    else:
        walk.bind(layer, kernel, out_axis - 1, channels.slots, "in")
    key = "filters" if hasattr(layer, "filters") else "units"
    walk.resize(layer, key, slots)
    function, *others = _activations(layer, call.output_shapes[0])
    for each, problem in (function, *others):
        if problem is not None:
            name = name_of(each)
            reason = f"activation '{name}' of '{layer.name}' {problem}"
            walk.table.freeze(slots, reason)
    zero = _start(walk, layer, given.get("initial_state"), slots)
    if function[1] is None:
        zero &= _stays_zero(walk, layer, channels, zero, function[0])
    else:
        zero[:] = False
    state = Channels(slots, np.where(zero, 0.0, np.nan))
    if walk.weigh:
        _read(walk, layer, channels, state, columns)
    outputs = []
    for index, shape in enumerate(call.output_shapes):
        steps = int(layer.return_sequences and index == 0)
        outputs.append({_channel_axis(layer, len(shape), steps): state})
    return outputs


def _channel_axis(layer, rank, steps) -> int:
    """The channel axis of a tensor with so many axes of time."""
    data_format = getattr(layer, "data_format", "channels_last")
    return 1 + steps if data_format == "channels_first" else rank - 1


def _activations(layer, shape) -> list:
    """What a layer applies to its state and gates, each as `tried` says."""
    functions = [layer.activation]
    if not isinstance(layer, layers.SimpleRNN):
        functions.append(layer.recurrent_activation)
    steps = int(layer.return_sequences)
    axis = _channel_axis(layer, len(shape), steps) - steps
    step = (shape[0], *shape[1 + steps :])
    return [tried(function, step, [axis]) for function in functions]


def _start(walk, layer, initial_state, slots) -> np.ndarray:
    """Ties the units to the state that a call starts from.

    Returns:
        Boolean array: the units whose state is zero at the start.
    """
    # What a stateful layer was left with is not known.
    zero = np.full(len(slots), not layer.stateful)
    for tensor in keras.tree.flatten(initial_state):
        if tensor is None:
            continue
        channels = None
        if isinstance(tensor, Tensor):
            axis = _channel_axis(layer, len(tensor.shape), steps=0)
            reason = f"'{layer.name}' runs over this axis"
            walk.freeze(tensor.axes, reason, but=axis)
            channels = tensor.axes.get(axis)
        if channels is None:
            reason = f"'{layer.name}' starts from a state that cannot be cut"
            walk.table.freeze(slots, reason)
            zero[:] = False
        else:
            walk.tie(channels.slots, slots)
            zero &= channels.constants == 0
    return zero


def _stays_zero(walk, layer, channels, starts_at_zero, function) -> np.ndarray:
    """Boolean array: the units whose state stays zero if it starts so.

    A state is the sum of the last one and of a candidate, whatever the gates
    weigh them with; so it stays zero where the candidate is.
    """
    kernel = walk.variable(layer, "kernel")
    recurrent_kernel = walk.variable(layer, "recurrent_kernel")
    units = recurrent_kernel.shape[-2]
    none = np.zeros(units, bool)
    at_zero = elementwise({0: Channels(none, np.zeros(units))}, function)[0]
    if at_zero.constants.any():
        return none
    if not walk.weigh:
        return walk.once_masked(kernel, none).constants == 0
    # LSTM and GRU have their candidate third.
    candidate = slice(2 * units, 3 * units)
    if isinstance(layer, layers.SimpleRNN):
        candidate = slice(None)
    moved = _linked(walk, kernel)[:, candidate]
    if channels is not None:
        moved = moved[channels.constants != 0]
    moved = np.any(moved, axis=0)
    bias = walk.variable(layer, "bias")
    if bias is not None:
        value = walk.value(bias)[..., candidate].reshape(-1, units)
        moved |= (value != 0).any(axis=0)
    moved |= ~starts_at_zero
    linked = _linked(walk, recurrent_kernel)[:, candidate]
    while (reached := linked[moved].any(axis=0) & ~moved).any():
        moved |= reached
    return ~moved


def _read(walk, layer, channels, state, columns) -> None:
    """The columns of the gates read the input and the units' last states."""
    kernel = walk.variable(layer, "kernel")
    recurrent_kernel = walk.variable(layer, "recurrent_kernel")
    in_axis = len(kernel.shape) - 2
    if channels is not None:
        linked = _linked(walk, kernel)
        walk.read(layer, kernel, in_axis, channels, columns, linked)
    linked = _linked(walk, recurrent_kernel)
    # No unit is needed for its own sake.
    linked &= state.slots[:, None] != columns
    walk.read(layer, recurrent_kernel, in_axis, state, columns, linked)


def _linked(walk, kernel) -> np.ndarray:
    """Whether any weight links an input of a kernel and a column."""
    value = walk.value(kernel)
    return (value != 0).any(axis=tuple(range(value.ndim - 2)))
