"""The loss of a model that gradients are of."""

from typing import Any

import keras
import numpy as np

from kprune.observing.samples import Batch, call


class ModelLoss:
    """The loss of a model, with what its layers add.

    Args:
        model: A built `keras.Model`.
        loss: A Keras loss, its name, or a callable `(y_true, y_pred)`; `None`
            for the one that the model was compiled with.
        batches: List of `Batch` that it is to be computed on.

    Raises:
        ValueError: If there are no targets or no loss.
    """

    def __init__(self, model: keras.Model, loss: Any, batches: list[Batch]):
        self._model = model
        self._of_targets = keras.losses.get(loss)
        if loss is None and not model.compiled:
            raise ValueError(
                f"Gradients need a loss, and model '{model.name}' is not "
                "compiled. Compile it, or pass `loss=`."
            )
        has_loss = loss is not None or model.loss is not None
        if has_loss and any(batch.y is None for batch in batches):
            raise ValueError(
                "Gradients need targets, and `data` has none. Pass "
                "`data=(x, y)`, or batches of such tuples."
            )

    def __call__(self, x: Any, y: Any, sample_weight: Any) -> Any:
        """The loss of a batch, as the model is at inference.

        Args:
            x: Structure of tensors.
            y: Structure of tensors, or `None`.
            sample_weight: Structure of tensors, or `None`.

        Returns:
            A scalar tensor.

        Raises:
            ValueError: If it cannot be computed.
        """
        predicted = call(self._model, x)
        try:
            return self._of(x, y, predicted, sample_weight)
        except Exception as error:
            # Whatever Keras, its backend or a user's own loss raises.
            shapes = keras.tree.map_structure(np.shape, y)
            raise ValueError(
                f"The loss of model '{self._model.name}' cannot be computed on "
                f"the targets in `data`, of shape {shapes}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _of(self, x, y, predicted, sample_weight):
        of_targets, model = self._of_targets, self._model
        if of_targets is None:
            is_own = type(model).compute_loss is not keras.Model.compute_loss
            if not (is_own or model.loss or model.losses):
                # On JAX Keras would take 0.
                raise ValueError(
                    "it is compiled without one. Compile it with a loss, or "
                    "pass `loss=`."
                )
            return model.compute_loss(x, y, predicted, sample_weight)
        if isinstance(of_targets, keras.losses.Loss):
            total = of_targets(y, predicted, sample_weight=sample_weight)
        else:
            total = keras.ops.mean(of_targets(y, predicted))
        return sum(model.losses, start=total)
