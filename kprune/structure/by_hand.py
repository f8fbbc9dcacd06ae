"""Channels that a user names: to remove them, or to keep them."""

import dataclasses
from collections.abc import Iterable, Mapping

import keras
import numpy as np

from kprune import masks, weights
from kprune.keras_internals import sublayers
from kprune.prunable import prunable_layers, unwrapped, weights_of
from kprune.structure import flattening, groups
from kprune.structure.graph import ChannelGraph, channel_graph, readable
from kprune.structure.records import Binding
from kprune.structure.removal import Removal, remove_unused


def remove(
    model: keras.Model,
    layer: str | keras.layers.Layer,
    channels: Iterable[int],
    *,
    weight: str | None = None,
    axis: int | None = None,
    pad_layer_norm: bool = False,
) -> keras.Model:
    """Removes channels of a layer, with all that has to go with them.

    In a model with prunable layers they are masked, in place, beside what is
    masked already, in frozen layers too; `kprune.strip` then cuts them. The
    next call of `kprune.prune` ranks all weights anew, unless the masks were
    made final with `layer.apply_masks()`. A plain model is left as it is, and
    a smaller one comes back, which computes what the model would with zeros in
    their place.

    Args:
        model: A built model. A subclassed one without prunable layers comes
            back as a functional model.
        layer: The name of a layer, or the layer itself where several have one
            name.
        channels: Integers, counted from 0: which channels of what the layer
            makes. Of a depthwise convolution or a normalization: of what goes
            through it.
        weight: Which weight's channels are meant where a layer has several
            that make some, such as `"query/kernel"` of a MultiHeadAttention;
            the names are those of `kprune.weights.kernels`. `None` for the
            last one, that of the layer's outputs.
        axis: Integer: along which axis of the weight the channels lie where
            there are several: 1 for the heads of `"query/kernel"`, 2 for their
            width. `None` for the last one.
        pad_layer_norm: Boolean; see `kprune.prune`.

    Returns:
        The model itself where it has prunable layers, else a new one, not
        compiled.

    Raises:
        ValueError: If there is no such layer or channel, a channel has to
            stay, or a layer would be left without any. Nothing was changed
            then.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 1)),
    ...     keras.layers.Conv2D(16, 3, activation="relu", name="conv"),
    ...     keras.layers.Flatten(),
    ...     keras.layers.Dense(10, name="logits"),
    ... ])
    >>> smaller = kprune.structure.remove(model, "conv", [2, 6, 9])
    >>> smaller.get_layer("conv").filters
    13
    """
    original, model = model, readable(model, "remove channels of")
    graph = channel_graph(model, pad_layer_norm=pad_layer_norm)
    binding = _named(graph, model, layer, weight, axis)
    index = _indices(binding, channels)
    named = graph.groups.of_slot[binding.slots[index]]
    for channel, group in zip(index, named):
        reason = graph.groups.reason(group)
        if reason is not None:
            raise ValueError(
                f"Channel {channel} of layer '{binding.layer.name}' has to "
                f"stay: {reason}."
            )
    goes = np.zeros(len(graph.groups), bool)
    goes[named] = True
    wrappers = prunable_layers(model)
    _check_rest(graph, goes, wrappers)
    # From the id of a variable to what holds its mask, and the mask to be.
    masked = {
        id(variable): (holder, mask)
        for variable, holder in _maskable(graph, wrappers)
        if (mask := _mask(graph, variable, goes)) is not None
    }
    if wrappers:
        masked = {
            key: (holder, mask & weights.to_numpy(holder))
            for key, (holder, mask) in masked.items()
        }
    removal = Removal(
        model,
        masks={key: mask for key, (_, mask) in masked.items()},
        only=(binding.variable, binding.axis, index),
    )
    if not removal.takes(binding.variable, binding.axis)[index].all():
        reasons = removal.reasons(binding.layer)
        raise ValueError(
            f"Not all of the channels {index.tolist()} of layer "
            f"'{binding.layer.name}' can be removed"
            f"{''.join(f'; {reason}' for reason in reasons)}."
        )
    if not wrappers:
        flattening.warn_of_unused(original, model)
        return remove_unused(model, removal)
    for holder, mask in masked.values():
        holder.assign(mask)
    return original


def keeping(
    graph: ChannelGraph, model: keras.Model, keep: Mapping
) -> ChannelGraph:
    """A graph in which the groups of some channels have to stay.

    Args:
        graph: The `ChannelGraph`.
        model: The model that it is of.
        keep: Mapping from layers or their names to indices of channels.

    Returns:
        A `ChannelGraph`.

    Raises:
        ValueError: If there is no such layer or channel, or if one is gone
            for good.
    """
    dead = {
        id(weight.variable): gone
        for wrapper in prunable_layers(model)
        for weight in weights_of(wrapper)
        if (gone := weight.gone()) is not None
    }
    reason_index = graph.groups.reason_index.copy()
    for layer, channels in keep.items():
        binding = _named(graph, model, layer)
        index = _indices(binding, channels)
        gone = dead.get(id(binding.variable))
        if gone is not None:
            others = set(range(gone.ndim)) - {binding.axis}
            along = np.asarray(gone.all(axis=tuple(others)))
            (lost,) = np.nonzero(along[index])
            if len(lost):
                raise ValueError(
                    f"`keep` names channels {index[lost].tolist()} of layer "
                    f"'{binding.layer.name}', which were pruned for good. "
                    "Leave them out."
                )
        named = graph.groups.of_slot[binding.slots[index]]
        named = named[reason_index[named] < 0]
        reason_index[named] = len(graph.groups.reasons)
    return dataclasses.replace(
        graph,
        groups=dataclasses.replace(
            graph.groups,
            reason_index=reason_index,
            reasons=[*graph.groups.reasons, "`keep` names it"],
        ),
    )


