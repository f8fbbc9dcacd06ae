"""From a plain model to a prunable one."""

import warnings
from collections.abc import Callable

import keras

from kprune import layers, weights
from kprune.prunable import prunable_layers
from kprune.structure import flattening
from kprune.structure.graph import readable
from kprune.structure.rebuilding import Rebuilder, clone


def make_prunable(
    model: keras.Model, *, where: Callable | None = None
) -> keras.Model:
    """Makes a new model whose layers with kernels can be pruned.

    Every layer that has kernels is wrapped: a Dense in `PrunableDense`, a
    Conv2D in `PrunableConv2D`, any other in `PrunableLayer`; in nested models
    too, and a shared layer once. The weights are copied. Nothing that happens
    to the new model changes the one that is passed. The new model is not
    compiled.

    Args:
        model: A built model. A subclassed one is flattened by a symbolic
            call, and comes back as a functional model, without the weights
            that its call does not use in inference, such as a teacher's.
        where: Callable from a layer to a boolean: which of the layers with
            kernels to wrap. `None` wraps all.

    Returns:
        A model of the same kind, with the same name and equal outputs.

    Raises:
        ValueError: If the model is not built, has prunable layers already,
            no layer that can be wrapped, or is subclassed with a call that
            cannot be traced.

    Warns:
        UserWarning: If the model's class trains in its own way, which the new
            model does not; or if weights are left out, with their names.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(4, name="hidden"),
    ...     keras.layers.Dense(2, name="logits"),
    ... ])
    >>> prunable = kprune.make_prunable(
    ...     model, where=lambda layer: layer.name != "logits")
    >>> [layer.name for layer in prunable.layers]
    ['prunable_hidden', 'logits']
    """
    original, model = model, readable(model, "make prunable")
    flattening.warn_of_unused(original, model)
    if model is not original:
        _warn_of_own_training(original)
    if prunable_layers(model):
        raise ValueError(
            f"Model '{model.name}' has prunable layers already: use it as it "
            "is, or `kprune.strip(model)` it first."
        )
    if where is not None and not callable(where):
        raise ValueError(
            "`where` must be a callable from a layer to a boolean, such as "
            "`where=lambda layer: layer.name != 'logits'`. "
            f"Received: where={where!r}"
        )
    wrapped = 0
    without = {}

    def replace(layer):
        nonlocal wrapped
        copy = clone(layer)
        if not weights.kernels(layer):
            without[layer.name] = weights.no_kernels_reason(layer)
            return copy
        if where and not where(layer):
            return copy
        wrapped += 1
        if isinstance(layer, keras.layers.Dense):
            return layers.PrunableDense(copy)
        if isinstance(layer, keras.layers.Conv2D):
            return layers.PrunableConv2D(copy)
        return layers.PrunableLayer(copy)

    rebuilder = Rebuilder(replace)
    prunable = rebuilder.rebuild(model)
    if not wrapped:
        raise ValueError(
            f"Model '{model.name}' has no layer to prune: none has kernels"
            + (" for which `where` is true." if where else ".")
            + "".join(f" '{name}': {why}." for name, why in without.items())
        )
    rebuilder.copy_weights()
    return prunable


# How a class of models can train in its own way.
_TRAINING = ("train_step", "test_step", "compute_loss", "compute_metrics")


def _warn_of_own_training(model) -> None:
    kind = type(model)
    own = [
        name
        for name in _TRAINING
        if getattr(kind, name) is not getattr(keras.Model, name)
    ]
    if own:
        warnings.warn(
            f"Model '{model.name}' has its own {', '.join(own)}; the "
            "functional model that comes back does not. To keep them wrap the "
            f"layers in the constructor of {kind.__name__}, such as "
            "`kprune.PrunableDense(64)`.",
            stacklevel=3,
        )
