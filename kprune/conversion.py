"""From a plain model to a prunable one."""

import warnings
from collections.abc import Callable

import keras

from kprune import keras_internals, weights
from kprune.layers import PrunableLayer
from kprune.prunable import masks_of, prunable_layers
from kprune.shorthands import PrunableConv2D, PrunableDense
from kprune.structure import flattening
from kprune.structure.cloning import clone
from kprune.structure.graph import readable
from kprune.structure.rebuilding import Rebuilder


def make_prunable(
    model: keras.Model, *, where: Callable | None = None
) -> keras.Model:
    """Makes a new model whose layers with kernels can be pruned.

    Every layer that has kernels is wrapped: a Dense in `PrunableDense`, a
    Conv2D in `PrunableConv2D`, any other in `PrunableLayer`; in nested models
    too, and a shared layer once. What is prunable already keeps its masks and
    its granularity, so a half-wrapped model gets the rest wrapped. The names
    of layers stay, and the weights are copied. Nothing that happens to the new
    model changes the one that is passed. The new model is not compiled.

    A layer that shares weights with another, as a head that holds the table of
    an Embedding, is not wrapped; it goes on sharing them.

    Args:
        model: A built model. A subclassed one is flattened by a symbolic
            call, and comes back as a functional model, without the weights
            that its call does not use in inference, such as a teacher's.
        where: Callable from a layer to a boolean: which of the layers with
            kernels to wrap. `None` wraps all.

    Returns:
        A model of the same kind, with the same name and equal outputs.

    Raises:
        ValueError: If the model is not built, has no layer that can be
            wrapped or none left, has a layer that cannot be made again from
            its config, or is subclassed with a call that cannot be traced.

    Warns:
        UserWarning: If the model's class trains in its own way, which the new
            model does not; if weights are left out, with their names; or
            if layers are not wrapped since they share weights, or since a
            layer of one's own holds them beside prunable ones.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(4, name="hidden"),
    ...     keras.layers.Dense(2, name="logits"),
    ... ])
    >>> prunable = kprune.make_prunable(
    ...     model, where=lambda layer: layer.name != "logits")
    >>> [layer.name for layer in prunable.layers]
    ['hidden', 'logits']
    """
    original, model = model, readable(model, "make prunable")
    flattening.warn_of_unused(original, model)
    if model is not original:
        _warn_of_own_training(original)
    if where is not None and not callable(where):
        raise ValueError(
            "`where` must be a callable from a layer to a boolean, such as "
            "`where=lambda layer: layer.name != 'logits'`. "
            f"Received: where={where!r}"
        )
    chosen = _chosen(model, where)

    def replace(layer):
        copy = clone(layer)
        if layer not in chosen:
            return copy
        if isinstance(layer, keras.layers.Dense):
            return PrunableDense(copy)
        if isinstance(layer, keras.layers.Conv2D):
            return PrunableConv2D(copy)
        return PrunableLayer(copy)

    rebuilder = Rebuilder(replace)
    prunable = rebuilder.rebuild(model)
    rebuilder.copy_weights()
    return prunable


def _chosen(model, where) -> set:
    """The layers of a model to wrap; raises where there are none."""
    called = _called_layers(model)
    users: dict[int, list[str]] = {}
    for layer in called:
        for variable in layer.weights:
            users.setdefault(id(variable), []).append(layer.name)
    chosen = set()
    left_alone, shared, half = {}, {}, []
    for layer in called:
        if not weights.kernels(layer):
            left_alone[layer.name] = weights.no_kernels_reason(layer)
        elif isinstance(layer, PrunableLayer):
            left_alone[layer.name] = "prunable already"
        elif masked := masks_of(layer):
            left_alone[layer.name] = "holds prunable layers"
            kernels = weights.kernels(layer).values()
            if not all(id(kernel) in masked for kernel in kernels):
                half.append(layer.name)
        elif where is None or where(layer):
            names = _users_of(layer, users)
            if len(names) == 1:
                chosen.add(layer)
            else:
                shared[layer.name] = "shares weights with " + ", ".join(
                    f"'{name}'" for name in names if name != layer.name
                )
    if not chosen and prunable_layers(model):
        raise ValueError(
            f"Model '{model.name}' has prunable layers already: use it as it "
            "is, or `kprune.strip(model)` it first."
        )
    if not chosen:
        raise ValueError(
            f"Model '{model.name}' has no layer to prune: none has kernels"
            + (" for which `where` is true." if where else ".")
            + _listed({**left_alone, **shared})
        )
    if half:
        warnings.warn(
            f"Layers {half} of model '{model.name}' hold prunable layers and "
            "others, which stay as they are, since what a layer holds is made "
            "in its constructor. Wrap them there.",
            stacklevel=3,
        )
    if shared:
        warnings.warn(
            f"Layers of model '{model.name}' stay as they are, since a mask in "
            f"one of them would not count in another:{_listed(shared)}",
            stacklevel=3,
        )
    return chosen


def _called_layers(model) -> list:
    """The layers that a model's graph calls, at any depth, each once."""
    found = {}
    for call in keras_internals.calls(model):
        operation = call.operation
        if keras_internals.has_graph(operation):
            found.update(dict.fromkeys(_called_layers(operation)))
        elif isinstance(operation, keras.layers.Layer):
            found[operation] = None
    return list(found)


def _users_of(layer, users) -> list[str]:
    """The names of the layers that use any of a layer's weights."""
    maskable = [
        *weights.kernels(layer).values(),
        *weights.biases(layer).values(),
    ]
    return list(dict.fromkeys(name for v in maskable for name in users[id(v)]))


def _listed(reasons: dict) -> str:
    return "".join(f" '{name}': {why}." for name, why in reasons.items())


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
