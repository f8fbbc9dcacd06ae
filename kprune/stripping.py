"""`strip`: from a prunable model back to plain Keras."""

import keras

from kprune.structure import functional
from kprune.structure.graph import check_graph
from kprune.structure.rebuilding import Rebuilder, clone, unwrapped
from kprune.structure.removal import remove_unused
from kprune.weights import masked_value


def strip(model: keras.Model, *, compact: bool = True) -> keras.Model:
    """Folds the masks in and gives a plain Keras model back.

    The result has no wrapper, no mask and nothing of kprune in its config; it
    loads where kprune is not installed. Every layer has its own name again.

    Args:
        model: A built Sequential or Functional model, with prunable layers.
        compact: Boolean. Whether to remove the channels that the masks leave
            unused as well, as `kprune.compact` does. Without it the shapes
            stay and pruned weights are zeros.

    Returns:
        A new model, not compiled. The one that is passed is not changed.

    Raises:
        ValueError: If the model is subclassed or not built.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 1)),
    ...     kprune.PrunableConv2D(16, 3, name="conv"),
    ...     keras.layers.Flatten(),
    ...     kprune.PrunableDense(10, name="logits"),
    ... ])
    >>> stripped = kprune.strip(kprune.prune(model, 0.5))
    >>> stripped.layers[0].name, stripped.layers[0].filters
    ('conv', 8)
    """
    check_graph(model, "strip")
    if compact:
        return remove_unused(model)
    masks = {}
    for layer in functional.prunable_layers(model):
        for name, variable in layer.maskable.items():
            masks[id(variable)] = layer.masks[name]
    rebuilder = Rebuilder(lambda layer: clone(unwrapped(layer)))
    plain = rebuilder.rebuild(model)
    rebuilder.copy_weights(
        lambda variable: masked_value(variable, masks.get(id(variable)))
    )
    return plain
