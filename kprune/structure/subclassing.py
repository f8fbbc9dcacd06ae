"""Subclassed models that have no graph: their layers without wrappers."""

import keras

from kprune import keras_internals
from kprune.keras_internals import sublayers
from kprune.prunable import prunable_layers
from kprune.structure.cloning import freeze_as, made_again


def unwrap(model: keras.Model, value) -> keras.Model:
    """A model of the same class, with plain layers in place of prunable ones.

    Args:
        model: A built, subclassed `keras.Model` whose layers are wrapped in
            its constructor.
        value: Callable from a variable of `model` to the array that the new
            model's variable gets.

    Returns:
        A new model, not compiled.

    Raises:
        ValueError: If the class cannot make such a model from its config.
    """
    plain = _made_from_config(model)
    pairs = zip(sublayers(model), sublayers(plain))
    # What a layer holds comes after it, and is built before it.
    for old, new in reversed(list(pairs)):
        if old.built and not new.built:
            new.build_from_config(old.get_build_config() or {})
            new.built = True
    if [v.shape for v in model.weights] != [v.shape for v in plain.weights]:
        raise ValueError(
            _no_config(model, "what it makes has weights of other shapes")
        )
    for source, target in zip(model.weights, plain.weights):
        target.assign(value(source))
    freeze_as(model, plain)
    wrapped = prunable_layers(plain)
    keras_internals.replace_layers(
        plain, {layer: layer.layer for layer in wrapped}
    )
    return plain


def _made_from_config(model) -> keras.Model:
    try:
        return made_again(model)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(_no_config(model, error)) from error


def _no_config(model, problem) -> str:
    return (
        f"Cannot strip model '{model.name}': {type(model).__name__} cannot be "
        f"made again from its config ({problem}). Give it a `get_config` that "
        "returns the arguments of its constructor."
    )
