"""Making a functional model of a subclassed one by tracing its call."""

import contextlib
import inspect

import keras
import numpy as np
from keras import ops

from kprune import keras_internals
from kprune.keras_internals import sublayers


def flatten(model: keras.Model) -> keras.Model:
    """Makes a functional model of a subclassed one, with the same layers.

    The model's `call` runs once on symbolic inputs of the shapes that it was
    built with. Layers of the user's own that only call other layers are
    traced through, so that what they hold can be read. The outputs of the two
    models are compared on random input.

    Args:
        model: A built, subclassed `keras.Model`.

    Returns:
        A functional model that shares layers and weights with `model`.

    Raises:
        ValueError: If the call cannot run on symbolic inputs, does not show
            all weights, or gives other outputs.
    """
    try:
        flat = _traced(model, _composites(model))
    except _NotShown:
        flat = _traced(model, [])
    inputs = [_sample(tensor) for tensor in flat.inputs]
    packed = keras.tree.pack_sequence_as(
        keras_internals.inputs_struct(flat), inputs
    )
    try:
        # Each from the same state, which stays as it was.
        with keras.StatelessScope():
            expected = keras.tree.flatten(_call(model, packed))
        with keras.StatelessScope():
            received = keras.tree.flatten(flat(packed))
    except Exception as error:
        # Whatever a user's own call does with random input.
        raise ValueError(
            f"The call of model '{model.name}' cannot run on random input: "
            f"{type(error).__name__}: {error}"
        ) from error
    for one, other in zip(expected, received):
        if not np.allclose(
            ops.convert_to_numpy(one),
            ops.convert_to_numpy(other),
            rtol=1e-5,
            atol=1e-6,
        ):
            raise ValueError(
                f"The call of model '{model.name}' gives other outputs once "
                "it is traced: it depends on more than its inputs."
            )
    return flat


class _NotShown(ValueError):
    """Some weights do not show in the graph."""


def _traced(model, composites) -> keras.Model:
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise ValueError(
            f"Model '{model.name}' does not say what shapes it was built with, "
            "as where its `call` decides on values and cannot be traced."
        )
    inputs = keras.tree.map_shape_structure(
        lambda shape: keras.Input(batch_shape=(None, *shape[1:])), shapes
    )
    try:
        with _open(composites), _unique_names(model):
            outputs = _call(model, inputs)
            flat = keras.Model(inputs, outputs, name=model.name)
    except Exception as error:
        # Whatever a user's own call does with a symbolic tensor.
        raise ValueError(
            f"The call of model '{model.name}' cannot run on symbolic "
            f"inputs: {type(error).__name__}: {error}"
        ) from error
    shown = {id(variable) for variable in flat.weights}
    hidden = [v.path for v in model.weights if id(v) not in shown]
    if hidden:
        raise _NotShown(
            f"The call of model '{model.name}' uses weights outside of "
            f"layers, which do not show in its graph: {hidden[:3]}"
        )
    return flat


def _call(model, inputs):
    parameters = inspect.signature(model.call).parameters
    # None, so that layers go by the mode that the new model is called in.
    training = {"training": None} if "training" in parameters else {}
    if isinstance(inputs, dict) and set(inputs) <= set(parameters):
        return model.call(**inputs, **training)
    return model.call(inputs, **training)


def _composites(model) -> list[type]:
    """The user's own classes of layers whose calls only call layers."""
    classes = {}
    for layer in sublayers(model):
        kind = type(layer)
        own = not kind.__module__.startswith(("keras.", "kprune."))
        is_layer = not isinstance(layer, keras.Model)
        if own and is_layer and sublayers(layer):
            classes[kind] = None
    return list(classes)


@contextlib.contextmanager
def _open(classes):
    """Within it, layers of these classes leave their parts in the graph."""
    before = {kind: vars(kind).get("__call__") for kind in classes}
    for kind in classes:
        kind.__call__ = kind.call
    try:
        yield
    finally:
        for kind, call in before.items():
            if call is None:
                del kind.__call__
            else:
                kind.__call__ = call


@contextlib.contextmanager
def _unique_names(model):
    """Within it no two layers have the same name, as in a functional model."""
    names = {layer: layer.name for layer in sublayers(model)}
    try:
        for index, layer in enumerate(names):
            layer.name = f"{layer.name}_{index}"
        yield
    finally:
        for layer, name in names.items():
            layer.name = name


def _sample(tensor):
    """Random input; below 1, so that it also is a valid index."""
    shape = [2 if size is None else size for size in tensor.shape]
    values = np.random.default_rng(0).random(shape)
    return ops.convert_to_tensor(values.astype(tensor.dtype))
