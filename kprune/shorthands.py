"""Prunable layers that also make the layer that they wrap."""

from typing import Any

import keras
import numpy as np

from kprune.granularities import Granularity
from kprune.layers import PrunableLayer


class _Shorthand(PrunableLayer):
    """A wrapper that can also make its layer from the layer's arguments."""

    _size = "units"

    def __init__(
        self,
        layer: keras.layers.Layer | int | None = None,
        *args: Any,
        granularity: Granularity | str | None = None,
        **kwargs: Any,
    ):
        if layer is None:
            layer = kwargs.pop(self._size, None)
        if not isinstance(layer, keras.layers.Layer) and _is_argument(layer):
            layer = self._accepts(layer, *args, **kwargs)
            kwargs = {}
        elif args:
            raise ValueError(
                f"`{type(self).__name__}(layer)` takes no further positional "
                f"arguments with a layer. Received: {args!r}"
            )
        super().__init__(layer, granularity=granularity, **kwargs)


def _is_argument(value) -> bool:
    """Whether `value` can be the number of units or filters."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


@keras.saving.register_keras_serializable(package="kprune")
class PrunableDense(_Shorthand):
    """A `keras.layers.Dense` whose weights can be pruned.

    Args:
        layer: A `keras.layers.Dense`, or its number of units: then the other
            arguments are those of `keras.layers.Dense`, the name included.
        granularity: In what shape weights go, as `kprune.granularities.get`
            takes it. `None` means `"unstructured"`: single weights.
        **kwargs: With a layer those of `keras.layers.Layer`, else those of
            `keras.layers.Dense`.

    Call arguments:
        inputs: Tensor of shape `(..., input_dim)`.

    Output shape:
        `(..., units)`.

    Raises:
        ValueError: If `layer` is neither a Dense nor a number.

    Example:

    >>> layer = kprune.PrunableDense(64, activation="relu", name="hidden")
    >>> layer.name, layer.layer.name
    ('hidden', 'hidden')
    >>> kprune.PrunableDense(units=64).layer.units
    64
    """

    _accepts = keras.layers.Dense


@keras.saving.register_keras_serializable(package="kprune")
class PrunableConv2D(_Shorthand):
    """A `keras.layers.Conv2D` whose filters can be pruned.

    Args:
        layer: A `keras.layers.Conv2D`, or its number of filters: then the
            other arguments are those of `keras.layers.Conv2D`.
        granularity: In what shape weights go, as `kprune.granularities.get`
            takes it. `None` means `"filter"`: whole output channels.
        **kwargs: With a layer those of `keras.layers.Layer`, else those of
            `keras.layers.Conv2D`.

    Call arguments:
        inputs: Tensor of shape `(batch, height, width, channels)`, or with
            the channels first, as `data_format` says.

    Output shape:
        That of `keras.layers.Conv2D`.

    Raises:
        ValueError: If `layer` is neither a Conv2D nor a number.

    Example:

    >>> layer = kprune.PrunableConv2D(32, 3, activation="relu")
    >>> layer(np.zeros((1, 8, 8, 3))).shape
    TensorShape([1, 6, 6, 32])
    >>> tuple(layer.masks["kernel"].shape)
    (3, 3, 3, 32)
    """

    _accepts = keras.layers.Conv2D
    _size = "filters"
