"""`PrunableWeight`: a weight that can be pruned, and which a model has.

What is known of such a weight is asked of it and nowhere found again: where
its inputs and outputs are, its mask, what counts of it, what is gone for good.
"""

import dataclasses
import math

import keras
import numpy as np

from kprune import axes, weights
from kprune.keras_internals import sublayers
from kprune.layers import PrunableLayer


@dataclasses.dataclass(frozen=True, eq=False)
class PrunableWeight:
    """A weight that can be pruned.

    Args:
        layer: The `kprune.PrunableLayer` that holds its mask; the Keras layer
            that has the weight where nothing does.
        name: String. Its name in `layer.masks`, such as `"kernel"`.
        variable: `keras.Variable`.
        mask: Boolean `keras.Variable` of the same shape, True keeps; `None`
            where there is none.
        in_axes: Tuple of integers: the axes of the variable that are summed
            over (but those of space). Empty where each output has an input of
            its own, as in a depthwise convolution.
        out_axes: Tuple of integers: the axes along which outputs lie.
        parts: Integer. How many kernels lie side by side on the last axis,
            that of the outputs: an LSTM has one for each of its 4 gates.
        bias: `keras.Variable` that is added to its outputs, or `None`.
    """

    layer: keras.layers.Layer
    name: str
    variable: keras.Variable
    mask: keras.Variable | None
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    parts: int = 1
    bias: keras.Variable | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Tuple of integers. The shape of the variable."""
        return tuple(self.variable.shape)

    @property
    def size(self) -> int:
        """Integer. The number of weights."""
        return math.prod(self.shape)

    @property
    def outputs(self) -> int:
        """Integer. The number of outputs: filters, units."""
        lengths = [self.shape[axis] for axis in self.out_axes]
        return math.prod(lengths) // self.parts

    def __str__(self) -> str:
        return f"'{self.name}' of layer '{self.layer.name}'"

    def value(self) -> np.ndarray:
        """The stored weights, to be read only."""
        return weights.to_numpy(self.variable)

    def masked(self) -> np.ndarray:
        """What counts: the weight where the mask keeps, else 0."""
        return weights.masked_value(self.variable, self.mask)

    def gone(self) -> np.ndarray | None:
        """Boolean array: weights pruned for good, `None` where none are."""
        if self.mask is None:
            return None
        return self.layer.pruned_for_good(self.name)

    def outputs_last(self, array: np.ndarray) -> np.ndarray:
        """An array of the variable's shape as `(..., inputs, outputs)`.

        Args:
            array: Array of the shape of the variable.

        Returns:
            Array, where possible a view. Parts and axes of space come first.
        """
        split, order = self._turned()
        turned = array.reshape(split).transpose(order)
        others = len(order) - len(self.in_axes) - len(self.out_axes)
        inputs = math.prod(turned.shape[others : others + len(self.in_axes)])
        return turned.reshape(*turned.shape[:others], inputs, self.outputs)

    def back(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `outputs_last`.

        Args:
            array: Array of shape `(..., inputs, outputs)`.

        Returns:
            Array of the shape of the variable.
        """
        split, order = self._turned()
        turned = array.reshape([split[axis] for axis in order])
        return turned.transpose(np.argsort(order)).reshape(self.shape)

    def outputs_left(self, kept: np.ndarray) -> np.ndarray:
        """Which outputs have any weight that is kept.

        Args:
            kept: Boolean array of the shape of the variable.

        Returns:
            Boolean array, as long along each of `out_axes` as the variable.
        """
        others = set(range(kept.ndim)) - set(self.out_axes)
        return np.asarray(kept.any(axis=tuple(others)))

    def _turned(self) -> tuple[list[int], list[int]]:
        """The shape with parts on an axis of their own, and the axes' order."""
        split, outs = list(self.shape), list(self.out_axes)
        if self.parts > 1:
            split[-1:] = [self.parts, split[-1] // self.parts]
            outs = [len(split) - 1]
        used = {*self.in_axes, *outs}
        others = [axis for axis in range(len(split)) if axis not in used]
        return split, [*others, *self.in_axes, *outs]


def unwrapped(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, or what it wraps if it is a prunable layer."""
    return layer.layer if isinstance(layer, PrunableLayer) else layer


def prunable_layers(model: keras.layers.Layer) -> list[PrunableLayer]:
    """All prunable layers of a model, in nested models and layers too.

    Args:
        model: `keras.Model` or layer.

    Returns:
        List of `PrunableLayer`, each once.
    """
    return [
        layer for layer in sublayers(model) if isinstance(layer, PrunableLayer)
    ]


def weights_of(layer: keras.layers.Layer) -> list[PrunableWeight]:
    """The weights of one layer that can be pruned.

    Args:
        layer: A built layer, prunable or plain.

    Returns:
        List of `PrunableWeight`.

    Example:

    >>> layer = kprune.PrunableLayer(keras.layers.Conv2DTranspose(4, 3))
    >>> layer.build((None, 8, 8, 2))
    >>> (weight,) = kprune.prunable.weights_of(layer)
    >>> weight.name, weight.shape, weight.in_axes, weight.out_axes
    ('kernel', (3, 3, 4, 2), (3,), (2,))
    """
    plain = unwrapped(layer)
    is_wrapped = plain is not layer
    kernels = layer.kernels if is_wrapped else weights.kernels(plain)
    masks = layer.masks if is_wrapped else {}
    # What is inside comes after what holds it.
    owner_of = {
        id(variable): part
        for part in [plain, *sublayers(plain)]
        for variable in part.weights
    }
    found = []
    for name, variable in kernels.items():
        owner = owner_of[id(variable)]
        ins, outs, parts = axes.of_kernel(owner, variable)
        found.append(
            PrunableWeight(
                layer,
                name,
                variable,
                masks.get(name),
                ins,
                outs,
                parts,
                axes.bias_of(owner, variable, outs),
            )
        )
    return found


def all_weights(model: keras.layers.Layer) -> list[PrunableWeight]:
    """The kernels of all layers of a model, prunable ones and others.

    Args:
        model: `keras.Model` or layer.

    Returns:
        List of `PrunableWeight`, each variable once.
    """
    layers = sublayers(model)
    models = [layer for layer in layers if isinstance(layer, keras.Model)]
    layers = [layer for layer in layers if not isinstance(layer, keras.Model)]
    found: dict[int, PrunableWeight] = {}
    # What holds masks first, and a model's own weights last.
    for layer in [*prunable_layers(model), *layers, *models, model]:
        for weight in weights_of(layer):
            found.setdefault(id(weight.variable), weight)
    return list(found.values())


def prunable_weights(model: keras.layers.Layer) -> list[PrunableWeight]:
    """The weights of a model that have masks.

    Args:
        model: `keras.Model` or layer.

    Returns:
        List of `PrunableWeight`, each variable once.
    """
    return [
        weight
        for layer in prunable_layers(model)
        for weight in weights_of(layer)
    ]


def masks_of(model: keras.layers.Layer) -> dict[int, keras.Variable]:
    """The masks of a model, those of biases too.

    Args:
        model: `keras.Model` or layer.

    Returns:
        Dict from the id of a variable to its mask.
    """
    return {
        id(variable): layer.masks[name]
        for layer in prunable_layers(model)
        for name, variable in layer.maskable.items()
    }
