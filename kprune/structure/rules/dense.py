"""Rules of the layers that multiply by a matrix: Dense and EinsumDense."""

import numpy as np
from keras import layers

from kprune.structure.functions import config_with_functions
from kprune.structure.rules.activations import activate
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels


@register_rule(layers.Dense)
def dense(walk, call):
    """A Dense reads the last axis and makes a new one; others pass."""
    (x,) = call.inputs
    layer = call.layer
    last = len(x.shape) - 1
    kernel = walk.variable(layer, "kernel")
    bias = walk.variable(layer, "bias")
    axes = {
        axis: channels.varying()
        for axis, channels in x.axes.items()
        if axis != last
    }
    axes[last] = walk.contract(
        layer, kernel, 0, 1, x.axes.get(last), bias, folds=True
    )
    walk.resize(layer, "units", axes[last].slots)
    return [activate(walk, call, axes)]


@register_rule(layers.EinsumDense)
def einsum_dense(walk, call):
    """Each axis is read, made, passed, or shared by input and kernel."""
    (x,) = call.inputs
    layer = call.layer
    taken, weights, given = spell(layer.equation, len(x.shape))
    kernel = walk.variable(layer, "kernel")
    bias = walk.variable(layer, "bias")
    channels = {letter: x.axes.get(axis) for axis, letter in enumerate(taken)}
    if any(len(set(t)) < len(t) for t in (taken, weights, given)):
        walk.refuse(layer, [x], f"'{layer.name}' takes a diagonal of it")
        return [{}]
    for letter in set(taken) - set(weights) - set(given):
        if channels[letter] is not None:
            walk.sum_over(layer, channels[letter])
    bias_axes = _bias_axes(layer, given)
    made = _project(walk, layer, channels, (weights, given), bias_axes)
    axes = {}
    for axis, letter in enumerate(given):
        if letter in made:
            axes[axis] = made[letter]
        elif channels[letter] is not None:
            axes[axis] = _along(
                walk, layer, channels[letter], letter, weights, bias_axes
            )
        else:
            if letter in weights:
                walk.hold(layer, kernel, weights.index(letter))
            walk.hold(layer, bias, bias_axes.get(letter))
    _resize(walk, layer, axes, given)
    return [activate(walk, call, axes)]


def spell(equation: str, rank: int) -> list:
    """The letters of an equation's tensors, the ellipsis spelt out.

    Args:
        equation: String, such as `"...x,xy->...y"`.
        rank: The rank of the input.

    Returns:
        The letters of the input, of the kernel and of the output, as lists.
        What the ellipsis stands for has the letters `"0"`, `"1"` and so on.
    """
    operands, _, output = equation.replace(" ", "").partition("->")
    tensors = [*operands.split(","), output]
    known = len(tensors[0].replace("...", ""))
    spelt = [str(index) for index in range(rank - known)]
    letters = []
    for tensor in tensors:
        left, dots, right = tensor.partition("...")
        letters.append([*left, *(spelt if dots else []), *right])
    return letters


def _bias_axes(layer, given) -> dict:
    """Dict from the letters that the bias has to its axes."""
    if not layer.bias_axes:
        return {}
    places = {letter: given.index(letter) for letter in layer.bias_axes}
    # Keras starts the bias at the first of them.
    first = min(places.values())
    return {letter: place - first for letter, place in places.items()}


def _project(walk, layer, channels, letters, bias_axes) -> dict:
    """The `Channels` of each letter that the kernel makes."""
    weights, given = letters
    kernel = walk.variable(layer, "kernel")
    reads = {
        axis: channels[letter]
        for axis, letter in enumerate(weights)
        if letter not in given
    }
    makes = [
        axis for axis, letter in enumerate(weights) if letter not in channels
    ]
    if makes:
        along = {
            axis: bias_axes[weights[axis]]
            for axis in makes
            if weights[axis] in bias_axes
        }
        bias = walk.variable(layer, "bias")
        made = walk.project(layer, kernel, reads, tuple(makes), bias, along)
        return {weights[axis]: channels for axis, channels in made.items()}
    for axis, read in reads.items():
        if read is None:
            walk.hold(layer, kernel, axis)
            continue
        walk.bind(layer, kernel, axis, read.slots, "in")
        if walk.weigh:
            # What reads it is none of the layer's making, and stays.
            reason = f"'{layer.name}' makes no channels"
            output = walk.fresh_frozen(1, reason).slots
            linked = _filled(walk.value(kernel), axis)[:, None]
            walk.read(layer, kernel, axis, read, output, linked)
    return {}


def _along(walk, layer, channels, letter, weights, bias_axes) -> Channels:
    """An axis of the input that the output has too, activation not yet."""
    kernel = walk.variable(layer, "kernel")
    bias = walk.variable(layer, "bias")
    shares_bias = letter in bias_axes
    if shares_bias:
        walk.bind(layer, bias, bias_axes[letter], channels.slots)
    zero = channels.constants == 0
    if letter in weights:
        axis = weights.index(letter)
        walk.bind(layer, kernel, axis, channels.slots)
        if walk.weigh:
            zero |= ~_filled(walk.value(kernel), axis)
        else:
            masked = walk.once_masked(kernel, channels.slots).constants == 0
            # Masked with the kernel, the bias is 0 too if it has the axis.
            if masked.all() and (bias is None or shares_bias):
                return Channels(channels.slots, np.zeros(len(channels)))
    if bias is not None:
        if not walk.weigh:
            zero[:] = False
        elif shares_bias:
            zero &= ~_filled(walk.value(bias), bias_axes[letter])
        else:
            zero &= not walk.value(bias).any()
    return Channels(channels.slots, np.where(zero, 0.0, np.nan))


def _resize(walk, layer, axes, given) -> None:
    """The numbers in `output_shape` change with the axes."""
    # Neither the batch nor what an ellipsis stands for is in it.
    elided = sum(letter.isdigit() for letter in given)
    skipped = max(elided, 1) if given[0].isdigit() else 1
    config = config_with_functions(layer)["output_shape"]
    for index, size in enumerate(config):
        key = ("output_shape", index)
        channels = axes.get(index + skipped)
        if size is None:
            continue
        if channels is None:
            walk.hold(layer, layer, key)
        else:
            walk.resize(layer, key, channels.slots)


def _filled(value, axis) -> np.ndarray:
    """Where along an axis any element is not 0."""
    others = tuple(set(range(value.ndim)) - {axis})
    return (value != 0).any(axis=others)
