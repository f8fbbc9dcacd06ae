"""Which operators XNNPACK's kernels for sparse weights can be among.

Versions of XNNPACK differ, and which one a phone or a browser has is not
known: an operator is supported only if all since 2022 support it. Asked is
always about one operator and the graph that it is in.
"""

from kprune.tflite.graphs import UNPACKING, Graph, Operator

START = "a 3x3 convolution of stride 2, of 3 channels, padded by 1"
_NOT_SUPPORTED = "this operator is not supported with channels first"
# What only some versions support, some of it wrongly.
_LATER = "only XNNPACK of after 2024 supports it with channels first"
_SUM = "only XNNPACK of after 2024 supports sums with channels first"
_CONSTANT = "it has a constant operand"
_DENSE_ON_IMAGES = "a Dense layer on images; use a 1x1 Conv2D"
_OTHER_MEAN = "it is not the mean over height and width"
_OPEN_RANK = "the rank of its input is open"
COMPUTED_WRONGLY = (_DENSE_ON_IMAGES, _OTHER_MEAN)
BY_VERSION = (*COMPUTED_WRONGLY, _LATER, _SUM, _CONSTANT, _OPEN_RANK)
_FLOATS = ("FLOAT16", "FLOAT32")
# Values of `Padding` in the schema.
_SAME = 0
_UNARY = (
    "ABS",
    "CEIL",
    "ELU",
    "FLOOR",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "NEG",
    "RELU",
    "RELU6",
    "RELU_0_TO_1",
    "RELU_N1_TO_1",
    "ROUND",
    "SQUARE",
)
_OF_LATER = (
    "COS",
    "EXP",
    "GELU",
    "LOG",
    "RSQRT",
    "SIGN",
    "SIN",
    "SQRT",
    "TANH",
)


def computed(operator: Operator, graph: Graph) -> list[int]:
    """The inputs of an operator that are not constants: indices of tensors."""
    return [
        index
        for index in operator.inputs
        if index >= 0 and graph.constant(index) is None
    ]


def skips_zeros(operator: Operator, graph: Graph) -> bool:
    """Whether it has weights whose zeros are counted and skipped."""
    if operator.kind == "FULLY_CONNECTED":
        return True
    return operator.kind == "CONV_2D" and _window(operator, graph) == (1, 1)


def counts_integers(operator: Operator, graph: Graph) -> bool:
    """Whether zeros of its weights would be skipped, were they no integers."""
    if not skips_zeros(operator, graph):
        return False
    kernel = graph.constant(operator.inputs[1])
    return kernel is not None and kernel.type not in _FLOATS


def is_start(operator: Operator, graph: Graph) -> bool:
    """Whether channels can come first from this operator on."""
    if operator.kind != "CONV_2D" or exclusion(operator, graph):
        return False
    return _window(operator, graph) == (3, 3)


def _window(operator, graph) -> tuple[int, int]:
    _, height, width, _ = graph.tensors[operator.inputs[1]].shape
    return height, width


def exclusion(operator: Operator, graph: Graph) -> str:
    """The rule that excludes it from what has channels first, else empty."""
    kind = operator.kind
    if kind in UNPACKING and not computed(operator, graph):
        return ""
    tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
    if not tensors:
        return _NOT_SUPPORTED
    values = [tensors[0], *(graph.tensors[i] for i in operator.outputs)]
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        kernel = graph.constant(operator.inputs[1])
        if kernel is None:
            return "its weights are computed"
        if tensors[1].is_sparse:
            return "its weights are read in blocks, by a kernel of LiteRT's own"
        values.append(kernel)
    for value in values:
        if value.type not in _FLOATS:
            return f"it computes with {value.type}; only floats are supported"
    is_image = len(tensors[0].shape) == 4
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and not is_image:
        return _OPEN_RANK
    if kind == "CONV_2D":
        return _convolution(operator, graph)
    if kind == "DEPTHWISE_CONV_2D":
        return _depthwise(operator, graph)
    if kind == "PAD":
        return _pad(operator, graph)
    if kind == "FULLY_CONNECTED":
        return _DENSE_ON_IMAGES if is_image else ""
    if kind == "DEPTH_TO_SPACE" or (kind in _UNARY and is_image):
        return ""
    if kind in ("ADD", "MUL"):
        is_full = all(len(tensor.shape) == 4 for tensor in tensors)
        if len(computed(operator, graph)) < len(tensors):
            return _CONSTANT if is_full else f"{_CONSTANT} of fewer axes"
        return "" if is_full else "an operand does not have four axes"
    if kind == "MEAN":
        axes = {axis % 4 for axis in _integers(operator.inputs[1], graph)}
        if is_image and axes == {1, 2}:
            return ""
        return _OTHER_MEAN if is_image else _NOT_SUPPORTED
    if kind == "RESIZE_BILINEAR":
        is_large = is_image and min(tensors[0].shape[1:3]) > 1
        return "" if is_large else "its input has no height or no width"
    if kind in _OF_LATER and is_image:
        return _LATER
    if kind == "SUM" and is_image:
        return _SUM
    return _NOT_SUPPORTED


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
            f"input channels; only 1x1 is supported, and {START} at the start"
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
    return _integers(producer.inputs[1], graph)[2:6]


def _integers(index, graph) -> list[int]:
    """A constant's numbers; none if it is computed or not of integers."""
    constant = graph.constant(index)
    if constant is None or constant.type not in ("INT32", "INT64"):
        return []
    return [int(number) for number in constant.stored]


def _pad(operator, graph) -> str:
    amounts = _integers(operator.inputs[1], graph)
    if not amounts:
        return "it pads by what is computed"
    if any(amounts[:2] + amounts[6:]):
        return "it pads other axes than height and width"
    (output,) = operator.outputs
    readers = graph.consumers[output]
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D")
    is_only = len(readers) == 1 and output not in graph.outputs
    if is_only and readers[0].kind in kinds:
        if readers[0].options.padding != _SAME:
            return ""
    return "padding that is not just before one convolution with 'valid'"
