"""Where prunable layers may stand in a model, and which of them train."""

import keras

from kprune import keras_internals
from kprune.keras_internals import sublayers
from kprune.layers import PrunableLayer
from kprune.prunable import prunable_layers, unwrapped
from kprune.received import check_model


def trainable_layers(model: keras.Model) -> list[PrunableLayer]:
    """The prunable layers of a model that are not frozen.

    Args:
        model: `keras.Model`.

    Returns:
        List of `PrunableLayer`, at least one.

    Raises:
        ValueError: If there is none, with the line to write; or if its own
            layer is used without it too.
    """
    check_model(model, "prune", kind=keras.layers.Layer)
    check_wrappers(model)
    layers = prunable_layers(model)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no prunable layers, so no mask can "
            "grow. Make a model that has them, and compile that one:\n\n"
            "    model = kprune.make_prunable(model)\n\n"
            "or wrap layers as you build it: "
            "`kprune.PrunableDense(keras.layers.Dense(64))`."
        )
    trainable = [
        layer for layer in layers if layer.trainable and layer.layer.trainable
    ]
    if not trainable:
        raise ValueError(
            f"All prunable layers of model '{model.name}' are frozen "
            "(`trainable=False`), and frozen layers are not pruned. Set "
            "`layer.trainable = True` where weights are to go."
        )
    return trainable


def check_wrappers(model: keras.layers.Layer) -> None:
    """Raises where masks would count in one place and not in another.

    Args:
        model: `keras.Model` or layer.

    Raises:
        ValueError: If a layer is in two wrappers, or in one and used without
            it, or a wrapper is in a layer of Keras, which opens none; or if a
            weight with a mask is used by another layer too.
    """
    wrappers: dict[int, PrunableLayer] = {}
    for wrapper in prunable_layers(model):
        other = wrappers.setdefault(id(wrapper.layer), wrapper)
        if other is not wrapper:
            raise ValueError(
                f"Layer '{wrapper.layer.name}' is in two prunable layers, "
                f"'{other.name}' and '{wrapper.name}', with masks of their "
                "own. Call one of them in both places."
            )
    for owner in [model, *sublayers(model)]:
        if keras_internals.has_graph(owner):
            for layer in owner.layers:
                if id(layer) in wrappers:
                    raise ValueError(
                        f"Layer '{layer.name}' is in the prunable layer "
                        f"'{wrappers[id(layer)].name}', and model "
                        f"'{owner.name}' uses it without its masks as well. "
                        "Call the prunable layer in both places."
                    )
        elif isinstance(owner, keras.layers.Wrapper) and isinstance(
            owner.layer, PrunableLayer
        ):
            kind = type(owner).__name__
            raise ValueError(
                f"Prunable layer '{owner.layer.name}' is in '{owner.name}', "
                "which cannot be opened again. Wrap the outer layer instead: "
                f"`kprune.PrunableLayer(keras.layers.{kind}(...))`."
            )
    if keras_internals.has_graph(model):
        _check_not_shared(model)


def _check_not_shared(model) -> None:
    users = {key: names for key, names in owners(model).items() if names[1:]}
    for wrapper in prunable_layers(model) if users else ():
        for variable in wrapper.maskable.values():
            if id(variable) in users:
                names = " and ".join(
                    f"'{name}'" for name in users[id(variable)]
                )
                raise ValueError(
                    f"Layers {names} share '{variable.path}', so a mask in "
                    "one of them would not count in the other. Use them "
                    "without a wrapper, as `kprune.make_prunable` does."
                )


def owners(model: keras.Model) -> dict[int, list[str]]:
    """Which layers of a model's graph, at any depth, own each variable.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Dict from the id of a variable to the names of the layers that are
        called and have it, each layer once.
    """
    found: dict[int, list[str]] = {}
    seen = set()

    def visit(graph):
        for call in keras_internals.calls(graph):
            operation = call.operation
            if id(operation) in seen:
                continue
            seen.add(id(operation))
            if keras_internals.has_graph(operation):
                visit(operation)
            elif isinstance(operation, keras.layers.Layer):
                operation = unwrapped(operation)
                for variable in operation.weights:
                    found.setdefault(id(variable), []).append(operation.name)

    visit(model)
    return found
