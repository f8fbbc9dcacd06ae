"""Multiply-accumulates of Keras models, layer by layer."""

import math

import keras

from kprune import keras_internals, weights
from kprune.layers import PrunableLayer
from kprune.measuring import call_macs

_TIME_DISTRIBUTED = (keras.layers.TimeDistributed,)


def layer_macs(model: keras.Model) -> dict[int, int | None]:
    """Counts the multiply-accumulates of each layer for one sample.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Dict from the id of a layer (of what it wraps, if it is prunable) or
        an operation to its multiply-accumulates, over all its calls; `None`
        where a size is not known, or a call cannot be traced.
    """
    graph = keras_internals.graph_of(model)
    inputs = [_symbol(tensor.shape, tensor.dtype) for tensor in graph.inputs]
    counts, _ = _count(graph, inputs)
    batch_size = inputs[0].shape[0] if inputs[0].shape else 1
    return {
        key: None if count is None else count // batch_size
        for key, count in counts.items()
    }


def macs(model: keras.Model) -> int | None:
    """Counts the multiply-accumulates of a model for one sample.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Integer, or `None` where a shape is not known, such as that of an
        image of any size.
    """
    return total(layer_macs(model))


def kernel_macs(model: keras.Model) -> dict[int, float | None]:
    """Counts the multiply-accumulates of each kernel for one sample.

    Those of a layer with several kernels are shared out by the sizes of these.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Dict from the id of a variable to its multiply-accumulates; `None`
        where they are not known.
    """
    found: dict[int, float | None] = {}
    counts = layer_macs(model)
    for layer in keras_internals.sublayers(model):
        if id(layer) not in counts:
            continue
        count = counts[id(layer)]
        kernels = weights.all_kernels(layer).values()
        sizes = [math.prod(kernel.shape) for kernel in kernels]
        for kernel, size in zip(kernels, sizes):
            share = None if count is None else count * size / sum(sizes)
            found[id(kernel)] = share
    return found


def total(counts: dict[int, int | None]) -> int | None:
    """Adds up what `layer_macs` returns.

    Args:
        counts: Dict to the multiply-accumulates of each layer.

    Returns:
        Integer, or `None` where one is not known.
    """
    known = [count for count in counts.values() if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _count(graph, inputs) -> tuple[dict, list]:
    """Counts the calls of a graph on inputs of known shapes.

    The calls are made again, since what was open in the shapes that the graph
    was made with is known now.

    Returns:
        Tuple of a dict as `layer_macs` returns it, over the whole batch, and
        the list of the symbolic outputs.
    """
    counts: dict[int, int | None] = {}
    values = dict(zip(map(id, graph.inputs), inputs))
    for call in keras_internals.calls(graph):
        layer = call.operation
        if isinstance(layer, PrunableLayer):
            layer = layer.layer
        found, outputs = _count_call(layer, call, values)
        values.update(zip(map(id, call.outputs), outputs))
        for key, count in found.items():
            known = counts.setdefault(key, 0)
            counts[key] = None if None in (known, count) else known + count
    return counts, [values[id(output)] for output in graph.outputs]


def _count_call(layer, call, values) -> tuple[dict, list]:
    args, kwargs = call.fill_in(values)
    try:
        if not call_macs.is_composite(layer):
            outputs = keras.tree.flatten(layer(*args, **kwargs))
            shape = call_macs.output_shape(layer, args, kwargs)
            if shape is not None:
                outputs = [_symbol(shape, outputs[0].dtype)]
            count = call_macs.of_call(layer, args, kwargs, outputs)
            return {id(layer): count}, outputs
        if call_macs.is_one_of(layer, _TIME_DISTRIBUTED):
            batch, steps, *rest = args[0].shape
            x = _symbol((batch, *rest), args[0].dtype)
            graph = keras.Function(x, layer.layer(x))
            counts, _ = _count(graph, [x])
            per_step = total(counts)
            is_known = None not in (per_step, steps)
            outputs = keras.tree.flatten(layer(*args, **kwargs))
            return {id(layer): per_step * steps if is_known else None}, outputs
        # Anew, since a mask that a tensor carries is none of the inputs.
        fresh = {id(x): _like(values[id(x)]) for x in call.inputs}
        args, kwargs = call.fill_in(fresh)
        inputs = list(fresh.values())
        graph = keras.Function(inputs, layer.call(*args, **kwargs))
        counts, outputs = _count(graph, inputs)
    except Exception:
        # Whatever a user's own call does with a symbolic tensor.
        return {id(layer): None}, call.outputs
    if not isinstance(layer, keras.Model):
        counts = {id(layer): total(counts)}
    return counts, outputs


def _like(tensor):
    """A symbolic tensor that is in no graph yet."""
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)


def _symbol(shape, dtype):
    """A symbolic tensor, of batch size 1 if that is open."""
    batch_size = tuple(size or 1 for size in shape[:1])
    return keras.Input(batch_shape=(*batch_size, *shape[1:]), dtype=dtype)
