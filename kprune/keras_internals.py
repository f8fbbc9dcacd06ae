"""What kprune reads of Keras that is private.

Keras has no public way to walk a Functional model. Every private attribute is
read here and nowhere else; `tests/test_keras_internals.py` pins them.
"""

import contextlib
import dataclasses
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of one operation in a model's graph.

    Args:
        operation: The Keras layer or operation that is called.
        inputs: Tuple of the `keras.KerasTensor`s it is called with.
        outputs: Tuple of the `keras.KerasTensor`s it returns.
        arguments: Keras's record of the call; see `fill_in`.
    """

    operation: Any
    inputs: tuple
    outputs: tuple
    arguments: Any

    def fill_in(self, values: dict) -> tuple:
        """The call's `(args, kwargs)` with other tensors in place.

        Args:
            values: Dict from the id of a `keras.KerasTensor` to its value.

        Returns:
            Tuple `(args, kwargs)`.
        """
        return self.arguments.fill_in(values)


def has_graph(model) -> bool:
    """Whether the model is Sequential or Functional, and built.

    Args:
        model: `keras.Model`.

    Returns:
        Boolean.
    """
    return isinstance(graph_of(model), keras.Function)


def graph_of(model):
    """The `keras.Function` behind a model, or `None` where there is none."""
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if isinstance(model, keras.Function) else None


def is_custom_class(model) -> bool:
    """Whether a model is of a class that is not Keras's own."""
    return not type(model).__module__.startswith("keras.")


