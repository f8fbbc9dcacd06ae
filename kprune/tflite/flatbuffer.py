"""Reading `.tflite` files: their tensors and operators."""

import collections
import dataclasses
import functools
import math
import os
import struct
from typing import Any, cast

import numpy as np

from kprune.files import check_is_file
from kprune.tflite import damage

# Numbers that a model multiplies with or adds; the other constants of a file
# are shapes and axes.
_FLOATS = {"FLOAT16": np.float16, "FLOAT32": np.float32, "FLOAT64": np.float64}
_QUANTIZED = {
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
}
# Operators that only unpack what the file holds.
UNPACKING = ("DENSIFY", "DEQUANTIZE")
# The schema's classes of the options we read.
_OPTIONS = {
    "BATCH_MATMUL": "BatchMatMulOptionsT",
    "CONV_2D": "Conv2DOptionsT",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptionsT",
    "WHILE": "WhileOptionsT",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a file.

    Args:
        name: String.
        shape: Tuple of integers; 1 where a size is open.
        open_axes: Tuple of the axes whose size is open.
        type: String, as the schema names it, such as `"FLOAT32"`.
        data: Array of bytes; `None` if it is computed.
        buffer: Integer. Where the file has the data; tensors can share it.
        zero_points: Array: which integer stands for 0, one or one per index
            of `quantized_axis`; empty if it is not quantized.
        quantized_axis: Integer.
        is_sparse: Boolean. Whether only a part of its numbers is stored.
    """

    name: str
    shape: tuple
    open_axes: tuple
    type: str
    data: np.ndarray | None
    buffer: int
    zero_points: np.ndarray
    quantized_axis: int
    is_sparse: bool

    @property
    def size(self) -> int:
        """Integer. How many numbers it has, those not stored included."""
        return math.prod(self.shape)

    @property
    def is_parameter(self) -> bool:
        """Whether it is a constant of floats or quantized numbers."""
        if self.data is None:
            return False
        is_packed = self.type in ("INT4", "BFLOAT16")
        is_quantized = self.type in _QUANTIZED and self.zero_points.size > 0
        return self.type in _FLOATS or is_packed or is_quantized

    @property
    def zeros(self) -> int:
        """Integer. How many numbers of a parameter stand for exactly 0."""
        stored = self.stored
        points = self.zero_points
        zero: np.ndarray | int = 0
        if points.size > 1 and not self.is_sparse:
            shape = [1] * len(self.shape)
            shape[self.quantized_axis] = -1
            stored, zero = stored.reshape(self.shape), points.reshape(shape)
        elif points.size > 0:
            zero = points.flat[0]
        return self.size - int(np.count_nonzero(stored != zero))

    @property
    def stored(self) -> np.ndarray:
        """Array of the numbers that the file holds, flat, as integers if they
        are quantized; of constants only."""
        data = cast(np.ndarray, self.data)
        if self.type == "INT4":  # two in a byte, the first one low
            halves = np.stack([data & 15, data >> 4], axis=-1)
            return (halves.ravel()[: self.size].astype(np.int8) ^ 8) - 8
        if self.type == "BFLOAT16":  # without the sign, as -0 is 0
            return data.view(np.uint16) & 0x7FFF
        return data.view({**_FLOATS, **_QUANTIZED}[self.type])


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """One operator of a file.

    Args:
        kind: String, as the schema names it, such as `"CONV_2D"`.
        inputs: Tuple of indices of tensors; negative where one is left out.
        outputs: Tuple of indices of tensors; empty where it only has an
            effect, such as to assign to a variable.
        options: What the schema has for this kind; may be `None`.
    """

    kind: str
    inputs: tuple
    outputs: tuple
    options: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """One graph of a file; the first is the model, others are in loops.

    Args:
        tensors: Tuple of `Tensor`.
        operators: Tuple of `Operator`, in the order in which they run.
        inputs: Tuple of indices of tensors.
        outputs: Tuple of indices of tensors.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple
    outputs: tuple

    @functools.cached_property
    def producers(self) -> dict[int, Operator]:
        """Dict from the index of a tensor to the operator that computes it."""
        return {
            index: operator
            for operator in self.operators
            for index in operator.outputs
        }

    @functools.cached_property
    def consumers(self) -> dict[int, list[Operator]]:
        """Dict from the index of a tensor to the operators that read it."""
        found = collections.defaultdict(list)
        for operator in self.operators:
            for index in dict.fromkeys(operator.inputs):
                found[index].append(operator)
        return found

    def constant(self, index: int) -> Tensor | None:
        """The constant that a tensor is, unpacked or not; else `None`.

        Args:
            index: Index of a tensor.

        Returns:
            `Tensor` as the file holds it, or `None` if it is computed.
        """
        while index >= 0 and self.tensors[index].data is None:
            producer = self.producers.get(index)
            if producer is None or producer.kind not in UNPACKING:
                return None
            index = producer.inputs[0]
        return self.tensors[index] if index >= 0 else None


def read(path: str | os.PathLike) -> tuple[Graph, ...]:
    """Reads a `.tflite` file.

    Args:
        path: The file.

    Returns:
        Tuple of `Graph`.

    Raises:
        ValueError: If there is no such file, it is no `.tflite` file, or it
            is damaged.
    """
    from ai_edge_litert import schema_py_generated as schema

    path = os.fspath(path)
    check_is_file(path)
    with open(path, "rb") as file:
        content = file.read()
    if content[4:8] != b"TFL3":
        raise ValueError(
            f"'{path}' is no `.tflite` file: it does not have the mark 'TFL3' "
            "that such files start with."
        )
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graphs = tuple(
            _graph(model, graph, content, schema) for graph in model.subgraphs
        )
        damage.check_loops(graphs)
        return graphs
    # What the reader raises where an offset leads to nowhere.
    except (
        AttributeError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise ValueError(
            f"'{path}' is a damaged `.tflite` file ({len(content):,} bytes): "
            f"it may have been cut short. Export it again. ({error})"
        ) from error


def _graph(model, graph, content, schema) -> Graph:
    kinds = _names(schema.BuiltinOperator)
    types = _names(schema.TensorType)
    operators = []
    for operator in graph.operators or ():
        code = model.operatorCodes[operator.opcodeIndex]
        # Files of before 2020 have the code in the other field only.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        kind = kinds[number]
        outputs = _integers(operator.outputs)
        operators.append(
            Operator(
                kind,
                _integers(operator.inputs),
                tuple(index for index in outputs if index != -1),
                _options(kind, operator.builtinOptions, schema),
            )
        )
    tensors = [
        _tensor(tensor, types[tensor.type], model.buffers, content)
        for tensor in graph.tensors
    ]
    read = Graph(
        tuple(tensors),
        tuple(operators),
        _integers(graph.inputs),
        _integers(graph.outputs),
    )
    damage.check_graph(read)
    return read


def _options(kind, options, schema):
    if kind not in _OPTIONS:
        return options
    made_of = getattr(schema, _OPTIONS[kind])
    if options is None:
        return made_of()  # what is left out has its default
    if not isinstance(options, made_of):
        raise TypeError(f"the options of {kind} are of another operator")
    return options


def _tensor(tensor, type, buffers, content) -> Tensor:
    buffer = buffers[tensor.buffer]
    data = buffer.data
    if buffer.offset > 1:  # beyond 2 GB the numbers lie behind the rest
        data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    shape = _integers(tensor.shape)
    signature = _integers(tensor.shapeSignature)  # empty if none is open
    quantization = tensor.quantization
    zero_points, axis = np.zeros(0, np.int64), 0
    if quantization is not None and quantization.scale is not None:
        axis = quantization.quantizedDimension
        if quantization.zeroPoint is not None:
            zero_points = np.asarray(quantization.zeroPoint)
    if min(shape, default=0) < 0:
        raise ValueError(f"a tensor has the shape {shape}")
    read = Tensor(
        (tensor.name or b"").decode(),
        shape,
        tuple(axis for axis, size in enumerate(signature) if size < 0),
        type,
        None if data is None else np.asarray(data, np.uint8),
        tensor.buffer,
        zero_points,
        axis,
        tensor.sparsity is not None,
    )
    is_number = type in (*_FLOATS, *_QUANTIZED) or read.is_parameter
    if data is not None and is_number:
        if read.stored.size != read.size and not read.is_sparse:
            raise ValueError(f"numbers of '{read.name}' are missing")
        if zero_points.size > 1 and zero_points.size != shape[axis]:
            raise ValueError(f"zero points of '{read.name}' are missing")
    return read


def _integers(values) -> tuple:
    return () if values is None else tuple(int(value) for value in values)


def _names(enumeration) -> dict[int, str]:
    return {
        number: name
        for name, number in vars(enumeration).items()
        if not name.startswith("_")
    }
