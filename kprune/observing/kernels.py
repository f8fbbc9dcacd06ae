"""How each kind of Keras layer uses its kernels: as `LinearMap`s."""

import math
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers

from kprune.keras_internals import convolutional_cell
from kprune.observing.linear import Chosen, IndexMap, LinearMap, inputs_of
from kprune.observing.watching import to_numpy
from kprune.observing.windows import TransposedWindows, Windows
from kprune.structure.rules.registry import overrides


def maps_of(owner: keras.layers.Layer) -> list[LinearMap]:
    """The kernels that a layer itself uses, not those of layers in it.

    Args:
        owner: A built Keras layer.

    Returns:
        List of `LinearMap`, empty where how it uses its weights is not known.
    """
    kind = type(owner)
    for base in kind.__mro__:
        if base in _FINDERS:
            return [] if overrides(kind, base) else list(_FINDERS[base](owner))
    return []


def _matrix(variable, read, kind=LinearMap) -> LinearMap:
    """A kernel whose last axis is that of the outputs, all else inputs."""
    shape = tuple(variable.shape)
    inputs = math.prod(shape[:-1])
    order = tuple(range(len(shape)))
    return kind(variable, shape, order, (1, inputs, shape[-1]), read)


def _flat(x: np.ndarray, chosen: Chosen) -> np.ndarray:
    rows = x.reshape(-1, x.shape[-1])
    return rows[chosen(len(rows))][None]


def _dense(owner) -> Iterator[LinearMap]:
    yield _matrix(
        owner.kernel,
        lambda arguments, chosen: _flat(inputs_of(arguments), chosen),
    )


def _embedding(owner) -> Iterator[LinearMap]:
    def read(arguments, chosen):
        indices = inputs_of(arguments).ravel()
        indices = indices[chosen(indices.size)].astype(np.int64)
        return np.eye(owner.input_dim)[indices][None]

    yield _matrix(owner.embeddings, read, IndexMap)


def _windows(owner, kind=Windows, strides=None, padding=None, **more):
    ones = (1,) * len(owner.kernel_size)
    return kind(
        tuple(owner.kernel_size),
        tuple(owner.strides if strides is None else strides),
        tuple(owner.dilation_rate if strides is None else ones),
        padding or owner.padding,
        owner.data_format == "channels_first",
        **more,
    )


