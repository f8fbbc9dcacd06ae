"""Standing in a model where another layer stood."""

from collections.abc import Callable
from typing import Any

import keras

from kprune import calling, keras_internals
from kprune.received import describe


class StandIn(keras.layers.Wrapper):
    """Takes the place of the layer that it wraps, whatever that is.

    It has the name of that layer, and is called, built, counted and
    recomputed as that is.

    Args:
        layer: A Keras layer.
        **kwargs: Of `keras.layers.Layer`.
    """

    _accepts = keras.layers.Layer

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any):
        # What goes by names goes on: losses, labels, metrics, layouts.
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        # Keras reads the names of the arguments of `call`: what is a tensor,
        # what has a mask, what is built of which shape.
        object.__setattr__(self, "call", calling.like(layer.call, self.call))
        # Without autocast the masked values keep the variables' own dtype;
        # the wrapped layer casts them as it always does.
        super().__init__(layer, autocast=False, **kwargs)
        if not kwargs.get("trainable", True):
            layer.trainable = False
        self.supports_masking = layer.supports_masking
        # The wrapped layer checks and converts its arguments.
        keras_internals.take_any_arguments(self)
        # Made in a `keras.RematScope`: recomputed with its masks, or not at
        # all. The wrapped layer alone would be recomputed without them.
        keras_internals.take_over_recomputing(self, layer)

    def _check(self, layer):
        """Raises where there is nothing to stand in for."""
        name = type(self).__name__
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                f"`{name}` wraps a Keras layer, such as "
                f"`{name}(keras.layers.{self._accepts.__name__}(...))`. "
                f"Received: {describe(layer)}"
            )
        if isinstance(layer, StandIn):
            raise ValueError(
                f"`{name}` received a layer that is prunable already: "
                f"'{layer.name}'. Wrap its `.layer`, or use it as it is."
            )
        if isinstance(layer, keras.Model):
            raise ValueError(
                f"`{name}` wraps one layer, not a model. Use "
                f"`kprune.make_prunable(model)`. Received: '{layer.name}'"
            )
        if not isinstance(layer, self._accepts):
            raise ValueError(
                f"`{name}` wraps a `keras.layers.{self._accepts.__name__}`; "
                "use `kprune.PrunableLayer` for other layers. "
                f"Received: layer '{layer.name}' of type "
                f"{type(layer).__name__}"
            )

    @property
    def trainable(self) -> bool:
        """Boolean. Whether the wrapped layer trains."""
        return self.layer.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.layer.trainable = value

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Builds the wrapped layer, with the arguments of its own `build`."""
        if not self.layer.built:
            # Its variables have the paths that they have without a wrapper.
            keras_internals.share_scope(self.layer, self)
            self.layer.build(*args, **kwargs)
            self.layer.built = True

    def get_build_config(self) -> dict | None:
        return self.layer.get_build_config()

    def call_layer(self, values: list, args: tuple, kwargs: dict) -> Any:
        """Calls the wrapped layer with other values for its variables.

        Args:
            values: List of pairs of a `keras.Variable` and a tensor.
            args: Tuple of what it is called with.
            kwargs: Dict.

        Returns:
            What the wrapped layer returns.
        """
        # The scope gives the wrapped layer these values for its variables,
        # whatever kind of layer it is, and catches what it assigns.
        with calling.Scope(values) as scope:
            outputs = self.layer(*args, **kwargs)
        for variable in scope.assigned:
            variable.assign(scope.get_current_value(variable))
        for loss in scope.losses:
            if scope.original_scope is None:
                self.add_loss(loss)
            elif scope.original_scope.collect_losses:
                # The wrapped layer counts it as its own there; added by this
                # layer too it would count twice.
                scope.original_scope.add_loss(loss)
        return outputs

    def rematerialized_call(
        self, layer_call: Callable, *args: Any, **kwargs: Any
    ) -> Callable:
        # JAX keeps what it traced of a function, with the values of that call;
        # of a new function it has none.
        return super().rematerialized_call(
            lambda *args, **kwargs: layer_call(*args, **kwargs),
            *args,
            **kwargs,
        )

    # Keras reads the argument names of these methods when it traces a layer;
    # the wrapped layer has the right ones.
    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By a call: that casts as the layer does in mixed precision.
        args, kwargs = calling.as_symbols((args, kwargs))
        with keras_internals.calls_forgotten(self.layer):
            return calling.as_symbols(self.layer(*args, **kwargs))

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def count_params(self) -> int:
        # Masks are bookkeeping: the summary's row shows the layer's weights.
        return self.layer.count_params()
