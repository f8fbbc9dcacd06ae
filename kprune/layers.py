"""Prunable layers: they hold the masks and multiply by them."""

import math
from typing import Any, Self

import keras
import numpy as np

from kprune import calling, granularities, weights
from kprune.granularities import Granularity
from kprune.stand_in import StandIn

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3D,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


@keras.saving.register_keras_serializable(package="kprune")
class PrunableLayer(StandIn):
    """Gives any Keras layer with kernels a mask, and multiplies by it.

    In training and in inference the wrapped layer computes with
    `weight * mask`, so masked weights get no gradient of the data (a weight
    regularizer, which Keras adds outside of the layer, sees what is stored).
    The masks start with all ones, which leaves the layer as it was.
    `kprune.prune` and `kprune.PruningScheduler` set them, `kprune.strip`
    folds them in.

    Masked are the kernels of the layer, see `kprune.weights.kernels`. A layer
    of your own can say which of its weights these are, by a method
    `get_prunable_weights` that returns a list of its variables.

    The layer that is passed is the one that trains: pass one of its own to
    every wrapper. In the summary of a model the masks are among the
    parameters that do not train.

    Args:
        layer: A Keras layer that has kernels once it is built.
        granularity: In what shape this layer's weights go: a name, an object
            or a callable, as `kprune.granularities.get` takes it. `None`
            means `"filter"` for convolutions and `"unstructured"` for the
            rest.
        **kwargs: Of `keras.layers.Layer`. The name is by default that of the
            layer.

    Call arguments:
        Those of the wrapped layer.

    Input shape:
        That of the wrapped layer.

    Output shape:
        That of the wrapped layer.

    Raises:
        ValueError: If `layer` is no layer, is a model, is wrapped already, or
            has no kernels; or if there is no such granularity.

    Example:

    >>> layer = kprune.PrunableLayer(keras.layers.Embedding(10, 4))
    >>> layer(np.zeros((2, 3), "int32")).shape
    TensorShape([2, 3, 4])
    >>> tuple(layer.masks["embeddings"].shape), layer.sparsity
    ((10, 4), 0.0)
    """

    # What `_masked_variables` found, and among which variables.
    _found: tuple[list[int] | None, list[tuple]] = (None, [])

    def __init__(
        self,
        layer: keras.layers.Layer,
        *,
        granularity: Granularity | str | None = None,
        **kwargs: Any,
    ):
        self._check(layer)
        if granularity is not None:
            granularities.get(granularity)
        super().__init__(layer, **kwargs)
        self._granularity = granularity
        self._masks: dict[str, keras.Variable] = {}
        self._for_good: dict[str, keras.Variable] = {}
        if weights.are_complete(layer):
            self.build()

    def _check(self, layer):
        super()._check(layer)
        if weights.are_complete(layer) and not weights.kernels(layer):
            raise ValueError(_no_kernels(layer))

    @property
    def granularity(self) -> Granularity | str:
        """The granularity as it was passed, or the layer's default name."""
        if self._granularity is not None:
            return self._granularity
        if isinstance(self.layer, _CONVOLUTIONS):
            return "filter"
        return "unstructured"

    @property
    def kernels(self) -> dict[str, keras.Variable]:
        """Dict: name of a weight -> the `keras.Variable` that is pruned."""
        found = weights.kernels(self.layer)
        now = {**found, **weights.biases(self.layer)}
        lost = [
            name
            for name, mask in self._masks.items()
            if name not in now or now[name].shape != mask.shape
        ]
        if lost:
            raise ValueError(
                f"Layer '{self.layer.name}' has changed since it was wrapped: "
                f"it has masks for {lost}, and no such weights of their shapes "
                "that can be pruned. Wrap another layer in a new wrapper, keep "
                "the names of layers, and call `quantize` or `enable_lora` on "
                "the model that `kprune.strip` returns."
            )
        return found

    @property
    def masks(self) -> dict[str, keras.Variable]:
        """Dict: name of a weight -> its mask.

        A mask is a non-trainable boolean `keras.Variable` of the weight's
        shape; True keeps. Biases have one too: they go with their filter.
        """
        return dict(self._masks)

    @property
    def sparsity(self) -> float:
        """Float. The fraction of zeros over the layer's kernels."""
        size, zeros = weights.count_zeros(
            weights.masked_value(kernel, self._masks[name])
            for name, kernel in self.kernels.items()
        )
        return zeros / size if size else 0.0

    def apply_masks(self) -> None:
        """Zeroes the stored weights where they are masked, for good.

        No later update brings them back, whatever an optimizer's momentum
        makes of their stored values.
        """
        for name, variable in self.maskable.items():
            mask = weights.to_numpy(self._masks[name])
            if not mask.all():
                value = weights.to_numpy(variable)
                variable.assign(np.where(mask, value, np.zeros_like(value)))
            if name in self._for_good:
                self._for_good[name].assign(np.packbits(~mask))

    def pruned_for_good(self, name: str) -> np.ndarray | None:
        """Which weights of a kernel are masked and cannot come back.

        Args:
            name: String. The name of the kernel, as in `masks`.

        Returns:
            Boolean array of the kernel's shape, `None` where there are none.
        """
        bits = weights.to_numpy(self._for_good[name])
        if not bits.any():
            return None
        mask = weights.to_numpy(self._masks[name])
        bits = np.unpackbits(bits, count=mask.size).astype(bool)
        return bits.reshape(mask.shape) & ~mask

    @property
    def maskable(self) -> dict[str, keras.Variable]:
        """Dict: name of a weight -> the variable that has a mask."""
        return {**self.kernels, **weights.biases(self.layer)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._masks:
            if not weights.are_complete(self.layer):
                # A symbolic call builds layers of every call signature.
                args_as, kwargs_as = calling.as_symbols((args, kwargs))
                self.layer(*args_as, **kwargs_as)
            if self.built:
                # Loaded, see `build_from_config`.
                self.build()
        return super().__call__(*args, **kwargs)

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the wrapped layer and makes its masks.

        Args:
            *args: Those of the wrapped layer's `build`: a shape, or several.
            **kwargs: By name, such as `query_shape` and `value_shape`.
        """
        super().build(*args, **kwargs)
        if not weights.kernels(self.layer):
            raise ValueError(_no_kernels(self.layer))
        if not self._masks:
            self._masks = {
                name: self.add_weight(
                    name=f"{name.replace('/', '_')}_mask",
                    shape=variable.shape,
                    dtype="bool",
                    initializer="ones",
                    trainable=False,
                )
                for name, variable in self.maskable.items()
            }
            # One bit a weight. Its name has no "kernel" in it, by which a
            # `keras.distribution.LayoutMap` would split it over devices.
            self._for_good = {
                name: self.add_weight(
                    name=f"pruned_for_good_{index}",
                    shape=(-(-math.prod(kernel.shape) // 8),),
                    dtype="uint8",
                    initializer="zeros",
                    trainable=False,
                )
                for index, (name, kernel) in enumerate(self.kernels.items())
            }
            # `tf.train.Checkpoint` finds variables that are attributes only.
            kept = [*self._masks.values(), *self._for_good.values()]
            for index, variable in enumerate(kept):
                setattr(self, f"_kept_{index}", variable)
        self.built = True

    def build_from_config(self, config: dict) -> None:
        if not self.layer.built:
            self.layer.build_from_config(config)
        # Keras takes a loaded layer without a `build` of its own for built,
        # and then this one, before its parts have weights. They get them, and
        # the masks come, when it is called.
        if weights.are_complete(self.layer):
            self.build()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        masked = [
            (variable, weights.times_mask(variable, mask))
            for variable, mask in self._masked_variables()
        ]
        return self.call_layer(masked, args, kwargs)

    def _masked_variables(self) -> list:
        """Pairs of a variable and its mask.

        Kept from call to call: finding them anew showed in eager steps.
        """
        found_in = [id(variable) for variable in self.layer.weights]
        if found_in != self._found[0]:
            pairs = [
                (variable, self._masks[name])
                for name, variable in self.maskable.items()
            ]
            # Set as Keras sets attributes these would be weights twice.
            object.__setattr__(self, "_found", (found_in, pairs))
        return self._found[1]

    def get_config(self) -> dict:
        granularity = self._granularity
        if granularity is not None and not isinstance(granularity, str):
            granularity = keras.saving.serialize_keras_object(granularity)
        return {**super().get_config(), "granularity": granularity}

    @classmethod
    def from_config(
        cls, config: dict, custom_objects: dict | None = None
    ) -> Self:
        config = dict(config)
        if "go_backwards" in config:
            # So `Bidirectional` makes its second layer of the first.
            raise ValueError(
                "A `Bidirectional` cannot hold a prunable layer. Wrap it "
                "instead: "
                "`kprune.PrunableLayer(keras.layers.Bidirectional(...))`."
            )
        granularity = config.get("granularity")
        if granularity is not None and not isinstance(granularity, str):
            config["granularity"] = keras.saving.deserialize_keras_object(
                granularity, custom_objects=custom_objects
            )
        return super().from_config(config, custom_objects=custom_objects)


def _no_kernels(layer) -> str:
    return (
        f"Layer '{layer.name}' of type {type(layer).__name__} has no kernels "
        f"that can be pruned ({weights.no_kernels_reason(layer)}). Use it "
        "without a wrapper."
    )
