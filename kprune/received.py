"""What users pass in place of what was expected, and what to do then."""

import inspect
import numbers
import os
from typing import TypeGuard

import keras


def check_model(model, verb: str, kind: type = keras.Model) -> None:
    """Raises unless it is a Keras model.

    Args:
        model: Anything.
        verb: String. What was to be done with it, for the message.
        kind: `keras.Model`, or `keras.layers.Layer` where a layer will do.

    Raises:
        ValueError: If it is something else, with what to do if it is what
            people pass by mistake: a class, a path, a layer, or a model of
            Keras 2.

    Example:

    >>> kprune.received.check_model("mnist.keras", "prune")
    Traceback (most recent call last):
    ...
    ValueError: Expected a `keras.Model` to prune. Received: the path 'mnist.keras'; load it first: `kprune.files.load_model('mnist.keras')`
    """  # noqa: E501
    if not isinstance(model, kind):
        raise ValueError(
            f"Expected a `keras.Model` to {verb}. Received: {describe(model)}"
        )


def is_real(value: object) -> TypeGuard[float]:
    """Whether a value is a real number; `True` and `False` are none.

    Args:
        value: Anything.

    Returns:
        Boolean.

    Example:

    >>> kprune.received.is_real(1), kprune.received.is_real(True)
    (True, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def describe(value) -> str:
    """Says what a value is, and what to do where it is a usual mistake.

    Args:
        value: What was passed in place of a model, a layer, or another
            object.

    Returns:
        String: what stands after "Received: " in an error.

    Example:

    >>> kprune.received.describe(keras.layers.Dense)
    'the class Dense; call it: `Dense(...)`'
    """
    if isinstance(value, type):
        name = value.__name__
        return f"the class {name}; call it: `{name}(...)`"
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        return (
            f"the path {path!r}; load it first: "
            f"`kprune.files.load_model({path!r})`"
        )
    if inspect.isfunction(value):
        name = value.__name__
        return f"the function {name}; call it: `{name}(...)`"
    kind = type(value).__name__
    if _is_of_keras_2(value):
        return (
            f"a {kind} of Keras 2 (the package tf_keras), and kprune is for "
            "Keras 3. Save the model there, `model.save('model.h5')`, and take "
            "what `kprune.files.load_model('model.h5')` makes of it"
        )
    if isinstance(value, keras.Model):
        return f"the model '{value.name}'"
    if isinstance(value, keras.layers.Layer):
        return (
            f"the layer '{value.name}' (of type {kind}); make a model of it: "
            "`keras.Sequential([keras.Input(shape), layer])`"
        )
    return f"{value!r} (of type {kind})"


def _is_of_keras_2(value) -> bool:
    modules = {part.__module__ for part in type(value).__mro__}
    return any(name.split(".")[0] == "tf_keras" for name in modules)
