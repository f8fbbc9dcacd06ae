"""What a model's kernels read, and the gradients of its loss, on some data."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from kprune import weights
from kprune.keras_internals import sublayers
from kprune.observing import gradients, kernels, linear
from kprune.observing.linear import LinearMap
from kprune.observing.losses import ModelLoss
from kprune.observing.samples import Batch, call
from kprune.observing.steps import step_by_step
from kprune.observing.watching import watching
from kprune.prunable import (
    PrunableWeight,
    prunable_layers,
    prunable_weights,
    unwrapped,
)


class Observations:
    """What can be seen of a model when it computes on some samples.

    The model is called as at inference, with its weights as they count:
    masked ones as 0. Whatever it assigns meanwhile is forgotten. Nothing is
    computed before it is asked for, and nothing twice.

    Args:
        model: A built `keras.Model` with prunable layers.
        batches: List of `Batch`.
        loss: A Keras loss, its name, or a callable `(y_true, y_pred)`; `None`
            for the one that the model was compiled with. Only gradients need
            it.
    """

    def __init__(
        self, model: keras.Model, batches: list[Batch], loss: Any = None
    ):
        self.model = model
        self._batches = batches
        self._loss = loss

    def map_of(self, weight: PrunableWeight) -> LinearMap:
        """How the model uses a kernel.

        Args:
            weight: A prunable weight of the model.

        Raises:
            ValueError: If that is not known.
        """
        try:
            return self._maps[id(weight.variable)]
        except KeyError:
            kind = type(unwrapped(weight.layer)).__name__
            raise ValueError(
                f"What {weight} (of type {kind}) reads is not known, so there "
                "is no `input_norm` and no `gram` of it. Leave the layer "
                "unwrapped, with `kprune.make_prunable(model, layers=...)`, or "
                "take a criterion that asks for neither."
            ) from None

    def input_norm(self, weight: PrunableWeight) -> np.ndarray:
        """The root mean square of what each weight multiplies.

        Args:
            weight: A prunable weight of the model.

        Returns:
            Float64 array of the kernel's shape.

        Raises:
            ValueError: If what it reads is not known.
        """
        return np.sqrt(self._means(weight, self._squares))

    def input_magnitude(self, weight: PrunableWeight) -> np.ndarray:
        """The mean absolute value of what each weight multiplies.

        As `input_norm`.
        """
        return self._means(weight, self._magnitudes)

    def input_zeros(self, weight: PrunableWeight) -> np.ndarray:
        """How often what each weight multiplies is 0, as a fraction.

        As `input_norm`.
        """
        return self._means(weight, self._zeros)

    def _means(self, weight, sums) -> np.ndarray:
        """Sums over the rows as means, in the shape of the kernel."""
        of_kernel = self.map_of(weight)
        totals, count = sums.get(id(weight.variable), (np.zeros(1), 0))
        means = np.broadcast_to(totals / max(count, 1), of_kernel.shape[:2])
        return of_kernel.kernel(
            np.repeat(means[..., None], of_kernel.shape[2], axis=2)
        )

    def gram(self, weight: PrunableWeight) -> np.ndarray:
        """The second moment of what a kernel reads: the mean of `x' x`.

        Args:
            weight: A prunable weight of the model.

        Returns:
            Float64 array of shape `(matrices, inputs, inputs)`, see
            `LinearMap`.

        Raises:
            ValueError: If what it reads is not known.
        """
        count, inputs, _ = self.map_of(weight).shape
        none = np.zeros((count, inputs, inputs)), 0
        totals, rows = self._grams.get(id(weight.variable), none)
        return totals / max(rows, 1)

    def covariance(self, weight: PrunableWeight) -> np.ndarray:
        """The second moment of what a kernel reads about its mean.

        As `gram`.
        """
        totals, rows = self._totals.get(id(weight.variable), (np.zeros(1), 0))
        mean = totals / max(rows, 1)
        return self.gram(weight) - mean[..., :, None] * mean[..., None, :]

    def with_gram(
        self, weight: PrunableWeight, gram: np.ndarray
    ) -> "Observations":
        """The same, but for the second moment of what one kernel reads.

        Args:
            weight: The kernel.
            gram: Array as `gram` returns it.

        Returns:
            `Observations`.
        """
        found = copy.copy(self)
        found._grams = {id(weight.variable): (gram, 1)}
        return found

    def gradient(self, weight: PrunableWeight) -> np.ndarray:
        """The mean over the batches of the loss's gradient.

        Args:
            weight: A prunable weight of the model that trains.

        Returns:
            Float64 array of the kernel's shape; that of masked weights too.

        Raises:
            ValueError: If there are no targets or no loss.
        """
        return self._gradients[id(weight.variable)][0]

    def squared_gradient(self, weight: PrunableWeight) -> np.ndarray:
        """The mean over the batches of the square of the loss's gradient.

        As `gradient`.
        """
        return self._gradients[id(weight.variable)][1]

    @functools.cached_property
    def _owned(self) -> list[tuple[keras.layers.Layer, list[LinearMap]]]:
        """The layers that use prunable weights, and how."""
        wanted = {id(w.variable) for w in prunable_weights(self.model)}
        found = []
        for layer in prunable_layers(self.model):
            for owner in [layer.layer, *sublayers(layer.layer)]:
                maps = [
                    one
                    for one in kernels.maps_of(owner)
                    if id(one.variable) in wanted
                ]
                if maps:
                    found.append((owner, maps))
        return found

    @functools.cached_property
    def _maps(self) -> dict[int, LinearMap]:
        return {
            id(one.variable): one for _, maps in self._owned for one in maps
        }

    @functools.cached_property
    def _squares(self) -> dict[int, tuple[np.ndarray, int]]:
        return self._sums(lambda one, given: one.sums(given, np.square))

    @functools.cached_property
    def _totals(self) -> dict[int, tuple[np.ndarray, int]]:
        return self._sums(lambda one, given: one.sums(given, np.asarray))

    @functools.cached_property
    def _magnitudes(self) -> dict[int, tuple[np.ndarray, int]]:
        return self._sums(lambda one, given: one.sums(given, np.abs))

    @functools.cached_property
    def _zeros(self) -> dict[int, tuple[np.ndarray, int]]:
        return self._sums(lambda one, given: one.sums(given, np.logical_not))

    @functools.cached_property
    def _grams(self) -> dict[int, tuple[np.ndarray, int]]:
        return self._sums(lambda one, given: one.moments(given))

    def _sums(self, of_call: Callable) -> dict[int, tuple[np.ndarray, int]]:
        """Sums over all calls of all layers, and the numbers of rows."""
        found: dict[int, tuple[np.ndarray, int]] = {}
        maps = {id(owner): maps for owner, maps in self._owned}

        def heard(layer, call, *args, **kwargs):
            arguments = linear.arguments_of(layer, args, kwargs)
            arguments = unmasked(layer, arguments)
            for one in maps[id(layer)] if arguments else ():
                total, count = of_call(one, arguments)
                key = id(one.variable)
                before, counted = found.get(key, (0.0, 0))
                found[key] = before + total, counted + count
            return call(*args, **kwargs)

        owners = [owner for owner, _ in self._owned]
        values = list(self._as_it_counts())
        with watching(owners, heard), step_by_step(self.model) as unmasked:
            for batch in self._batches:
                with keras.StatelessScope(values):
                    call(self.model, batch.x)
        return found

    def _as_it_counts(self) -> Iterator[tuple[keras.Variable, Any]]:
        """Values that make masked weights 0, and their masks all ones."""
        for layer in prunable_layers(self.model):
            for name, variable in layer.maskable.items():
                mask = layer.masks[name]
                yield variable, weights.times_mask(variable, mask)
                yield mask, keras.ops.ones(mask.shape, "bool")

    @functools.cached_property
    def _gradients(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        total_loss = ModelLoss(self.model, self._loss, self._batches)
        variables = [w.variable for w in prunable_weights(self.model)]
        counts = {id(v): value for v, value in self._as_it_counts()}
        values = [counts.pop(id(variable)) for variable in variables]
        rest = [
            (variable, counts[id(variable)])
            for variable, _ in self._as_it_counts()
            if id(variable) in counts
        ]

        def step(values, x, y, sample_weight):
            def loss(values):
                scope = keras.StatelessScope([*zip(variables, values), *rest])
                scope.collect_losses = True
                with scope:
                    return total_loss(x, y, sample_weight)

            return gradients.gradients(loss, values)

        if not self.model.run_eagerly:
            step = gradients.compiled(step)
        sums = [[np.zeros(v.shape), np.zeros(v.shape)] for v in variables]
        for batch in self._batches:
            found = step(values, batch.x, batch.y, batch.sample_weight)
            for (mean, square), gradient in zip(sums, found):
                gradient = keras.ops.convert_to_numpy(gradient)
                gradient = gradient.astype(np.float64)
                mean += gradient
                square += np.square(gradient)
        if not all(np.isfinite(mean).all() for mean, _ in sums):
            raise ValueError(
                "The loss has gradients that are nan or infinite on `data`. "
                "Look for nan in its targets and sample weights, and in the "
                f"weights of model '{self.model.name}'."
            )
        count = len(self._batches)
        return {
            id(variable): (mean / count, square / count)
            for variable, (mean, square) in zip(variables, sums)
        }


def of_names(
    observations: Observations | None,
    weight: PrunableWeight,
    names: Iterable[str],
) -> dict[str, Callable]:
    """What a member can ask for that needs data.

    Args:
        observations: `Observations`, `None` where no data was given.
        weight: The kernel that it is called for.
        names: Iterable of names, those of methods of `Observations`.

    Returns:
        Dict from a name to a callable without arguments.
    """

    def offer(name):
        if observations is None:
            raise ValueError(
                f"`{name}` is computed from data. Pass `data=`: some hundred "
                "samples" + (", with targets." if "gradient" in name else ".")
            )
        return getattr(observations, name)(weight)

    return {name: functools.partial(offer, name) for name in names}
