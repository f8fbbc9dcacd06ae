"""Which of a model's weights can be pruned, and where prunable layers stand."""

import keras

from kprune import keras_internals, weights
from kprune.keras_internals import sublayers
from kprune.layers import PrunableLayer


def prunable_layers(model) -> list[PrunableLayer]:
    """All prunable layers of a model, in nested models and layers too.

    Args:
        model: `keras.Model` or layer.

    Returns:
        List of `PrunableLayer`, each once.
    """
    return [
        layer for layer in sublayers(model) if isinstance(layer, PrunableLayer)
    ]


def prunable_weights(model) -> list[tuple]:
    """The weights of a model that are pruned one by one, with their masks.

    Args:
        model: `keras.Model`.

    Returns:
        List of `(variable, mask)`, each variable once: the kernels of the
        prunable layers, or, where there are none, the kernels of all layers
        with `None` as mask.
    """
    prunable = prunable_layers(model)
    if prunable:
        pairs = [
            (kernel, layer.masks[name])
            for layer in prunable
            for name, kernel in layer.kernels.items()
        ]
    else:
        pairs = [
            (kernel, None)
            for layer in sublayers(model)
            for kernel in weights.kernels(layer).values()
        ]
    return list({id(pair[0]): pair for pair in pairs}.values())


def owners(model) -> dict[int, list[str]]:
    """Which layers of a model's graph, at any depth, own each variable.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Dict from the id of a variable to the names of the layers that are
        called and have it, each layer once.
    """
    found = {}
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
                if isinstance(operation, PrunableLayer):
                    operation = operation.layer
                for variable in operation.weights:
                    found.setdefault(id(variable), []).append(operation.name)

    visit(model)
    return found


def check_wrappers(model) -> None:
    """Raises where masks would count in one place and not in another.

    Args:
        model: `keras.Model` or layer.

    Raises:
        ValueError: If a layer is in two wrappers, or in one and used without
            it, or a wrapper is in a layer of Keras, which opens none.
    """
    wrappers = {}
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
