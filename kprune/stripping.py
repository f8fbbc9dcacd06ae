"""`strip`: from a prunable model back to plain Keras."""

import keras

from kprune.prunable import masks_of, prunable_layers, unwrapped
from kprune.structure import flattening, subclassing
from kprune.structure.cloning import clone
from kprune.structure.graph import readable
from kprune.structure.rebuilding import Rebuilder
from kprune.structure.removal import remove_unused
from kprune.weights import masked_value
from kprune.wrappers import check_wrappers


def strip(model: keras.Model, *, compact: bool = True) -> keras.Model:
    """Folds the masks in and gives a plain Keras model back.

    The result has no wrapper, no mask and nothing of kprune in its config; it
    loads where kprune is not installed. Every layer has its own name again.

    Args:
        model: A built model, with prunable layers. A subclassed one is
            flattened by a symbolic call, and comes back as a functional one,
            without the weights that its call does not use in inference.
        compact: Boolean. Whether to remove the channels that the masks leave
            unused as well, as `kprune.compact` does. Without it the shapes
            stay and pruned weights are zeros; then a subclassed model whose
            call cannot be traced comes back too, as one of its own class.

    Returns:
        A new model, not compiled. The one that is passed is not changed.

    Raises:
        ValueError: If the model is not built; if a prunable layer is held by
            a layer that is no model, or its own layer is used without it; or
            if the model is subclassed, its call cannot be traced, and
            `compact` is true.

    Warns:
        UserWarning: If weights are left out, with their names.

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
    if isinstance(model, keras.Model):
        check_wrappers(model)
    try:
        graph = readable(model, "strip")
    except ValueError as error:
        if not isinstance(model, keras.Model) or not model.built:
            raise
        if compact:
            raise ValueError(
                f"{error} Or keep all channels: `kprune.strip(model, "
                "compact=False)` needs no graph."
            ) from error
        return subclassing.unwrap(model, _value_under_mask(model))
    flattening.warn_of_unused(model, graph)
    check_wrappers(graph)
    if compact:
        return _checked(remove_unused(graph))
    rebuilder = Rebuilder(lambda layer: clone(unwrapped(layer)))
    plain = rebuilder.rebuild(graph)
    rebuilder.copy_weights(_value_under_mask(model))
    return _checked(plain)


def _value_under_mask(model):
    """A function from a variable of the model to what counts of it."""
    masks = masks_of(model)
    return lambda variable: masked_value(variable, masks.get(id(variable)))


def _checked(plain: keras.Model) -> keras.Model:
    """The model, unless something of kprune is left in it."""
    left = prunable_layers(plain)
    if left:
        raise ValueError(
            f"Prunable layers are held by other layers of model "
            f"'{plain.name}', which cannot be opened: "
            f"{[layer.name for layer in left]}. Wrap the outer layer instead, "
            "such as `kprune.PrunableLayer(keras.layers.TimeDistributed("
            "keras.layers.Dense(8)))`."
        )
    return plain