def _grouped(windows: np.ndarray, groups: int) -> np.ndarray:
    """Windows as `(groups, rows, inputs)`."""
    rows, positions, channels = windows.shape
    split = windows.reshape(rows, positions, groups, channels // groups)
    return split.transpose(2, 0, 1, 3).reshape(groups, rows, -1)


def _totals(windows: Windows, groups: int) -> Callable:
    """The sums over windows as `(groups, inputs)`."""

    def total(arguments, of):
        sums, rows = windows.sums(inputs_of(arguments), of)
        return _grouped(sums[None], groups)[:, 0], rows

    return total


def _convolution(owner) -> Iterator[LinearMap]:
    *space, inputs, outputs = owner.kernel.shape
    windows, groups = _windows(owner), owner.groups
    rank = len(space)
    yield LinearMap(
        owner.kernel,
        (*space, inputs, groups, outputs // groups),
        (rank + 1, *range(rank + 1), rank + 2),
        (groups, math.prod(space) * inputs, outputs // groups),
        lambda arguments, chosen: _grouped(
            windows.of(inputs_of(arguments), chosen), groups
        ),
        _totals(windows, groups),
    )


def _transposed(owner) -> Iterator[LinearMap]:
    *space, outputs, inputs = owner.kernel.shape
    padding = owner.output_padding
    if isinstance(padding, int):
        padding = (padding,) * len(space)
    windows = _windows(owner, TransposedWindows, output_padding=padding)
    rank = len(space)
    yield LinearMap(
        owner.kernel,
        tuple(owner.kernel.shape),
        (*range(rank), rank + 1, rank),
        (1, math.prod(space) * inputs, outputs),
        lambda arguments, chosen: _grouped(
            windows.of(inputs_of(arguments), chosen), 1
        ),
        _totals(windows, 1),
    )


def _depthwise_map(owner, variable) -> LinearMap:
    *space, channels, multiplier = variable.shape
    windows = _windows(owner)
    rank = len(space)
    return LinearMap(
        variable,
        tuple(variable.shape),
        (rank, *range(rank), rank + 1),
        (channels, math.prod(space), multiplier),
        lambda arguments, chosen: _grouped(
            windows.of(inputs_of(arguments), chosen), channels
        ),
        _totals(windows, channels),
    )


def _depthwise(owner) -> Iterator[LinearMap]:
    yield _depthwise_map(owner, owner.kernel)


def _separable(owner) -> Iterator[LinearMap]:
    yield _depthwise_map(owner, owner.depthwise_kernel)

    def read(arguments, chosen):
        x = keras.ops.depthwise_conv(
            arguments["inputs"],
            owner.depthwise_kernel,
            strides=owner.strides,
            padding=owner.padding,
            dilation_rate=owner.dilation_rate,
            data_format=owner.data_format,
        )
        x = to_numpy(x)
        if owner.data_format == "channels_first":
            x = np.moveaxis(x, 1, -1)
        return _flat(x, chosen)

    yield _matrix(owner.pointwise_kernel, read)


def _einsum(owner) -> Iterator[LinearMap]:
    arguments, made = owner.equation.replace(" ", "").split("->")
    read, kernel = arguments.split(",")
    shape = tuple(owner.kernel.shape)
    sums = [c for c in kernel if c in read and c not in made]
    shared = [c for c in kernel if c in read and c in made]
    outs = [c for c in kernel if c not in read and c in made]
    if len(sums) + len(shared) + len(outs) < len(kernel):
        return  # Axes of the kernel that are summed on their own.
    order = tuple(kernel.index(c) for c in [*shared, *sums, *outs])
    sizes = dict(zip(kernel, shape))
    dims = tuple(
        math.prod(sizes[c] for c in labels) for labels in (shared, sums, outs)
    )

    def rows(arguments, chosen):
        x = inputs_of(arguments)
        labels = read
        if "..." in labels:
            # Letters for the axes that the dots stand for.
            free = [c for c in _LETTERS if c not in read + kernel]
            free = free[: x.ndim - len(labels.replace("...", ""))]
            labels = labels.replace("...", "".join(free))
        alone = [
            c for c in labels if c not in kernel and c not in made and c in read
        ]
        x = x.sum(axis=tuple(labels.index(c) for c in alone))
        labels = [c for c in labels if c not in alone]
        others = [c for c in labels if c not in kernel]
        x = x.transpose([labels.index(c) for c in [*shared, *others, *sums]])
        x = x.reshape(dims[0], -1, dims[1])
        return x[:, chosen(x.shape[1])]

    yield LinearMap(owner.kernel, shape, order, dims, rows)


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _state(arguments) -> np.ndarray:
    states = arguments["states"]
    nested = isinstance(states, (list, tuple))
    return to_numpy(states[0] if nested else states)


def _cell_input(arguments) -> np.ndarray:
    # A SimpleRNNCell calls it `sequence`.
    name = "sequence" if "sequence" in arguments else "inputs"
    return to_numpy(arguments[name])


def _cell(owner) -> Iterator[LinearMap]:
    yield _matrix(
        owner.kernel,
        lambda arguments, chosen: _flat(_cell_input(arguments), chosen),
    )
    if isinstance(owner, keras.layers.GRUCell) and not owner.reset_after:
        yield _reset_before(owner)
    else:
        yield _matrix(
            owner.recurrent_kernel,
            lambda arguments, chosen: _flat(_state(arguments), chosen),
        )


def _reset_before(owner) -> LinearMap:
    """The recurrent kernel of a GRU whose candidate reads a gated state."""
    units = owner.units

    def read(arguments, chosen):
        state = _state(arguments)
        reset = _cell_input(arguments) @ to_numpy(owner.kernel)
        if owner.use_bias:
            reset = reset + to_numpy(owner.bias)
        reset = reset + state @ to_numpy(owner.recurrent_kernel)
        gate = owner.recurrent_activation(reset[:, units : 2 * units])
        gated = to_numpy(gate) * state
        rows = chosen(len(state))
        return np.stack([state[rows], state[rows], gated[rows]])

    return LinearMap(
        owner.recurrent_kernel,
        (units, 3, units),
        (1, 0, 2),
        (3, units, units),
        read,
    )


def _convolutional_cell(owner) -> Iterator[LinearMap]:
    ones = (1,) * len(owner.kernel_size)
    of_input = _windows(owner)
    of_state = _windows(owner, strides=ones, padding="same")
    yield _matrix(
        owner.kernel,
        lambda arguments, chosen: _grouped(
            of_input.of(_cell_input(arguments), chosen), 1
        ),
    )
    yield _matrix(
        owner.recurrent_kernel,
        lambda arguments, chosen: _grouped(
            of_state.of(_state(arguments), chosen), 1
        ),
    )


_FINDERS: dict[type, Callable] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum,
    layers.Embedding: _embedding,
    **dict.fromkeys(
        (layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution
    ),
    **dict.fromkeys(
        (
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.Conv3DTranspose,
        ),
        _transposed,
    ),
    **dict.fromkeys(
        (layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise
    ),
    **dict.fromkeys(
        (layers.SeparableConv1D, layers.SeparableConv2D), _separable
    ),
    **dict.fromkeys(
        (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell), _cell
    ),
    convolutional_cell(): _convolutional_cell,
}
