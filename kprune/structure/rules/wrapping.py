"""Rules of layers that hold other layers."""

import dataclasses
import inspect

import numpy as np
from keras import layers

from kprune.structure.records import LayerCall, Tensor
from kprune.structure.rules.registry import no_rule, register_rule, rule_for
from kprune.structure.slots import Channels, concatenate


@register_rule(layers.TimeDistributed)
def time_distributed(walk, call):
    """The rule of the layer that it holds, with the axis of time left out."""
    given = call.named()
    x, mask = given["inputs"], given.get("mask")
    shape = call.output_shapes[0]
    held = call.layer.layer
    takes_mask = "mask" in inspect.signature(held.call).parameters
    inner = LayerCall(
        held,
        (_step(x),),
        {"mask": _step(mask)} if takes_mask and mask is not None else {},
        ((shape[0], *shape[2:]),),
        call.key,
    )
    (axes,) = delegate(walk, call.layer, inner, ("layer", "config"))
    outputs = {axis + 1: channels for axis, channels in axes.items()}
    if 1 in x.axes:
        outputs[1] = x.axes[1].varying()
    return [outputs]


def _step(x: Tensor) -> Tensor:
    """One step of a tensor."""
    return Tensor(
        (x.shape[0], *x.shape[2:]),
        {axis - 1: c for axis, c in x.axes.items() if axis > 1},
        x.dtype,
        x.has_mask,
    )


@register_rule(layers.Bidirectional)
def bidirectional(walk, call):
    """The rules of the two layers, which stay equally wide."""
    layer = call.layer
    given = call.named()
    states = given.get("initial_state")
    merged = 2 if layer.merge_mode is None else 1
    half = (len(call.output_shapes) - merged) // 2
    shapes = (call.output_shapes[0], *call.output_shapes[merged:][:half])
    directions = []
    held = {
        "layer": layer.forward_layer,
        "backward_layer": layer.backward_layer,
    }
    for index, (name, inner) in enumerate(held.items()):
        kwargs = {"sequences": given["sequences"], "mask": given.get("mask")}
        if states is not None:
            own = len(states) // 2
            kwargs["initial_state"] = states[index * own :][:own]
        inner_call = LayerCall(inner, (), kwargs, shapes, call.key)
        directions.append(delegate(walk, layer, inner_call, (name, "config")))
    forward, backward = (axes[0] for axes in directions)
    widths = {len(c) for axes in (forward, backward) for c in axes.values()}
    if not forward or not backward or len(widths) > 1:
        for axes in (forward, backward):
            walk.freeze(axes, f"'{layer.name}' holds layers that differ")
        return [{} for _ in call.output_shapes]
    ((axis, ahead),) = forward.items()
    (back,) = backward.values()
    # Keras takes the two widths for equal whatever it does with them.
    walk.balance(ahead.slots, back.slots)
    outputs = [{axis: ahead}, {axis: back}]
    if layer.merge_mode is not None:
        last = len(shapes[0]) - 1
        outputs = [{axis: _merged(walk, layer, ahead, back, axis == last)}]
    return outputs + directions[0][1:] + directions[1][1:]


def _merged(walk, layer, ahead, back, is_last) -> Channels:
    """The channels of the two directions once they are merged."""
    if layer.merge_mode == "concat" and is_last:
        return concatenate([ahead, back])
    walk.tie(ahead.slots, back.slots)
    zero = np.logical_or if layer.merge_mode == "mul" else np.logical_and
    zero = zero(ahead.constants == 0, back.constants == 0)
    return Channels(ahead.slots, np.where(zero, 0.0, np.nan))


def delegate(walk, holder, call: LayerCall, path: tuple) -> list:
    """Applies the rule of a layer that another one holds.

    What the rule writes down goes to the name of the holder, which is what is
    wrapped, pruned and rebuilt.

    Args:
        walk: The walk.
        holder: The layer that holds the other one.
        call: The call of the layer that is held.
        path: Tuple: where the held layer's config is in the holder's.

    Returns:
        What the rule returns; no axes where nothing can be cut.
    """
    inner = call.layer
    rule = rule_for(inner)
    refusal = None if rule is None else walk.refusal(inner)
    if rule is None or refusal is not None:
        walk.refuse(holder, call.inputs, refusal or no_rule(inner))
        return [{} for _ in call.output_shapes]
    known = set(walk.bindings)
    outputs = rule(walk, call)
    for key, binding in walk.bindings.items():
        if key not in known:
            walk.bindings[key] = dataclasses.replace(binding, layer=holder)
    for owner, key in list(walk.configs):
        if owner == id(inner):
            slots, new = walk.configs.pop((owner, key))
            walk.resize(holder, _below(path, key), slots, new)
    walk.held = [
        (layer, holder, _below(path, place))
        if owner is inner
        else (layer, owner, place)
        for layer, owner, place in walk.held
    ]
    return outputs


def _below(path, key) -> tuple:
    return (*path, *key) if isinstance(key, tuple) else (*path, key)
