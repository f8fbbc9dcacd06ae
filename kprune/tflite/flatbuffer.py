"""Reading `.tflite` files."""

import os
import struct

import numpy as np

from kprune.files import check_is_file
from kprune.tflite import damage
from kprune.tflite.graphs import Graph, Operator, Tensor

# The schema's classes of the options we read.
_OPTIONS = {
    "BATCH_MATMUL": "BatchMatMulOptionsT",
    "CONV_2D": "Conv2DOptionsT",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptionsT",
    "WHILE": "WhileOptionsT",
}


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
    damage.check_tensor(read)
    return read


def _integers(values) -> tuple:
    return () if values is None else tuple(int(value) for value in values)


def _names(enumeration) -> dict[int, str]:
    return {
        number: name
        for name, number in vars(enumeration).items()
        if not name.startswith("_")
    }
