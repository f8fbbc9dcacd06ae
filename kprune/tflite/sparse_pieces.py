"""What XNNPACK's sparse path does with a graph, version by version.

`xnn_subgraph_rewrite_for_nchw` grows pieces of a graph that it computes with
channels first, from a start on. It makes sure that nothing else reads what a
piece *reads*, and never looks at who reads what it *writes* last: there,
numbers in one order are taken for numbers in another. This module takes the
same steps, as each version may that a phone or a browser has, and looks.
"""

import collections
import itertools
from collections.abc import Iterator

from kprune.tflite import sparse_rules
from kprune.tflite.graphs import UNPACKING, Graph, Operator

_ENDS = ("DEPTH_TO_SPACE", "MEAN", "SUM")
_IN_OTHER_ORDER = (
    "it reads with channels last what XNNPACK writes with channels first"
)
_OUTPUT = "what it computes is an output of the model, with channels first"
_SHAPE = "the axes that it keeps come out in another order"
# "quantized_node_does_not_reach_unreachable" in XNNPACK's tests.
_INTEGERS = (
    "its weights are integers, and some versions of XNNPACK count the zeros "
    "of all kernels as if they were floats, and may crash"
)


def leak(graph: Graph) -> tuple[Operator, str] | None:
    """Where some version computes wrong numbers from a graph.

    Args:
        graph: `Graph`.

    Returns:
        Tuple of the `Operator` that makes the numbers wrong, and why; `None`
        if they are right on every CPU.
    """
    # XNNPACK goes by the encoding.
    if any(tensor.is_sparse for tensor in graph.tensors):
        nodes = _Nodes(graph)
        for supported, is_split in _versions(nodes):
            found = next(_Pieces(nodes, supported, is_split).leaks(), None)
            if found:
                return found
    return None


