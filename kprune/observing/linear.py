"""How layers use their kernels: as matrices, and the rows these multiply.

Each kernel that is known here computes `rows @ matrix`, whatever the kind of
its layer: the rows of a convolution are its windows, one for each position.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np

from kprune.keras_internals import convolutional_cell
from kprune.observing.watching import to_numpy
from kprune.observing.windows import TransposedWindows, Windows

# From a number of rows to the indices of those that are wanted.
Chosen = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap:
    """A kernel as matrices, side by side where their inputs are not the same.

    Those of a grouped convolution are as many as its groups, those of a
    depthwise one as many as its channels; most kernels are one matrix.

    Args:
        variable: The `keras.Variable`.
        split: Tuple of integers: the kernel's shape with every axis split
            that has to be.
        order: Tuple of integers: how the axes of `split` are turned to make
            `(matrices, inputs, outputs)`.
        shape: Tuple of three integers: matrices, inputs, outputs.
        read: Callable `(arguments, chosen) -> rows`, of the arguments that
            the layer was called with, as a dict, and a callable from a number
            of rows to the indices of those that are wanted. The rows are an
            array of shape `(matrices, rows, inputs)`.
    """

    variable: keras.Variable
    split: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int]
    read: Callable

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        """An array of the kernel's shape as `(matrices, inputs, outputs)`."""
        turned = kernel.reshape(self.split).transpose(self.order)
        return turned.reshape(self.shape)

    def kernel(self, matrices: np.ndarray) -> np.ndarray:
        """The inverse of `matrices`."""
        turned = [self.split[axis] for axis in self.order]
        back = matrices.reshape(turned).transpose(np.argsort(self.order))
        return back.reshape(tuple(self.variable.shape))

    def sums(
        self, arguments: dict, of: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, int]:
        """Of a call, the sums of a function of the inputs, and how many rows.

        Args:
            arguments: Dict: what the layer is called with.
            of: Callable from an array to one of its shape.

        Returns:
            Tuple of a float array of shape `(matrices, inputs)` and an
            integer.
        """
        rows = self.read(arguments, every)
        return of(rows).sum(axis=1, dtype=np.float64), rows.shape[1]

    def moments(self, arguments: dict) -> tuple[np.ndarray, int]:
        """Of a call, the sum of products of the inputs, and how many rows.

        Args:
            arguments: Dict: what the layer is called with.

        Returns:
            Tuple of a float array of shape `(matrices, inputs, inputs)` and an
            integer.
        """
        rows = self.read(arguments, every)
        return rows.swapaxes(1, 2) @ rows, rows.shape[1]


class IndexMap(LinearMap):
    """An Embedding: each index reads one row."""

    def sums(
        self, arguments: dict, of: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, int]:
        indices = _inputs(arguments).ravel().astype(np.int64)
        counts = np.bincount(indices, minlength=self.shape[1])
        read, unread = of(np.ones(1)), of(np.zeros(1))
        totals = counts * read + (indices.size - counts) * unread
        return totals[None].astype(np.float64), indices.size

    def moments(self, arguments: dict) -> tuple[np.ndarray, int]:
        counts, rows = self.sums(arguments, np.abs)
        return np.diag(counts[0])[None], rows


def every(count: int) -> np.ndarray:
    """All rows are wanted."""
    return np.arange(count)


def maps_of(owner: keras.layers.Layer) -> list[LinearMap]:
    """The kernels that a layer itself uses, not those of layers in it.

    Args:
        owner: A built Keras layer.

    Returns:
        List of `LinearMap`, empty where how it uses its weights is not known.
    """
    for kinds, find in _KINDS:
        if isinstance(owner, kinds):
            return list(find(owner))
    return []


def arguments_of(owner: keras.layers.Layer, args, kwargs) -> dict:
    """What a layer was called with, by the names of its parameters."""
    call = inspect.signature(type(owner).call)
    bound = call.bind(owner, *args, **kwargs).arguments
    bound.update(bound.pop("kwargs", {}))
    return bound


def _matrix(variable, read, kind=LinearMap) -> LinearMap:
    """A kernel whose last axis is that of the outputs, all else inputs."""
    shape = tuple(variable.shape)
    inputs = math.prod(shape[:-1])
    order = tuple(range(len(shape)))
    return kind(variable, shape, order, (1, inputs, shape[-1]), read)


def _flat(x: np.ndarray, chosen: Chosen) -> np.ndarray:
    rows = x.reshape(-1, x.shape[-1])
    return rows[chosen(len(rows))][None]


def _inputs(arguments) -> np.ndarray:
    return to_numpy(arguments["inputs"])


def _dense(owner) -> Iterator[LinearMap]:
    yield _matrix(
        owner.kernel,
        lambda arguments, chosen: _flat(_inputs(arguments), chosen),
    )


def _embedding(owner) -> Iterator[LinearMap]:
    def read(arguments, chosen):
        indices = _inputs(arguments).ravel()
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
            windows.of(_inputs(arguments), chosen), groups
        ),
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
            windows.of(_inputs(arguments), chosen), 1
        ),
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
            windows.of(_inputs(arguments), chosen), channels
        ),
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
        x = _inputs(arguments)
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


_layers = keras.layers
_KINDS: tuple[tuple[tuple, Callable], ...] = (
    ((_layers.Dense,), _dense),
    ((_layers.EinsumDense,), _einsum),
    ((_layers.Embedding,), _embedding),
    (
        (
            _layers.Conv1DTranspose,
            _layers.Conv2DTranspose,
            _layers.Conv3DTranspose,
        ),
        _transposed,
    ),
    ((_layers.DepthwiseConv1D, _layers.DepthwiseConv2D), _depthwise),
    ((_layers.SeparableConv1D, _layers.SeparableConv2D), _separable),
    ((_layers.Conv1D, _layers.Conv2D, _layers.Conv3D), _convolution),
    ((convolutional_cell(),), _convolutional_cell),
    (
        (_layers.SimpleRNNCell, _layers.LSTMCell, _layers.GRUCell),
        _cell,
    ),
)
