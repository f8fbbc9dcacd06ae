"""Making a functional model of a subclassed one by tracing its call."""

import contextlib
import inspect
import warnings

import keras
import numpy as np
from keras import ops

from kprune import keras_internals
from kprune.keras_internals import sublayers


def flatten(model: keras.Model) -> keras.Model:
    """Makes a functional model of a subclassed one, with the same layers.

    The model's `call` runs once on symbolic inputs of the shapes that it was
    built with. Layers of the user's own that only call other layers are
    traced through, so that what they hold can be read, but for classes of
    which the call cannot be traced. Weights that the call does not use in
    inference are not in the functional model. The outputs of the two models
    are compared on random input.

    Args:
        model: A built, subclassed `keras.Model`.

    Returns:
        A functional model that shares layers and weights with `model`.

    Raises:
        ValueError: If the call cannot run on symbolic inputs, does not show
            all weights that it uses, or gives other outputs.
    """
    composites = _composites(model)
    try:
        return _flat(model, composites)
    except ValueError:
        if not composites:
            raise
    # One of them stays closed, or some: outer ones come first.
    flat = _flat(model, [])
    opened: list[type] = []
    for kind in composites:
        try:
            flat = _flat(model, [*opened, kind])
        except ValueError:
            continue
        opened.append(kind)
    return flat


def why_closed(layer, args: tuple, kwargs: dict) -> str | None:
    """Why a layer of the user's own cannot be traced through.

    Args:
        layer: A layer or an operation.
        args: Tuple of what it is called with, symbolic tensors among them.
        kwargs: Dict.

    Returns:
        String; `None` if it can, or is no layer that calls others.
    """
    if not _is_composite(layer):
        return None
    try:
        with (
            _open([type(layer), *_composites(layer)]),
            keras_internals.calls_forgotten(layer),
        ):
            layer(*args, **kwargs)
    except Exception as error:
        # Whatever a user's own call does with a symbolic tensor.
        (first, *_) = str(error).splitlines() or [""]
        return f"{type(error).__name__}: {first[:120]}"
    return None


def warn_of_unused(model: keras.Model, flat: keras.Model) -> None:
    """Warns if weights of a model are not in what was made of it.

    Args:
        model: A subclassed `keras.Model`.
        flat: What `flatten` made of it, or the model itself.
    """
    used = {id(variable) for variable in flat.weights}
    names: list[str] = []
    for part in [*sublayers(model), model]:
        unused = [v for v in part.weights if id(v) not in used]
        if part is model:
            names.extend(variable.path for variable in unused)
        elif unused and len(unused) == len(part.weights):
            names.append(part.name)
            used.update(map(id, unused))
    if names:
        warnings.warn(
            f"Model '{model.name}' has weights that its call does not use in "
            "inference. They are left out of the model that comes back: "
            f"{', '.join(map(repr, names))}.",
            stacklevel=3,
        )


def _flat(model, opened) -> keras.Model:
    """The functional model, once it is known to compute the same."""
    flat = _traced(model, opened)
    inputs = [_sample(tensor) for tensor in flat.inputs]
    packed = keras.tree.pack_sequence_as(
        keras_internals.inputs_struct(flat), inputs
    )
    try:
        # Each from the same state, which stays as it was.
        with _Watch() as watch:
            expected = keras.tree.flatten(_call(model, packed))
        with keras.StatelessScope():
            received = keras.tree.flatten(flat(packed))
    except Exception as error:
        # Whatever a user's own call does with random input.
        raise ValueError(
            f"The call of model '{model.name}' cannot run on random input: "
            f"{type(error).__name__}: {error}"
        ) from error
    known = {id(variable) for variable in flat.weights}
    hidden = [
        variable.path
        for variable in model.weights
        if id(variable) in watch.read - known
    ]
    if hidden:
        raise ValueError(
            f"The call of model '{model.name}' uses weights outside of "
            f"layers, which do not show in its graph: {hidden[:3]}"
        )
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


class _Watch(keras.StatelessScope):
    """Sees which variables are read."""

    def __init__(self):
        super().__init__()
        self.read = set()

    def get_current_value(self, variable):
        self.read.add(id(variable))
        return super().get_current_value(variable)


def _traced(model, opened) -> keras.Model:
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise ValueError(
            f"Model '{model.name}' does not say what shapes it was built with, "
            "as where its `call` decides on values and cannot be traced."
        )
    if isinstance(shapes, dict):
        # Keras tracks it, and of a model with tracked dicts for inputs it
        # says at every call that plain dicts do not match.
        shapes = dict(shapes)
    inputs = keras.tree.map_shape_structure(
        lambda shape: keras.Input(batch_shape=(None, *shape[1:])), shapes
    )
    try:
        with _open(opened), _unique_names(model):
            outputs = _call(model, inputs)
            return keras.Model(inputs, outputs, name=model.name)
    except Exception as error:
        # Whatever a user's own call does with a symbolic tensor.
        raise ValueError(
            f"The call of model '{model.name}' cannot run on symbolic "
            f"inputs: {type(error).__name__}: {error}"
        ) from error


def _call(model, inputs):
    parameters = inspect.signature(model.call).parameters
    # None, so that layers go by the mode that the new model is called in.
    training = {"training": None} if "training" in parameters else {}
    if isinstance(inputs, dict) and set(inputs) <= set(parameters):
        return model.call(**inputs, **training)
    return model.call(inputs, **training)


def _composites(model) -> list[type]:
    """The user's own classes of layers that hold layers; outer ones first."""
    found = filter(_is_composite, sublayers(model))
    return list(dict.fromkeys(map(type, found)))


def _is_composite(layer) -> bool:
    is_own = not type(layer).__module__.startswith(("keras.", "kprune."))
    is_layer = isinstance(layer, keras.layers.Layer)
    is_model = isinstance(layer, keras.Model)
    # What a layer says of its weights holds while it is one layer.
    decides = hasattr(layer, "get_prunable_weights")
    can_open = is_own and is_layer and not is_model and not decides
    return can_open and bool(sublayers(layer))


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
