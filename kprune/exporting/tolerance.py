"""How far the outputs of a right file may be from the model's.

The rule goes by the precision in which a model computes, not by the dtype of
its outputs. A layer rounds what it computes to its compute dtype, which moves
a number by at most the dtype's unit roundoff u, as a share of it. Roundings
are independent of each other, so that along a model they add up as a random
walk does: to the square root of the sum of u**2 over all layers. The layers
are taken to stand in one row, the worst case.

A file whose weights are quantized has roundings of its own, added in the same
way: with float16 one a kernel; with `"dynamic"` two, of the kernel and of what
it multiplies; with `"int8"` one a kernel and one a layer. Eight bits are 255
steps over the range of a tensor, so that half a step is 1/64 of a usual
number, which is a quarter of the largest.

The square root is multiplied by 8: a layer rounds its inputs, weights and
output, the furthest of many outputs counts and not a usual one, and deep nets
amplify. Right files of the nets that the tests export, of up to 93 layers,
need at most 2 of it.
"""

import math

import keras

from kprune import keras_internals

_ROUNDOFF = {
    "bfloat16": 2**-8,
    "float16": 2**-11,
    "float32": 2**-24,
    "float64": 2**-53,
}
_EIGHT_BITS = 2**-6
_MARGIN = 8
# What runtimes differ by in float32 whatever the model: they approximate
# functions such as GELU, and add long sums in another order.
_KERNELS = 1e-3
# With a higher one, files of other weights could pass.
_LARGEST = 0.3


def share(model: keras.Model, quantize: str | None = None) -> float:
    """What a file's outputs may differ by, of the largest one.

    Args:
        model: A Sequential or Functional model, as the file's outputs are
            compared with it.
        quantize: How the file's weights are rounded, `None` if not at all.

    Returns:
        Float.
    """
    roundoffs = _of_layers(model)
    kernels = sum(len(weight.shape) > 1 for weight in model.weights)
    if quantize == "float16":
        added = [_ROUNDOFF["float16"]] * kernels
    elif quantize == "dynamic":
        added = [_EIGHT_BITS] * 2 * kernels
    elif quantize == "int8":
        added = [_EIGHT_BITS] * (kernels + len(roundoffs))
    else:
        added = []
    walked = math.sqrt(sum(u**2 for u in [*roundoffs, *added]))
    return min(_KERNELS + _MARGIN * walked, _LARGEST)


def _of_layers(model) -> list[float]:
    """The unit roundoff of every layer and operation of a model."""
    layers = keras_internals.sublayers(model)
    dtypes = [layer.compute_dtype for layer in layers]
    for graph in filter(keras_internals.has_graph, [model, *layers]):
        for call in keras_internals.calls(graph):
            if not isinstance(call.operation, keras.layers.Layer):
                dtypes += [tensor.dtype for tensor in call.outputs]
    names = map(keras.backend.standardize_dtype, dtypes)
    return [_ROUNDOFF[name] for name in names if name in _ROUNDOFF]
