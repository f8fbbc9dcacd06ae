"""The pieces of a graph that XNNPACK may compute with channels first.

XNNPACK (`xnn_subgraph_rewrite_for_nchw`) grows such a piece from its start,
operator by operator. It makes sure that nothing else reads what the piece
*reads*, and never looks at who reads what the piece *writes* last: there,
numbers in one order are read in another, and all that follows is wrong. So a
file is right on every CPU only where all that belongs to a piece is supported
in each version, and nothing but a mean or DEPTH_TO_SPACE leads out of it.
"""

from collections.abc import Iterator

from kprune.tflite import sparse_rules
from kprune.tflite.flatbuffer import Graph, Operator

_ENDS = ("DEPTH_TO_SPACE", "MEAN", "SUM")
_IN_TWO_ORDERS = (
    "it reads with channels last what XNNPACK may have written with channels "
    "first"
)
# "quantized_node_does_not_reach_unreachable" in XNNPACK's tests.
_INTEGERS = (
    "its weights are integers, and some versions of XNNPACK count the zeros "
    "of all kernels as if they were floats, and may crash"
)


def leak(graph: Graph) -> tuple[Operator, str] | None:
    """Where a sparse-encoded graph can compute wrong numbers.

    Args:
        graph: `Graph`.

    Returns:
        Tuple of the `Operator` that makes the numbers wrong, and why; `None`
        if they are right on every CPU.
    """
    # XNNPACK goes by the encoding, and by whether there is an end somewhere.
    is_encoded = any(tensor.is_sparse for tensor in graph.tensors)
    if not is_encoded or not any(_is_end(o, graph) for o in graph.operators):
        return None
    for operator in graph.operators:
        if sparse_rules.counts_integers(operator, graph):
            return operator, _INTEGERS
    for start in graph.operators:
        if sparse_rules.is_start(start, graph):
            piece = _piece(start, graph)
            if any(_is_mostly_zeros(operator, graph) for operator in piece):
                found = next(_leaks(piece, graph), None)
                if found:
                    return found
    return None


def _is_end(operator, graph) -> bool:
    """Whether it directly follows what can be computed with channels first."""
    return (
        operator.kind in _ENDS
        and sparse_rules.is_possible(operator, graph)
        and operator.inputs[0] not in graph.outputs
        and None not in _producers(operator, graph)
    )


def _is_mostly_zeros(operator, graph) -> bool:
    """Whether its zeros can be reason enough to compute a piece sparsely.

    More than two thirds of all weights of a piece must be zeros, so of one
    of its kernels too.
    """
    if not sparse_rules.skips_zeros(operator, graph):
        return False
    kernel = graph.constant(operator.inputs[1])
    return 3 * kernel.zeros > 2 * kernel.size


def _piece(start, graph) -> list[Operator]:
    """All that can be computed with channels first along with a start."""
    members, waiting = set(), [start]
    while waiting:
        operator = waiting.pop()
        if operator not in members:
            members.add(operator)
            waiting += filter(None, _producers(operator, graph))
            for index in _passed_on(operator):
                waiting += (
                    reader
                    for reader in _readers(index, graph)
                    if _joins(reader, graph)
                )
    return [operator for operator in graph.operators if operator in members]


def _leaks(piece, graph) -> Iterator[tuple[Operator, str]]:
    """The operators that make a piece wrong, and why."""
    for operator in piece:
        reason = sparse_rules.exclusion(operator, graph)
        if reason:
            yield operator, reason
        elif None in _producers(operator, graph):
            yield operator, _IN_TWO_ORDERS
        for index in _passed_on(operator):
            if len(graph.tensors[index].shape) != 4:
                continue  # no image any more, so no order
            readers = _readers(index, graph)
            others = [x for x in readers if not _joins(x, graph)]
            # A mean over all of an image is the same in both orders.
            if operator.kind == "MEAN" and len(others) == len(readers):
                continue
            if index in graph.outputs:
                yield operator, "what it computes is an output of the model"
            for other in others:
                reason = sparse_rules.exclusion(other, graph)
                yield other, reason or _IN_TWO_ORDERS


def _passed_on(operator) -> tuple:
    """The outputs of an operator that can have channels first."""
    return () if operator.kind == "DEPTH_TO_SPACE" else operator.outputs


def _joins(reader, graph) -> bool:
    """Whether a reader can be computed with channels first as well."""
    return sparse_rules.is_possible(
        reader, graph
    ) and not sparse_rules.is_start(reader, graph)


def _readers(index, graph) -> list[Operator]:
    """The operators that read a tensor, through the padding before them."""
    found = []
    for reader in graph.consumers[index]:
        if reader.kind == "PAD" and sparse_rules.is_possible(reader, graph):
            found += graph.consumers[reader.outputs[0]]
        else:
            found.append(reader)
    return found


def _producers(operator, graph) -> list[Operator | None]:
    """The operators that make what one reads, `None` where channels of it are
    last whatever XNNPACK does; none for a start, which reads such."""
    if sparse_rules.is_start(operator, graph):
        return []
    found = []
    for index in sparse_rules.computed(operator, graph):
        producer = graph.producers.get(index)
        if producer is not None and producer.kind == "PAD":
            if sparse_rules.is_possible(producer, graph):
                producer = graph.producers.get(producer.inputs[0])
        is_last = (
            producer is None
            or not _passed_on(producer)
            or not sparse_rules.is_possible(producer, graph)
        )
        found.append(None if is_last else producer)
    return found
