"""Where a model is repaired, and what is seen there."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from kprune import weights
from kprune.keras_internals import sublayers
from kprune.observing import kernels, linear
from kprune.observing.linear import LinearMap
from kprune.observing.samples import Batch
from kprune.observing.samples import call as call_on
from kprune.observing.steps import step_by_step
from kprune.observing.watching import to_numpy, watching
from kprune.prunable import PrunableWeight, all_weights, prunable_layers

# One alone could lose its axis where a model squeezes.
_LOOKED_AT = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A layer that can be repaired: a BatchNormalization by its statistics.

    Args:
        owner: The Keras layer that is called.
    """

    owner: keras.layers.Layer

    @property
    def name(self) -> str:
        """String. The layer, and the kernel where it has several."""
        return self.owner.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Tuple of integers: that of what is repaired."""
        return tuple(self.owner.moving_mean.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class KernelSite(Site):
    """A kernel that can be fitted.

    Args:
        owner: The Keras layer that uses it.
        weight: Its `PrunableWeight`.
        map: Its `LinearMap`.
    """

    weight: PrunableWeight
    map: LinearMap

    @property
    def name(self) -> str:
        return name_of(self.weight)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def kept(self) -> np.ndarray:
        """Boolean array of the kernel's shape: what is not pruned.

        In a model without masks zeros are taken to be pruned.
        """
        if self.weight.mask is None:
            return self.weight.value() != 0
        return weights.to_numpy(self.weight.mask)

    @property
    def bias(self) -> keras.Variable | None:
        """The bias of the outputs, if it has one number for each of them."""
        bias = getattr(self.owner, "bias", None)
        matrices, _, outputs = self.map.shape
        if bias is None or np.prod(bias.shape) != matrices * outputs:
            return None
        # Only the last of two kernels in a row makes the layer's outputs.
        makes = self.weight.variable.name != "depthwise_kernel"
        return bias if makes else None

    def outputs_of(self, bias: np.ndarray) -> np.ndarray:
        """A bias, or its mask, as outputs of shape `(matrices, 1, outputs)`."""
        matrices, _, outputs = self.map.shape
        return bias.reshape(matrices, 1, outputs)


def name_of(weight: PrunableWeight) -> str:
    """The name of a layer, and of the kernel where that does not say it."""
    if weight.name == "kernel":
        return weight.layer.name
    return f"{weight.layer.name}/{weight.name}"


class Stop(BaseException):
    """Ends a call once all is seen. No `Exception`: Keras changes those."""


@dataclasses.dataclass(eq=False)
class Seen:
    """What was seen of a model's sites when it was called.

    Args:
        sites: List of `Site`, in the order of their first calls.
        calls: Dict from the id of an owner to how often it is called.
        sources: Dict from the id of a BatchNormalization to the id of the
            layer whose linear outputs it reads as they are.
    """

    sites: list[Site]
    calls: dict[int, int]
    sources: dict[int, int]


def look(model: keras.Model, x: Any, lifted: bool) -> Seen:
    """Calls a model once, and says which sites it has.

    Args:
        model: A built `keras.Model`.
        x: Structure of arrays: samples.
        lifted: Boolean. Whether masks are lifted.

    Returns:
        `Seen`.
    """
    of_owner: dict[int, list[Site]] = {}
    owners: dict[int, keras.layers.Layer] = {}
    for weight in all_weights(model):
        if not weight.layer.trainable:
            continue
        for owner in [weight.layer, *sublayers(weight.layer)]:
            # An index reads one row: there is nothing to fit. What a recurrent
            # kernel reads changes with the kernel.
            if isinstance(owner, keras.layers.Embedding) or hasattr(
                owner, "state_size"
            ):
                continue
            for one in kernels.maps_of(owner):
                if one.variable is weight.variable:
                    owners[id(owner)] = owner
                    of_owner.setdefault(id(owner), []).append(
                        KernelSite(owner, weight, one)
                    )
    for layer in sublayers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            owners[id(layer)] = layer
            of_owner[id(layer)] = [Site(layer)]
    seen = Seen([], {}, {})
    made: list[tuple[Any, int]] = []

    def heard(layer, call, *args, **kwargs):
        key = id(layer)
        if key not in seen.calls:
            seen.sites += of_owner[key]
        seen.calls[key] = seen.calls.get(key, 0) + 1
        outputs = call(*args, **kwargs)
        if isinstance(layer, keras.layers.BatchNormalization):
            inputs = linear.arguments_of(layer, args, kwargs)["inputs"]
            for tensor, source in made:
                if tensor is inputs:
                    seen.sources[key] = source
        elif _is_linear(layer):
            made.append((outputs, key))
        return outputs

    # All activations are held at once: of as few samples as can be.
    few = keras.tree.map_structure(lambda leaf: leaf[:_LOOKED_AT], x)
    with _calls(model, list(owners.values()), heard, lifted):
        call_on(model, few)
    return seen


def _is_linear(layer) -> bool:
    """Whether a layer gives what its kernel and its bias compute."""
    activation = getattr(layer, "activation", None)
    return activation is None or activation is keras.activations.linear


@contextlib.contextmanager
def _calls(model, owners, heard, lifted) -> Iterator[None]:
    """Has a model called with `heard` in the place of its owners' calls."""
    values = []
    if lifted:
        values = [
            (mask, keras.ops.ones(mask.shape, "bool"))
            for layer in prunable_layers(model)
            for mask in layer.masks.values()
        ]
    with (
        watching(owners, heard),
        step_by_step(model),
        keras.StatelessScope(values),
    ):
        yield


