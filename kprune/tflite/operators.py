"""What the operators of a `.tflite` file cost."""

import math

from kprune.tflite.graphs import Graph, Operator, Tensor

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
# What they compute has as many samples as what they are given.
_KEEP_BATCH = (
    "ADD",
    "AVERAGE_POOL_2D",
    "BATCH_MATMUL",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "DEQUANTIZE",
    "DIV",
    "ELU",
    "GELU",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "MAX_POOL_2D",
    "MEAN",
    "MUL",
    "PAD",
    "PADV2",
    "PRELU",
    "QUANTIZE",
    "RELU",
    "RELU6",
    "RSQRT",
    "SOFTMAX",
    "SQUARED_DIFFERENCE",
    "SUB",
    "TANH",
)
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
        graphs: What `kprune.tflite.flatbuffer.read` returns.

    Returns:
        Integer. The constants that are floats or quantized, each once.
    """
    # The graphs of several signatures, or of loops, share what they hold.
    sizes = {
        tensor.buffer: tensor.size
        for graph in graphs
        for tensor in graph.tensors
        if tensor.is_parameter
    }
    return sum(sizes.values())


def kernels(graphs: tuple[Graph, ...]) -> list[Tensor]:
    """Finds the constants that operators multiply with or look up in.

    Args:
        graphs: What `kprune.tflite.flatbuffer.read` returns.

    Returns:
        List of `Tensor`, one of those that share their data.
    """
    found = {}
    for graph in graphs:
        for operator in graph.operators:
            for place in _KERNELS.get(operator.kind, ()):
                kernel = graph.constant(operator.inputs[place])
                if kernel is not None and kernel.is_parameter:
                    found[kernel.buffer] = kernel
    return list(found.values())


def macs(graphs: tuple[Graph, ...]) -> int | None:
    """Counts the multiply-accumulates of a file for one sample.

    Args:
        graphs: What `kprune.tflite.flatbuffer.read` returns.

    Returns:
        Integer: that of one run where inputs and outputs differ in their
        first sizes, which then are no batch. `None` where an operator does
        not show them, or the file leaves a size open that they depend on.
    """
    main = graphs[0]
    total = _graph_macs(main, graphs)
    ends = (*main.inputs, *main.outputs)
    firsts = {main.tensors[index].shape[:1] for index in ends}
    batch_size = math.prod(*firsts) if len(firsts) == 1 else 1
    return None if total is None else total // max(batch_size, 1)


def _graph_macs(graph, graphs) -> int | None:
    known = _of_known_shape(graph, graph is graphs[0])
    total = 0
    for operator in graph.operators:
        count = _macs(operator, graph, known, graphs)
        if count is None:
            return None
        total += count
    return total


def _of_known_shape(graph, is_main) -> set[int]:
    """The tensors whose shape is that for one sample.

    Where the batch is open a shape has 1. What else is open has 1 as well, and
    so has the first axis where places were moved there, such as by a dilated
    convolution: an operator is trusted only if it keeps the batch.
    """
    known = {i for i, t in enumerate(graph.tensors) if not t.open_axes}
    if is_main:
        known.update(
            i for i in graph.inputs if graph.tensors[i].open_axes == (0,)
        )
    for operator in graph.operators:
        if known.issuperset(i for i in operator.inputs if i >= 0):
            known.update(
                i
                for i in operator.outputs
                if graph.tensors[i].open_axes == (0,)
                and _keeps_batch(operator, graph.tensors[i], graph)
            )
    return known


def _keeps_batch(operator, output, graph) -> bool:
    inputs = [graph.tensors[i] for i in operator.inputs if i >= 0]
    if operator.kind == "RESHAPE":
        return output.size == inputs[0].size
    if operator.kind == "CONCATENATION":  # not of batches
        return output.size == sum(tensor.size for tensor in inputs)
    if operator.kind == "FULLY_CONNECTED":
        # It may take all axes but the last for samples.
        units, features = inputs[1].shape
        return output.size * features == inputs[0].size * units
    return operator.kind in _KEEP_BATCH


def _macs(operator: Operator, graph: Graph, known, graphs) -> int | None:
    kind = operator.kind
    if kind in _UNKNOWN or kind.startswith("STABLEHLO_"):
        return None
    if kind == "WHILE":
        steps = _steps(operator, graph, graphs)
        body = graphs[operator.options.bodySubgraphIndex]
        inner = _graph_macs(body, graphs)
        return None if steps is None or inner is None else steps * inner
    if not operator.outputs:  # it only has an effect
        return 0
    # Each element of the one meets these axes of the other.
    element, other = operator.outputs[0], 1
    if kind in ("CONV_2D", "FULLY_CONNECTED"):  # output channels come first
        axes = slice(1, None)
    elif kind == "DEPTHWISE_CONV_2D":
        axes = slice(1, 3)
    elif kind == "CONV_3D":
        axes = slice(-1)
    elif kind in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):
        element, axes = operator.inputs[2], slice(-1)
    elif kind == "BATCH_MATMUL":
        other = 0
        axes = slice(-2, -1) if operator.options.adjX else slice(-1, None)
    else:
        return 0
    other = operator.inputs[other]
    elements, others = graph.tensors[element], graph.tensors[other].shape
    is_ranked = elements.shape and len(others) > 1  # their rank can be open
    if not is_ranked or not known.issuperset((element, other)):
        return None
    return elements.size * math.prod(others[axes])


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
