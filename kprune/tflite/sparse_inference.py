"""Whether XNNPACK's kernels for sparse weights would run a `.tflite` file.

The rules are those of `xnn_subgraph_rewrite_for_nchw` in XNNPACK's
`src/subgraph.c`. Part of a graph is computed with channels first, and its 1x1
convolutions skip zeros, if it starts with one kind of convolution, ends in
one of two ways, and has nothing between that is not known there.
"""

import dataclasses
import os

from kprune.tflite import flatbuffer, sparse_pieces, sparse_rules

_ENDS = ("DEPTH_TO_SPACE", "MEAN")
_WHERE = "Sparse inference on ARM or WebAssembly"


@dataclasses.dataclass(frozen=True)
class SparseInferenceCheck:
    """What XNNPACK's sparse path makes of a file on ARM or WebAssembly.

    Args:
        verdict: String. `"faster"`: zeros are skipped. `"no gain"`: they are
            not, and the file is right. `"wrong"`: the file computes wrong
            numbers, in some or all versions of XNNPACK.
        operator: String. The first operator that a rule excludes, with the
            name of what it computes; empty if there is none, or the rule is
            about the whole graph.
        reason: String. The rule; empty if the file gets faster.

    Example:

    ```python
    check = kprune.check_sparse_inference("pruned.tflite")
    print(check)
    ```
    """

    verdict: str
    operator: str = ""
    reason: str = ""

    @property
    def is_eligible(self) -> bool:
        """Whether zeros are skipped."""
        return self.verdict == "faster"

    def to_dict(self) -> dict:
        """Returns the check as a dict of plain Python values."""
        return {"is_eligible": self.is_eligible, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        if self.is_eligible:
            return f"{_WHERE}: faster"
        where = f"{self.operator}: " if self.operator else ""
        if self.verdict == "wrong":
            return (
                f"{_WHERE}: WRONG NUMBERS. {where}{self.reason}. Export with "
                "`sparse=False`"
            )
        return f"{_WHERE}: no gain. {where}{self.reason}"


def check_sparse_inference(path: str | os.PathLike) -> SparseInferenceCheck:
    """Checks what zeros do to a `.tflite` file on a phone or in a browser.

    Zeros that are not whole filters are skipped by few kernels. LiteRT's CPU
    delegate XNNPACK has some for ARM and WebAssembly, for float weights, and
    takes them for a narrow kind of sparse-encoded graph. For some graphs that
    are almost of this kind it takes them and computes wrong numbers.
    `kprune.export` writes no such file; another converter may.

    The check reads the file and measures nothing. It goes by all versions of
    XNNPACK since 2022. It says nothing about x86, where the path is off on
    every CPU with AVX, nor about GPUs and NPUs.

    Args:
        path: The file.

    Returns:
        A `SparseInferenceCheck`.

    Raises:
        ValueError: If the file is missing, damaged, or no `.tflite` file.

    Example:

    ```python
    check = kprune.check_sparse_inference("pruned.tflite")
    if check.verdict != "faster":
        print(check.operator, check.reason)
    ```
    """
    graphs = flatbuffer.read(path)
    for graph in graphs:
        leak = sparse_pieces.leak(graph)
        if leak:
            return _answer("wrong", graph, *leak)
    graph = graphs[0]
    reasons = {o: sparse_rules.exclusion(o, graph) for o in graph.operators}
    ends = [o for o in graph.operators if o.kind in _ENDS]
    if not ends:
        return SparseInferenceCheck(
            "no gain",
            reason="it has no MEAN over height and width (global average "
            "pooling) and no DEPTH_TO_SPACE, in one of which it has to end",
        )
    found = [_check(graph, end, reasons) for end in ends]
    # The last end has most of the graph before it.
    return next((check for check in found if check.is_eligible), found[-1])


def _check(graph, end, reasons) -> SparseInferenceCheck:
    members, excluded = _members(graph, end, reasons)
    if excluded:
        order = {operator: i for i, operator in enumerate(graph.operators)}
        operator = min(excluded, key=order.__getitem__)
        return _no(graph, operator, excluded[operator])
    kernels = {
        operator: graph.constant(operator.inputs[1])
        for operator in members
        if sparse_rules.skips_zeros(operator, graph)
    }
    convolutions = [o for o in kernels if o.kind == "CONV_2D"]
    if not convolutions:
        return _no(graph, end, "there is no 1x1 convolution before it")
    # Versions of before 2025 do not count what follows the pooling.
    for counted, what in (
        (convolutions, "1x1 convolutions"),
        (list(kernels), "1x1 convolutions and Dense layers"),
    ):
        size = sum(kernels[operator].size for operator in counted)
        zeros = sum(kernels[operator].zeros for operator in counted)
        if 3 * zeros <= 2 * size:
            fewest = min(
                counted, key=lambda o: kernels[o].zeros / kernels[o].size
            )
            return _no(
                graph,
                fewest,
                f"{zeros:,} of the {size:,} weights of {what} are zeros "
                f"({zeros / size:.1%}); more than two thirds must be. This "
                "one has the fewest",
            )
    if not any(kernel.is_sparse for kernel in kernels.values()):
        return _no(
            graph,
            convolutions[0],
            "no weights are sparse-encoded, which is the sign for XNNPACK to "
            "look for zeros: export with `sparse=True`",
        )
    return SparseInferenceCheck("faster")


def _members(graph, end, reasons) -> tuple[list, dict]:
    """The part of a graph before an end, and what must not be there."""
    members, excluded = [], {}
    waiting = [end]
    while waiting:
        operator = waiting.pop()
        if operator in members:
            continue
        members.append(operator)
        if reasons[operator]:
            excluded[operator] = reasons[operator]
        elif operator.kind == "DEPTH_TO_SPACE" and operator is not end:
            excluded[operator] = "what follows is computed with channels last"
        if sparse_rules.is_start(operator, graph):
            continue
        for index in sparse_rules.computed(operator, graph):
            producer = graph.producers.get(index)
            if producer is None:
                reader = operator
                if operator.kind == "PAD" and not reasons[operator]:
                    (reader,) = graph.consumers[operator.outputs[0]]
                excluded[reader] = reasons[reader] or (
                    "it reads an input of the model; "
                    f"{sparse_rules.START} must come first"
                )
            else:
                waiting.append(producer)
    for operator in list(members):
        if operator.kind in _ENDS:
            _follow(graph, operator, reasons, members)
    for operator in members:
        if reasons[operator] or sparse_rules.is_start(operator, graph):
            continue
        for index in sparse_rules.computed(operator, graph):
            if index in graph.outputs:
                excluded[graph.producers.get(index, operator)] = (
                    "what it computes is an output of the model and is also "
                    "read with channels first"
                )
            for reader in graph.consumers[index]:
                if reader not in members:
                    excluded[reader] = reasons[reader] or (
                        "it leads out of the part with channels first, which "
                        "only a MEAN or DEPTH_TO_SPACE may"
                    )
    return members, excluded


def _follow(graph, end, reasons, members) -> None:
    """Adds what can still be computed behind the pooling."""
    for index in end.outputs:
        for reader in graph.consumers[index]:
            if not reasons[reader] and reader not in members:
                if reader.kind == "FULLY_CONNECTED":
                    members.append(reader)
                    _follow(graph, reader, reasons, members)


def _no(graph, operator, reason) -> SparseInferenceCheck:
    return _answer("no gain", graph, operator, reason)


def _answer(verdict, graph, operator, reason) -> SparseInferenceCheck:
    # What has only an effect goes by what it reads.
    named = (*operator.outputs, *operator.inputs)
    name = graph.tensors[named[0]].name
    return SparseInferenceCheck(verdict, f"{operator.kind} '{name}'", reason)
