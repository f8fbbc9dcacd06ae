"""Where prunable layers may stand in a model."""

import keras

from kprune.layers import PrunableLayer
from kprune.structure import functional
from kprune.weights import sublayers


def check_wrappers(model) -> None:
    """Raises where masks would count in one place and not in another.

    Args:
        model: `keras.Model` or layer.

    Raises:
        ValueError: If a layer is in two wrappers, or in one and used without
            it, or a wrapper is in a layer of Keras, which opens none.
    """
    wrappers = {}
    for wrapper in functional.prunable_layers(model):
        other = wrappers.setdefault(id(wrapper.layer), wrapper)
        if other is not wrapper:
            raise ValueError(
                f"Layer '{wrapper.layer.name}' is in two prunable layers, "
                f"'{other.name}' and '{wrapper.name}', with masks of their "
                "own. Call one of them in both places."
            )
    for owner in [model, *sublayers(model)]:
        if functional.has_graph(owner):
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