@dataclasses.dataclass(frozen=True)
class Sample:
    """Which rows of which samples are looked at.

    Args:
        batches: List of `Batch`.
        rows: Integer. About how many rows in all.
    """

    batches: list[Batch]
    rows: int

    def run(
        self,
        model: keras.Model,
        seen: Seen,
        sites: list[Site],
        tell: Callable,
        lifted: bool = False,
    ) -> None:
        """Calls a model on all batches, and tells what its sites read.

        Args:
            model: `keras.Model`.
            seen: `Seen` of the model.
            sites: List of `Site`: those that are of interest. A call of the
                model ends when all of them had their last.
            tell: Callable `(site, place, read)`; `place` is a tuple that says
                which call on which batch it is, `read` a callable without
                arguments that returns what the site reads: rows as `LinearMap`
                has them, or the whole input of a BatchNormalization.
            lifted: Boolean. Whether masks are lifted.
        """
        of_owner: dict[int, list[Site]] = {}
        for site in sites:
            of_owner.setdefault(id(site.owner), []).append(site)
        samples = sum(map(len, self.batches))
        for index, batch in enumerate(self.batches):
            left = {key: seen.calls[key] for key in of_owner}

            def heard(layer, call, *args, index=index, left=left, **kwargs):
                key = id(layer)
                arguments = linear.arguments_of(layer, args, kwargs)
                place = index, left[key]
                for site in of_owner[key]:
                    share = len(self.batches[index]) / samples
                    wanted = self.rows * share / seen.calls[key]
                    tell(
                        site,
                        place,
                        lambda site=site, wanted=wanted, place=place: _read(
                            site, arguments, wanted, place
                        ),
                    )
                left[key] -= 1
                if not any(left.values()):
                    raise Stop
                return call(*args, **kwargs)

            owners = [site.owner for site in sites]
            unique = list({id(owner): owner for owner in owners}.values())
            with _calls(model, unique, heard, lifted):
                try:
                    call_on(model, batch.x)
                except Stop:
                    pass


def _read(site, arguments, wanted, place) -> np.ndarray:
    if not isinstance(site, KernelSite):
        return to_numpy(arguments["inputs"]).astype(np.float64)

    def chosen(count):
        # The same in the dense model and in the pruned one.
        size = min(count, int(np.ceil(wanted)))
        if size == count:
            return np.arange(count)
        generator = np.random.default_rng(place)
        return np.sort(generator.choice(count, size, replace=False))

    return site.map.read(arguments, chosen).astype(np.float64)