def calls(model) -> list[Call]:
    """The calls of a model's graph, each after those that it needs.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        List of `Call`. Calls of other models that share layers are not in it.
    """
    by_depth = graph_of(model)._nodes_by_depth
    return [
        Call(
            node.operation,
            tuple(node.input_tensors),
            tuple(node.output_tensors),
            node.arguments,
        )
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def sublayers(layer: keras.layers.Layer) -> list:
    """All layers below a layer or model, at any depth, each once.

    Args:
        layer: A Keras layer or model.

    Returns:
        List of layers.
    """
    return layer._flatten_layers(include_self=False, recursive=True)


def attributes(layer: keras.layers.Layer) -> dict:
    """What was set on a layer, without the lists that Keras keeps itself.

    Args:
        layer: A Keras layer.

    Returns:
        Dict from the name of an attribute to its value.
    """
    # torch keeps modules in a dict; names in `_self_` are TensorFlow's.
    return {
        name: value
        for name, value in {
            **vars(layer),
            **vars(layer).get("_modules", {}),
        }.items()
        if name not in ("_layers", "_modules") and not name.startswith("_self_")
    }


def constructor_arguments(layer: keras.layers.Layer) -> dict | None:
    """What a layer was made with, but for its name.

    Args:
        layer: A Keras layer.

    Returns:
        Dict, or `None` where some of it is no plain value.
    """
    known = getattr(layer, "_auto_config", None)
    return None if known is None else known.config


def made_to_train(layer: keras.layers.Layer) -> list:
    """A layer's own variables that train, or would were it not frozen.

    Args:
        layer: A Keras layer.

    Returns:
        List of `keras.Variable`, without those of the layers in it.
    """
    return layer._trainable_variables


def share_scope(layer: keras.layers.Layer, other) -> None:
    """Begins the paths of a layer's variables as those of another begin.

    It has to be done before the layer's variables are made.

    Args:
        layer: A Keras layer.
        other: One that was built or called.
    """
    layer._parent_path = other._parent_path


def take_over_recomputing(wrapper, layer) -> None:
    """Lets a wrapper recompute where a layer in it was made to.

    Args:
        wrapper: The layer that is called.
        layer: A layer in it, made in a `keras.RematScope` or not.
    """
    for part in [layer, *sublayers(layer)]:
        wrapper._remat_mode = wrapper._remat_mode or part._remat_mode
        part._remat_mode = None


def take_any_arguments(layer: keras.layers.Layer) -> None:
    """Lets a layer be called with arguments as they come.

    Args:
        layer: A Keras layer that passes them on to one that checks them.
    """
    layer._allow_non_tensor_positional_args = True
    layer._convert_input_args = False


@contextlib.contextmanager
def calls_forgotten(*models):
    """Within it, symbolic calls leave nothing behind in models.

    Keras writes each of them down in the operations that are called, for as
    long as these exist.

    Args:
        *models: `keras.Model`s.
    """
    found = {}

    def visit(operation):
        if id(operation) in found:
            return
        found[id(operation)] = operation
        if isinstance(operation, keras.layers.Layer):
            for layer in sublayers(operation):
                visit(layer)
        if has_graph(operation):
            for inner in graph_of(operation).operations:
                visit(inner)

    for model in models:
        visit(model)
    written = [
        (calls, len(calls))
        for operation in found.values()
        for calls in (operation._inbound_nodes, operation._outbound_nodes)
    ]
    try:
        yield
    finally:
        for calls, before in written:
            del calls[before:]


def operation_classes(*names: str) -> tuple:
    """The classes behind `keras.ops`, which Keras does not export.

    Args:
        *names: Names of classes, such as `"Transpose"`.

    Returns:
        Tuple of classes.

    Raises:
        AttributeError: If this Keras has no such operation.
    """
    from keras.src import ops
    from keras.src.activations import activations

    modules = (ops.numpy, ops.nn, ops.core, ops.math, ops.image, activations)
    return tuple(
        next(vars(m)[name] for m in modules if name in vars(m))
        for name in names
    )


def application_layer(name: str) -> type:
    """The class of a layer that only `keras.applications` has.

    Args:
        name: The name of the class, such as `"LayerScale"`.

    Returns:
        The class.

    Raises:
        AttributeError: If this Keras has no such layer.
    """
    from keras.src.applications import convnext, inception_resnet_v2

    module = convnext if hasattr(convnext, name) else inception_resnet_v2
    return getattr(module, name)


def convolutional_cell() -> type:
    """The class of the cells of `ConvLSTM1D` to `ConvLSTM3D`."""
    from keras.src.layers.rnn import conv_lstm

    return conv_lstm.ConvLSTMCell


def inputs_struct(model):
    """The model's inputs in the structure that it is called with."""
    return graph_of(model)._inputs_struct


def outputs_struct(model):
    """The model's outputs in the structure that it returns."""
    return graph_of(model)._outputs_struct


def input_layer(tensor):
    """The `keras.layers.InputLayer` that made a symbolic input."""
    return tensor._keras_history.operation


def has_mask(tensor) -> bool:
    """Whether a symbolic tensor carries a mask that layers pass on."""
    return getattr(tensor, "_keras_mask", None) is not None


def attention_projections(layer) -> dict:
    """The layers that project inside an attention layer with heads.

    Args:
        layer: A built `keras.layers.MultiHeadAttention` or
            `keras.layers.GroupQueryAttention`.

    Returns:
        Dict from `"query"`, `"key"`, `"value"`, `"output"` and, if it has
        one, `"gate"` to a `keras.layers.EinsumDense`.
    """
    names = ("query", "key", "value", "output", "gate")
    found = {name: getattr(layer, f"_{name}_dense", None) for name in names}
    return {name: part for name, part in found.items() if part is not None}


def replace_layers(model, new: dict) -> None:
    """Puts other layers into the attributes of a model and of its layers.

    Lists and dicts of layers are looked through. Keras's own bookkeeping is
    among the attributes, so the order of layers and weights stays.

    Args:
        model: A subclassed `keras.Model`.
        new: Dict from a layer to the one that takes its place.
    """

    def replaced(value):
        if isinstance(value, keras.layers.Layer):
            return new.get(value, value)
        if isinstance(value, tuple):
            items = [replaced(item) for item in value]
            is_named = hasattr(value, "_fields")
            return type(value)(*items) if is_named else tuple(items)
        # The methods of the base classes, since Keras's own lists and dicts
        # would track the new layers a second time.
        if isinstance(value, list):
            for index, item in enumerate(value):
                list.__setitem__(value, index, replaced(item))
        elif isinstance(value, dict):
            for key, item in value.items():
                dict.__setitem__(value, key, replaced(item))
        return value

    for owner in [model, *sublayers(model)]:
        if owner not in new:
            for name, value in list(vars(owner).items()):
                vars(owner)[name] = replaced(value)


def lambda_output_shape(layer: keras.layers.Lambda):
    """The `output_shape` that a Lambda was made with, or None."""
    return layer._output_shape
