"""What of a `.tflite` file has to be there before anything reads it."""

# The inputs that operators we read must have: the rank, `None` for any.
_OPERANDS = {
    "BATCH_MATMUL": (None, None),
    "CONV_2D": (None, 4),
    "CONV_3D": (None, 5),
    "CONV_3D_TRANSPOSE": (None, 5, None),
    "DENSIFY": (None,),
    "DEPTHWISE_CONV_2D": (None, 4),
    "DEQUANTIZE": (None,),
    "EMBEDDING_LOOKUP": (None, None),
    "FULLY_CONNECTED": (None, 2),
    "GATHER": (None, None),
    "LESS": (None, None),
    "MEAN": (None, None),
    "PAD": (None, None),
    "RESHAPE": (None,),
    "TRANSPOSE_CONV": (None, 4, None),
}


def check_tensor(tensor) -> None:
    """Refuses a constant that lacks some of its numbers.

    Args:
        tensor: `kprune.tflite.graphs.Tensor`.

    Raises:
        IndexError: If the axis along which it is quantized is not there.
        ValueError: If numbers or zero points are missing.
    """
    if not tensor.is_of_numbers:
        return
    if tensor.stored.size != tensor.size and not tensor.is_sparse:
        raise ValueError(f"numbers of '{tensor.name}' are missing")
    points = tensor.zero_points.size
    if points > 1 and points != tensor.shape[tensor.quantized_axis]:
        raise ValueError(f"zero points of '{tensor.name}' are missing")


def check_graph(graph) -> None:
    """Refuses what no reader of a graph should have to think of.

    Args:
        graph: `kprune.tflite.graphs.Graph`.

    Raises:
        IndexError: If a tensor or an operand is not there.
        ValueError: If operators do not run in order or weights have a rank
            that their operator cannot have.
    """
    places = range(len(graph.tensors))
    if not all(i in places for i in (*graph.inputs, *graph.outputs)):
        raise IndexError("an input or output of the model is not there")
    computed = [index for o in graph.operators for index in o.outputs]
    later = set(computed)
    if len(later) < len(computed):
        raise ValueError("two operators compute the same tensor")
    for operator in graph.operators:
        kind, inputs = operator.kind, operator.inputs
        used = (*(i for i in inputs if i != -1), *operator.outputs)
        if not all(index in places for index in used):
            raise IndexError(f"{kind} uses a tensor that is not there")
        if not later.isdisjoint(inputs):
            raise ValueError(f"{kind} reads what is computed after it")
        later.difference_update(operator.outputs)
        if kind not in _OPERANDS:
            continue
        ranks = _OPERANDS[kind]
        if len(inputs) < len(ranks) or not operator.outputs:
            raise IndexError(f"{kind} lacks an input or its output")
        for index, rank in zip(inputs, ranks):
            if index == -1:
                raise IndexError(f"{kind} lacks an input")
            shape = graph.tensors[index].shape
            if rank is not None and (len(shape) != rank or 0 in shape):
                raise ValueError(f"{kind} has weights of shape {shape}")


def check_loops(graphs, index: int = 0, outer: tuple = ()) -> None:
    """Refuses loops whose graphs are missing, run themselves or do not fit.

    Args:
        graphs: Tuple of `kprune.tflite.graphs.Graph`.
        index: Integer. The graph whose loops are checked.
        outer: Tuple of the indices of the graphs that it runs in.

    Raises:
        IndexError: If a graph is not there.
        ValueError: If its inputs or outputs are not those of the loop.
    """
    outer = (*outer, index)
    for operator in graphs[index].operators:
        if operator.kind != "WHILE":
            continue
        options = operator.options
        inner = (options.condSubgraphIndex, options.bodySubgraphIndex)
        if not all(i in range(len(graphs)) and i not in outer for i in inner):
            raise IndexError("the graphs of a loop are not there")
        condition, body = (graphs[i] for i in inner)
        sizes = (operator.inputs, condition.inputs, body.inputs, body.outputs)
        if len(set(map(len, sizes))) > 1 or len(condition.outputs) != 1:
            raise ValueError("the graphs of a loop do not fit it")
        for i in inner:
            check_loops(graphs, i, outer)