class _Nodes:
    """A graph as XNNPACK has it: padding is a part of the convolution.

    Args:
        graph: `Graph`.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.reasons = {
            operator: sparse_rules.exclusion(operator, graph)
            for operator in graph.operators
        }
        self.operators = [
            operator
            for operator in graph.operators
            if operator.kind not in UNPACKING and not self._is_fused(operator)
        ]
        self.starts = {
            operator
            for operator in self.operators
            if sparse_rules.is_start(operator, graph)
        }
        # Numbers of weights and of zeros, where the latter are skipped.
        self.counts = {}
        for operator in self.operators:
            if sparse_rules.skips_zeros(operator, graph):
                kernel = graph.constant(operator.inputs[1])
                if kernel is not None:
                    self.counts[operator] = (kernel.size, kernel.zeros)
        self.reads = {o: self._reads(o) for o in self.operators}
        self.readers = collections.defaultdict(list)
        for operator, indices in self.reads.items():
            for index in indices:
                self.readers[index].append(operator)

    def _is_fused(self, operator) -> bool:
        return operator.kind == "PAD" and not self.reasons[operator]

    def _reads(self, operator) -> list[int]:
        """The tensors that an operator reads, without constants."""
        found: dict[int, None] = {}
        for index in sparse_rules.computed(operator, self.graph):
            producer = self.graph.producers.get(index)
            if producer is not None and self._is_fused(producer):
                index = producer.inputs[0]
            found[index] = None
        return list(found)


def _versions(nodes) -> Iterator[tuple[set, bool]]:
    """What each version can compute with channels first, and whether all else
    is computed outside of XNNPACK, so that values come and go there."""
    always, later = set(nodes.starts), collections.defaultdict(set)
    for operator in nodes.operators:
        reason = nodes.reasons[operator]
        # Versions of before 2025 leave out Dense layers.
        if operator.kind == "FULLY_CONNECTED" and not reason:
            later[operator.kind].add(operator)
        elif not reason:
            always.add(operator)
        elif reason in sparse_rules.BY_VERSION:
            later[reason].add(operator)
    for chosen in itertools.product((False, True), repeat=len(later)):
        supported = always.union(*itertools.compress(later.values(), chosen))
        yield supported, False
        yield supported, True


class _Pieces:
    """The pieces that one version finds, in the steps that it takes.

    Args:
        nodes: `_Nodes`.
        supported: Set of the operators that it can compute with channels
            first.
        is_split: Boolean. Whether others are computed outside of XNNPACK.
    """

    def __init__(self, nodes: _Nodes, supported: set, is_split: bool):
        self._nodes = nodes
        self._supported = supported
        self._is_split = is_split
        self._takes = [
            operator
            for operator in nodes.operators
            if operator in supported and operator not in nodes.starts
        ]
        # The last operator of the piece that each one is in.
        self._last = {operator: operator for operator in nodes.operators}
        self._order = {o: number for number, o in enumerate(nodes.operators)}
        self._excluded: set[Operator] = set()
        self._begins = self._grow()

    def leaks(self) -> Iterator[tuple[Operator, str]]:
        """Operators that make numbers wrong, and why."""
        if not self._begins:
            return
        nodes, graph = self._nodes, self._nodes.graph
        for operator in nodes.operators:
            if sparse_rules.counts_integers(operator, graph):
                yield operator, _INTEGERS
        first = self._channels_first()
        for operator in self._takes:
            is_first = not first.isdisjoint(nodes.reads[operator])
            reason = nodes.reasons[operator]
            if is_first and reason in sparse_rules.COMPUTED_WRONGLY:
                yield operator, reason
            for index in operator.outputs:
                is_image = len(graph.tensors[index].shape) == 4
                is_last = operator.kind == "DEPTH_TO_SPACE"
                if not is_image or is_last or (index in first) == is_first:
                    continue
                if operator.kind in _ENDS:
                    yield operator, _SHAPE
                if index in graph.outputs:
                    yield operator, _OUTPUT
                for reader in nodes.readers[index]:
                    yield reader, nodes.reasons[reader] or _IN_OTHER_ORDER

    def _grow(self) -> bool:
        """Joins operators; returns whether there is an end to begin with."""
        ends = [operator for operator in self._takes if operator.kind in _ENDS]
        # Lists: all of them are joined, not all until the first that is new.
        begins = changes = any([self._join(operator) for operator in ends])
        while changes:
            waiting = [o for o in self._takes if o not in self._excluded]
            changes = any([self._join(operator) for operator in waiting])
        for operator in self._nodes.operators:
            if operator in self._excluded:
                self._excluded.add(self._last[operator])
        return begins

    def _join(self, operator) -> bool:
        """Joins an operator with those it reads; whether that is new."""
        is_new = False
        for index in self._nodes.reads[operator]:
            producer = self._nodes.graph.producers.get(index)
            if (
                producer is None
                or self._is_outside(index)
                or not self._gives(producer)
            ):
                self._excluded.add(operator)
                continue
            lasts = (self._last[producer], self._last[operator])
            if lasts[0] is not lasts[1]:
                last = max(lasts, key=self._order.__getitem__)
                self._last[producer] = self._last[operator] = last
                is_new = True
        return is_new

    def _is_outside(self, index) -> bool:
        """Whether a tensor comes from outside of XNNPACK or goes there."""
        graph = self._nodes.graph
        if index in graph.inputs or index in graph.outputs:
            return True
        is_kept = self._supported.issuperset(self._nodes.readers[index])
        return self._is_split and not is_kept

    def _gives(self, producer) -> bool:
        """Whether an operator can write channels first."""
        return (
            producer in self._supported
            and producer not in self._excluded
            and producer.kind != "DEPTH_TO_SPACE"
        )

    def _channels_first(self) -> set[int]:
        """The tensors that have channels first in the end."""
        nodes = self._nodes
        counts = collections.Counter(
            index
            for operator in self._remaining()
            for index in nodes.reads[operator]
        )
        for operator in self._remaining():
            for index in nodes.reads[operator]:
                is_output = index in nodes.graph.outputs
                if counts[index] != len(nodes.readers[index]) + is_output:
                    self._excluded.add(self._last[operator])
        weights: collections.Counter[Operator] = collections.Counter()
        zeros: collections.Counter[Operator] = collections.Counter()
        for operator in self._remaining():
            size, missing = nodes.counts.get(operator, (0, 0))
            weights[self._last[operator]] += size
            zeros[self._last[operator]] += missing
        return {
            index
            for operator in self._remaining()
            if 3 * zeros[self._last[operator]]
            > 2 * weights[self._last[operator]]
            for index in nodes.reads[operator]
        }

    def _remaining(self) -> list[Operator]:
        """The operators that can have channels first, of pieces that may."""
        return [o for o in self._takes if self._last[o] not in self._excluded]
