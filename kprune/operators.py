"""What the operators of a `.tflite` file cost."""

import math

from kprune.flatbuffer import Graph, Operator, Tensor

# Which inputs of an operator are its weights, where they are constants.
_KERNELS = {
    "BATCH_MATMUL": (0, 1),
    "CONV_2D": (1,),
    "CONV_3D": (1,),
    "CONV_3D_TRANSPOSE": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "EMBEDDING_LOOKUP": (1,),
    "FULLY_CONNECTED": (1,),
    "GATHER": (0,),
    "TRANSPOSE_CONV": (1,),
}
# They multiply, but what and how often cannot be read from their shapes.
_UNKNOWN = (
    "BIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_RNN",
    "CALL",
    "CUSTOM",
    "IF",
    "LSTM",
    "RNN",
    "SVDF",
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "UNIDIRECTIONAL_SEQUENCE_RNN",
)


def parameters(graphs: tuple[Graph, ...]) -> int:
    """Counts the numbers that a file stores, or leaves out as zeros.

    Args:
        graphs: What `kprune.flatbuffer.read` returns.

    Returns:
        Integer. The constants that are floats or quantized.
    """
    return sum(
        tensor.size
        for graph in graphs
        for tensor in graph.tensors
        if tensor.is_parameter
    )


def kernels(graphs: tuple[Graph, ...]) -> list[Tensor]:
    """Finds the constants that operators multiply with or look up in.

    Args:
        graphs: What `kprune.flatbuffer.read` returns.

    Returns:
        List of `Tensor`, each once.
    """
    found = {}
    for graph in graphs:
        for operator in graph.operators:
            for place in _KERNELS.get(operator.kind, ()):
                kernel = graph.constant(operator.inputs[place])
                if kernel is not None and kernel.is_parameter:
                    found[id(kernel)] = kernel
    return list(found.values())


def macs(graphs: tuple[Graph, ...]) -> int | None:
    """Counts the multiply-accumulates of a file for one sample.

    Args:
        graphs: What `kprune.flatbuffer.read` returns.

    Returns:
        Integer; `None` where an operator does not show them.
    """
    main = graphs[0]
    total = _graph_macs(main, graphs)
    shapes = [main.tensors[index].shape for index in main.inputs]
    batch_size = shapes[0][0] if shapes and shapes[0] else 1
    return None if total is None else total // max(batch_size, 1)


def _graph_macs(graph, graphs) -> int | None:
    counts = [_macs(operator, graph, graphs) for operator in graph.operators]
    return None if None in counts else sum(counts)


def _macs(operator: Operator, graph: Graph, graphs) -> int | None:
    kind = operator.kind
    if kind in _UNKNOWN or kind.startswith("STABLEHLO_"):
        return None
    if kind == "WHILE":
        steps = _steps(operator, graph, graphs)
        body = graphs[operator.options.bodySubgraphIndex]
        inner = _graph_macs(body, graphs)
        return None if None in (steps, inner) else steps * inner
    if not operator.outputs:  # it only has an effect
        return 0
    shapes = [graph.tensors[i].shape for i in operator.inputs if i >= 0]
    output = math.prod(graph.tensors[operator.outputs[0]].shape)
    if kind in ("CONV_2D", "FULLY_CONNECTED"):  # output channels come first
        return output * math.prod(shapes[1][1:])
    if kind == "DEPTHWISE_CONV_2D":
        return output * math.prod(shapes[1][1:3])
    if kind == "CONV_3D":
        return output * math.prod(shapes[1][:4])
    if kind == "TRANSPOSE_CONV":
        return math.prod(shapes[2]) * math.prod(shapes[1][:3])
    if kind == "CONV_3D_TRANSPOSE":
        return math.prod(shapes[2]) * math.prod(shapes[1][:4])
    if kind == "BATCH_MATMUL":
        if len(shapes[0]) < 2:  # its rank is open
            return None
        return output * shapes[0][-2 if operator.options.adjX else -1]
    return 0


def _steps(operator, graph, graphs) -> int | None:
    """How often a loop runs that counts up to a constant."""
    condition = graphs[operator.options.condSubgraphIndex]
    body = graphs[operator.options.bodySubgraphIndex]
    steps = [
        _steps_to_limit(comparison, operator, graph, condition, body)
        for comparison in _comparisons(condition, condition.outputs[0])
    ]
    return None if not steps or None in steps else min(steps)


def _comparisons(condition, index) -> list:
    producer = condition.producers.get(index)
    if producer is not None and producer.kind == "LOGICAL_AND":
        return [c for i in producer.inputs for c in _comparisons(condition, i)]
    return [producer]


def _steps_to_limit(comparison, operator, graph, condition, body):
    if comparison is None or comparison.kind != "LESS":
        return None
    counter, limit = comparison.inputs
    if counter not in condition.inputs:
        return None
    place = condition.inputs.index(counter)
    start = _integer(graph, operator.inputs[place])
    limit = _limit(condition, limit, operator, graph)
    step = body.producers.get(body.outputs[place])
    is_counted = step is not None and step.kind == "ADD"
    if not is_counted or body.inputs[place] not in step.inputs:
        return None
    sizes = {_integer(body, index) for index in step.inputs}
    if None in (start, limit) or sizes != {None, 1}:
        return None
    return max(limit - start, 0)


def _limit(condition, index, operator, graph):
    if index in condition.inputs:
        index = operator.inputs[condition.inputs.index(index)]
        return _integer(graph, index)
    return _integer(condition, index)


def _integer(graph, index) -> int | None:
    if index < 0:
        return None
    tensor = graph.tensors[index]
    if tensor.data is None or tensor.type != "INT32" or tensor.size != 1:
        return None
    return int(tensor.stored[0])
