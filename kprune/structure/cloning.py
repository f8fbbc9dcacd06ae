"""A layer made again: like another, without its weights."""

import inspect
import tempfile

import keras
from keras import ops

from kprune import keras_internals
from kprune.structure.functions import config_with_functions

# They keep a vocabulary.
LOOKUPS = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)
# What `Layer.get_config` adds, which not every constructor takes.
_OF_ALL_LAYERS = ("name", "trainable", "dtype")


def clone(layer, config: dict | None = None):
    """A new layer like `layer`, not built and without its weights.

    Args:
        layer: A Keras layer.
        config: Dict of what is to differ in its config.

    Returns:
        The new layer. The same one if it is of a subclass of Lambda, which
        can be made from anything, or has no state and cannot be made again.

    Raises:
        ValueError: If the layer cannot be made from its config.
    """
    if type(layer) is keras.layers.Lambda:
        return _clone_lambda(layer)
    if isinstance(layer, keras.layers.Lambda):
        return layer
    try:
        new = made_again(layer, config or {})
    except Exception as error:
        # Whatever a user's own constructor and config do.
        if not config and not layer.variables:
            return layer
        raise ValueError(cannot_be_made_again(layer, error)) from error
    if isinstance(layer, LOOKUPS) and layer.get_vocabulary(
        include_special_tokens=False
    ):
        # A vocabulary that was learned is in no config.
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            new.load_assets(folder)
    return new


def made_again(layer, changes: dict | None = None):
    """What a layer's or a model's class makes of its config.

    Args:
        layer: A Keras layer or a subclassed model.
        changes: Dict of what is to differ in its config.

    Returns:
        A new layer or model of the same name.
    """
    kind = type(layer)
    config = _config(layer)
    if config is None:
        # As it was made first, where Keras knows and its config does not.
        new = kind(**(keras_internals.constructor_arguments(layer) or {}))
    else:
        config = _unbuilt({**config, **(changes or {})})
        new = kind.from_config(_accepted(kind, config))
    new.name = layer.name
    if new.dtype_policy != layer.dtype_policy and not _takes(kind, "dtype"):
        new.dtype_policy = layer.dtype_policy
    return new


def cannot_be_made_again(layer, problem) -> str:
    """The message for a layer that does not come back from its config.

    Args:
        layer: The layer.
        problem: An exception or a string.

    Returns:
        String.
    """
    kind = type(layer).__name__
    if isinstance(problem, Exception):
        # Keras puts the whole config in front.
        text = str(problem).rpartition("Exception encountered: ")[2]
        problem = f"{type(problem).__name__}: {text}"
    return (
        f"Layer '{layer.name}' of type {kind} cannot be made again from its "
        f"config: {problem}. Give {kind} a constructor that takes `**kwargs` "
        "and passes them to `super().__init__(**kwargs)`, and a `get_config` "
        "that returns `{**super().get_config(), ...}` with all other arguments "
        f"of its constructor; `{kind}.from_config(layer.get_config())` must "
        "make an equal layer."
    )


def parts(old, new) -> list[tuple]:
    """Pairs of the layers that two layers hold in the same place.

    Args:
        old: A Keras layer.
        new: A layer that was made again from it, built or not.

    Returns:
        List of tuples of a layer held by `old`, at any depth, and the one that
        `new` holds under the same attribute, index or key; what holds others
        comes before them. What is in a graph is left out.
    """
    found = {}

    def visit(one, other):
        if isinstance(one, keras.layers.Layer):
            if type(one) is type(other) and id(one) not in found:
                found[id(one)] = one, other
                hold(one, other)
        elif isinstance(one, (list, tuple)):
            if isinstance(other, (list, tuple)):
                for pair in zip(one, other):
                    visit(*pair)
        elif isinstance(one, dict) and isinstance(other, dict):
            for key in one.keys() & other.keys():
                visit(one[key], other[key])

    def hold(one, other):
        if not keras_internals.has_graph(one):
            others = keras_internals.attributes(other)
            for name, value in keras_internals.attributes(one).items():
                visit(value, others.get(name))

    hold(old, new)
    return list(found.values())


def freeze_as(old, new) -> None:
    """Gives a layer, all in it and its variables what trains in another.

    Args:
        old: A built Keras layer or model.
        new: A built layer with equal parts and weights.
    """
    for one, other in [(old, new), *parts(old, new)]:
        # Outer ones first: it is passed on to all that is inside.
        if other.trainable != one.trainable:
            other.trainable = one.trainable
    for one, other in zip(old.weights, new.weights):
        if other.trainable != one.trainable:
            other.trainable = one.trainable


def clone_operation(operation):
    """A new operation like one that is no layer, in no graph yet.

    One operation in the graphs of two models would keep the weights of the
    one in memory as long as the other lives.

    Args:
        operation: A `keras.Operation` that is no layer.

    Returns:
        The new operation.
    """
    new = object.__new__(type(operation))
    vars(new).update(vars(operation))
    keras.Operation.__init__(new, name=operation.name)
    return new


def padded(layer, width: int, new_width: int, rank: int, dtype: str):
    """A model in which a layer sees zeros where channels went.

    Args:
        layer: A layer that is not built, whose output has the shape of its
            input and whose weights are those of the old width.
        width: Integer: the length of the last axis that the layer gets.
        new_width: Integer: the length that the model takes and returns.
        rank: Integer: the rank of its input, the batch axis included.
        dtype: String: the dtype of its input.

    Returns:
        `keras.Model` of the layer's name: pad, the layer, slice.
    """
    inputs = keras.Input((None,) * (rank - 2) + (new_width,), dtype=dtype)
    grown = [(0, 0)] * (rank - 1) + [(0, width - new_width)]
    outputs = layer(ops.pad(inputs, grown))[..., :new_width]
    return keras.Model(inputs, outputs, name=layer.name)


def _config(layer) -> dict | None:
    """A layer's config, or None where only its constructor's arguments are."""
    known = keras_internals.constructor_arguments(layer) is not None
    try:
        config = config_with_functions(layer)
    except Exception:
        # Whatever a user's own `get_config` does.
        if known:
            return None
        raise
    if isinstance(config, dict):
        return dict(config)
    if known:
        return None
    raise ValueError(f"`get_config` returns {config!r}, not a dict")


def _takes(kind: type[keras.layers.Layer], argument: str) -> bool:
    """Whether a class's constructor takes a keyword argument."""
    parameters = inspect.signature(kind.__init__).parameters
    return argument in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters.values()
    )


def _accepted(kind: type, config: dict) -> dict:
    return {
        key: value
        for key, value in config.items()
        if key not in _OF_ALL_LAYERS or _takes(kind, key)
    }


def _clone_lambda(layer):
    """A new Lambda, whose functions cannot be read from a config."""
    return keras.layers.Lambda(
        layer.function,
        output_shape=keras_internals.lambda_output_shape(layer),
        mask=layer.mask,
        arguments=layer.arguments,
        **keras.layers.Layer.get_config(layer),
    )


def _unbuilt(config):
    """A config without the shapes that layers in it were built with."""
    if isinstance(config, dict):
        is_layer = "class_name" in config
        return {
            key: _unbuilt(value)
            for key, value in config.items()
            if not (is_layer and key == "build_config")
        }
    if isinstance(config, list):
        return [_unbuilt(item) for item in config]
    return config
