"""Whether XNNPACK's kernels for sparse weights would run a `.tflite` file.

The rules are those of `xnn_subgraph_rewrite_for_nchw` in XNNPACK's
`src/subgraph.c` of 2025. Part of a graph is computed with channels first, and
its 1x1 convolutions skip zeros, if it starts with one kind of convolution,
ends in one of two ways, and has nothing between that is not known there.
"""

import dataclasses
import os

from kprune import flatbuffer
from kprune.flatbuffer import Graph, Operator

_UNARY = (
    "ABS",
    "CEIL",
    "ELU",
    "EXP",
    "FLOOR",
    "GELU",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "NEG",
    "RELU",
    "RELU6",
    "RELU_0_TO_1",
    "RELU_N1_TO_1",
    "ROUND",
    "RSQRT",
    "SQRT",
    "SQUARE",
    "TANH",
)
_ENDS = ("DEPTH_TO_SPACE", "MEAN")
_START = "a 3x3 convolution of stride 2, of 3 channels, padded by 1"
# Values of `Padding` in the schema.
_SAME = 0


@dataclasses.dataclass(frozen=True)
class SparseInferenceCheck:
    """Whether XNNPACK's sparse path takes a file on ARM or WebAssembly.

    Args:
        is_eligible: Boolean.
        operator: String. The first operator that a rule excludes, with the
            name of what it computes; empty if there is none, or the rule is
            about the whole graph.
        reason: String. The rule; empty if the file is eligible.

    Example:

    ```python
    check = kprune.check_sparse_inference("pruned.tflite")
    print(check)
    ```
    """

    is_eligible: bool
    operator: str = ""
    reason: str = ""

    def to_dict(self) -> dict:
        """Returns the check as a dict of plain Python values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        if self.is_eligible:
            return "Sparse inference on ARM or WebAssembly: yes"
        where = f"{self.operator}: " if self.operator else ""
        return (
            f"Sparse inference on ARM or WebAssembly: no. {where}{self.reason}"
        )


def check_sparse_inference(path: str | os.PathLike) -> SparseInferenceCheck:
    """Checks whether zeros would make a `.tflite` file faster on a phone.

    Zeros that are not whole filters are skipped by few kernels. LiteRT's CPU
    delegate XNNPACK has some for ARM and WebAssembly, for float weights, and
    takes them for a narrow kind of graph. The check reads the file and
    measures nothing; it says nothing about x86, where the path is off on
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
    if not check.is_eligible:
        print(check.operator, check.reason)
    ```
    """
    graph = flatbuffer.read(path)[0]
    reasons = {o: _exclusion(o, graph) for o in graph.operators}
    ends = [o for o in graph.operators if o.kind in _ENDS]
    if not ends:
        return SparseInferenceCheck(
            False,
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
        operator = min(excluded, key=order.get)
        return _no(graph, operator, excluded[operator])
    kernels = {
        operator: graph.constant(operator.inputs[1])
        for operator in members
        if _skips_zeros(operator, graph)
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
    return SparseInferenceCheck(True)


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
        if not reasons[operator] and _is_start(operator, graph):
            continue
        for index in _computed(operator, graph):
            producer = graph.producers.get(index)
            if producer is None:
                reader = operator
                if operator.kind == "PAD" and not reasons[operator]:
                    (reader,) = graph.consumers[operator.outputs[0]]
                excluded[reader] = reasons[reader] or (
                    f"it reads an input of the model; {_START} must come first"
                )
            else:
                waiting.append(producer)
    for operator in list(members):
        if operator.kind in _ENDS:
            _follow(graph, operator, reasons, members)
    for operator in members:
        if reasons[operator] or _is_start(operator, graph):
            continue
        for index in _computed(operator, graph):
            if index in graph.outputs:
                excluded[graph.producers[index]] = (
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


def _computed(operator, graph) -> list[int]:
    """The inputs of an operator that are not constants."""
    return [
        index
        for index in operator.inputs
        if index >= 0 and graph.constant(index) is None
    ]


def _skips_zeros(operator, graph) -> bool:
    if operator.kind == "FULLY_CONNECTED":
        return True
    return operator.kind == "CONV_2D" and _window(operator, graph) == (1, 1)


def _is_start(operator, graph) -> bool:
    return operator.kind == "CONV_2D" and _window(operator, graph) == (3, 3)


def _window(operator, graph) -> tuple[int, int]:
    _, height, width, _ = graph.tensors[operator.inputs[1]].shape
    return height, width


def _exclusion(operator: Operator, graph: Graph) -> str:
    """The rule that excludes an operator; empty if it may be in the part."""
    kind = operator.kind
    if kind in flatbuffer.UNPACKING and not _computed(operator, graph):
        return ""
    tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
    values = [tensors[0], *(graph.tensors[i] for i in operator.outputs)]
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        kernel = graph.constant(operator.inputs[1])
        if kernel is None:
            return "its weights are computed"
        if tensors[1].is_sparse:
            return "its weights are read in blocks, by a kernel of LiteRT's own"
        values.append(kernel)
    for value in values:
        if value.type not in ("FLOAT16", "FLOAT32"):
            return f"it computes with {value.type}; only floats are supported"
    if kind == "CONV_2D":
        return _convolution(operator, graph)
    if kind == "DEPTHWISE_CONV_2D":
        return _depthwise(operator, graph)
    if kind == "PAD":
        return _pad(operator, graph)
    is_image = len(tensors[0].shape) == 4
    if kind == "FULLY_CONNECTED":
        return "a Dense layer on images; use a 1x1 Conv2D" if is_image else ""
    if kind == "DEPTH_TO_SPACE" or (kind in _UNARY and is_image):
        return ""
    if kind in ("ADD", "MUL"):
        # A few constants are allowed, by some versions only.
        if len(_computed(operator, graph)) < len(tensors):
            return "it has a constant operand"
        if all(len(tensor.shape) == 4 for tensor in tensors):
            return ""
        return "an operand does not have four axes"
    if kind == "MEAN":
        axes = graph.constant(operator.inputs[1])
        axes = set() if axes is None else set(axes.stored % 4)
        if is_image and axes == {1, 2}:
            return ""
        return "it is not the mean over height and width"
    if kind == "RESIZE_BILINEAR":
        is_large = is_image and min(tensors[0].shape[1:3]) > 1
        return "" if is_large else "its input has no height or no width"
    return "this operator is not supported with channels first"


def _convolution(operator, graph) -> str:
    options = operator.options
    window = _window(operator, graph)
    strides = (options.strideH, options.strideW)
    channels = graph.tensors[operator.inputs[0]].shape[3]
    if channels != graph.tensors[operator.inputs[1]].shape[3]:
        return "it has groups"
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        return "it is dilated"
    if window == (1, 1):
        if strides != (1, 1):
            return f"a 1x1 convolution must have stride 1, not {strides}"
        if _padded_by(operator, graph) != [0, 0, 0, 0]:
            return "a 1x1 convolution must not be padded"
        return ""
    size = f"{window[0]}x{window[1]}"
    if window != (3, 3) or strides != (2, 2) or channels != 3:
        return (
            f"a convolution of size {size}, stride {strides} and {channels} "
            f"input channels; only 1x1 is supported, and {_START} at the start"
        )
    return _wrong_padding(operator, graph, 1)


def _depthwise(operator, graph) -> str:
    options = operator.options
    window = _window(operator, graph)
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        return "it is dilated"
    if options.depthMultiplier != 1:
        return f"its depth multiplier is {options.depthMultiplier}, not 1"
    if (options.strideH, options.strideW) not in ((1, 1), (2, 2)):
        return "its stride is neither 1 nor 2"
    if window not in ((3, 3), (5, 5)):
        size = f"{window[0]}x{window[1]}"
        return f"a depthwise convolution must be 3x3 or 5x5, not {size}"
    return _wrong_padding(operator, graph, window[0] // 2)


def _wrong_padding(operator, graph, wanted) -> str:
    options = operator.options
    if options.padding == _SAME and options.strideH == 1:
        return ""  # the same on all sides
    if options.padding == _SAME:
        return (
            "padding 'same' with stride 2, which depends on the size of the "
            f"input; put `ZeroPadding2D({wanted})` and padding 'valid' there"
        )
    found = _padded_by(operator, graph)
    if found == [wanted] * 4:
        return ""
    return (
        f"it is padded by {found} (top, bottom, left, right) and must be by "
        f"{wanted} on all sides"
    )


def _padded_by(operator, graph) -> list[int]:
    """What a PAD before an operator adds, which is made one with it."""
    producer = graph.producers.get(operator.inputs[0])
    if producer is None or producer.kind != "PAD" or _pad(producer, graph):
        return [0, 0, 0, 0]
    sizes = graph.constant(producer.inputs[1])
    return [int(size) for size in sizes.stored[2:6]]


def _pad(operator, graph) -> str:
    readers = graph.consumers[operator.outputs[0]]
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D")
    if len(readers) == 1 and readers[0].kind in kinds:
        if readers[0].options.padding != _SAME:
            return ""
    return "padding that is not just before one convolution with 'valid'"


def _no(graph, operator, reason) -> SparseInferenceCheck:
    name = graph.tensors[operator.outputs[0]].name
    return SparseInferenceCheck(False, f"{operator.kind} '{name}'", reason)
