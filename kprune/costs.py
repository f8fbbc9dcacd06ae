"""What a model costs: parameters and multiply-accumulates."""

import math

import keras

from kprune import layers, weights
from kprune.structure import functional


def parameters(model: keras.Model) -> int:
    """Counts the weights of a model, masks not included.

    Args:
        model: A built `keras.Model`.

    Returns:
        Integer. The number of scalars.
    """
    masks = {
        id(mask)
        for layer in functional.prunable_layers(model)
        for mask in layer.masks.values()
    }
    sizes = [math.prod(w.shape) for w in model.weights if id(w) not in masks]
    return sum(sizes)


def layer_macs(model: keras.Model) -> dict[int, int | None]:
    """Counts the multiply-accumulates of each layer for one sample.

    Kernels count, once for every place that they are applied to: a bias, a
    norm, an activation, pooling do not, as is the custom of published tables.
    Zeros in a kernel count as well, since a dense kernel multiplies them.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Dict from the id of a layer (of what it wraps, if it is prunable) to
        its multiply-accumulates, over all its calls; `None` where a shape is
        not known.
    """
    counts = {}
    for call in functional.calls(model):
        layer = call.operation
        if isinstance(layer, layers.PrunableLayer):
            layer = layer.layer
        if functional.has_graph(layer):
            found = layer_macs(layer)
        elif isinstance(layer, keras.layers.Layer):
            found = {id(layer): _call_macs(layer, call.inputs, call.outputs)}
        else:
            continue
        for key, count in found.items():
            known = counts.setdefault(key, 0)
            counts[key] = None if None in (known, count) else known + count
    return counts


def macs(model: keras.Model) -> int | None:
    """Counts the multiply-accumulates of a model for one sample.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Integer, or `None` where a shape is not known, such as that of an
        image of any size.
    """
    counts = layer_macs(model).values()
    return None if None in counts else sum(counts)


def _call_macs(layer, inputs, outputs) -> int | None:
    total = 0
    for name, kernel in weights.kernels(layer).items():
        if name.endswith("embeddings"):
            continue  # a look-up multiplies nothing
        # Each element of the output (of the input, where a convolution is
        # transposed) meets one slice of the kernel.
        places, channels = outputs[0].shape, kernel.shape[-1]
        if isinstance(layer, _TRANSPOSED):
            places = inputs[0].shape
        elif name == "depthwise_kernel" or _is_depthwise(layer):
            channels = kernel.shape[-2] * kernel.shape[-1]
            places = _depthwise_places(layer, outputs[0].shape, channels)
        if None in places[1:]:
            return None
        size = math.prod(kernel.shape)
        total += math.prod(places[1:]) * size // channels
    return total


_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def _is_depthwise(layer) -> bool:
    kinds = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    return isinstance(layer, kinds)


def _depthwise_places(layer, shape, channels):
    """The shape behind the depthwise step, before any pointwise one."""
    axis = 1 if layer.data_format == "channels_first" else len(shape) - 1
    return (*shape[:axis], channels, *shape[axis + 1 :])