def _named(graph, model, layer, weight=None, axis=None) -> Binding:
    """Where the channels of a layer are that a user means."""
    layer = _layer(graph, model, layer)
    own = _bindings(graph, layer)
    if weight is not None:
        kernels = weights.all_kernels(layer)
        if weight not in kernels:
            raise ValueError(
                f"Layer '{layer.name}' has no weight {weight!r} that makes "
                f"channels. Expected one of {list(kernels)}"
            )
        own = [b for b in own if b.variable is kernels[weight]]
    made = [b for b in own if b.role == "out"]
    made = made or [b for b in own if b.role == "through"]
    if axis is not None:
        made = [b for b in own if b.axis == axis]
    if not made:
        raise ValueError(
            f"Layer '{layer.name}' has no channels along axis {axis}. "
            f"Expected one of {sorted({b.axis for b in own})}"
        )
    return made[-1]


def _layer(graph, model, layer) -> keras.layers.Layer:
    """The layer of that name, without a wrapper, if it has channels."""
    if not isinstance(layer, (str, keras.layers.Layer)):
        raise ValueError(
            "Name a layer by a string, or pass the layer itself. "
            f"Received: {layer!r}"
        )
    # The names of wrappers and of what they wrap may differ.
    found: dict[keras.layers.Layer, set] = {}
    for part in sublayers(model):
        if not isinstance(part, keras.Model) and _makes_any(graph, part):
            found.setdefault(unwrapped(part), set()).add(part.name)
    if isinstance(layer, str):
        fitting = [part for part, names in found.items() if layer in names]
    else:
        fitting = [part for part in found if part is unwrapped(layer)]
    if len(fitting) > 1:
        raise ValueError(
            f"Model '{model.name}' has {len(fitting)} layers named {layer!r}. "
            "Pass the layer itself."
        )
    if not fitting:
        name = repr(layer if isinstance(layer, str) else layer.name)
        raise ValueError(
            f"Model '{model.name}' has no layer {name} with channels. "
            f"Expected one of {[part.name for part in found]}"
        )
    return fitting[0]


def _bindings(graph, layer) -> list[Binding]:
    # By variable: a layer may hold those that the graph shows.
    own = {id(variable) for variable in layer.weights}
    return [b for b in graph.bindings if id(b.variable) in own]


def _makes_any(graph, layer) -> bool:
    return any(b.role != "in" for b in _bindings(graph, layer))


def _indices(binding, channels) -> np.ndarray:
    """The indices as an array, if they are channels of the binding."""
    count = len(binding.slots)
    found = list(channels) if isinstance(channels, Iterable) else [None]
    if len(set(map(str, found))) < len(found) or not all(
        isinstance(channel, (int, np.integer))
        and not isinstance(channel, bool)
        and 0 <= channel < count
        for channel in found
    ):
        raise ValueError(
            f"Channels of layer '{binding.layer.name}' are different integers "
            f"from 0 to {count - 1}, in a list. Received: {channels!r}"
        )
    return np.array(found, np.intp)


def _check_rest(graph, goes, wrappers) -> None:
    """Raises if a layer is left without channels."""
    kernels = [weight for layer in wrappers for weight in weights_of(layer)]
    kept = {id(w.variable): weights.to_numpy(w.mask) for w in kernels}
    has_masks = groups.left(graph, dict.fromkeys(kept))
    gone = goes | has_masks & ~groups.left(graph, kept)
    for binding in graph.bindings:
        along = graph.groups.of_slot[binding.slots]
        if goes[along].any() and gone[along].all():
            raise ValueError(
                f"Layer '{binding.layer.name}' would be left without any "
                "channel. Keep at least one."
            )


def _maskable(graph, wrappers) -> list[tuple]:
    """Pairs of a variable that can be masked, and its mask if it has one."""
    if wrappers:
        return [
            (variable, wrapper.masks[name])
            for wrapper in wrappers
            for name, variable in wrapper.maskable.items()
        ]
    layers = dict.fromkeys(binding.layer for binding in graph.bindings)
    return [
        (variable, None)
        for layer in layers
        for variable in (
            *weights.all_kernels(layer).values(),
            *weights.biases(layer).values(),
        )
    ]


def _mask(graph, variable, goes) -> np.ndarray | None:
    """The mask of a variable without some groups, `None` if it has none."""
    slices = {
        (id(variable), b.axis): ~goes[graph.groups.of_slot[b.slots]]
        for b in graph.bindings
        if b.variable is variable
    }
    return masks.slice_mask(variable, slices)
