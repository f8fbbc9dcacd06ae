"""`reconstruct`: what stays is fitted to what the dense model computed."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kprune import weights
from kprune.observing import samples
from kprune.observing.samples import Batch
from kprune.prunable import all_weights, masks_of, prunable_layers
from kprune.received import check_model
from kprune.reconstruction import least_squares
from kprune.reconstruction.results import LayerRepair, Reconstruction
from kprune.reconstruction.sites import (
    CHECKED_ROWS,
    ROWS,
    ROWS_PER_INPUT,
    Sample,
    Seen,
    Site,
    look,
)

# Of so many samples one is held out, to see whether a fit is one.
_HELD_OUT = 8
# The widest second moment that is made at once, in inputs.
_BLOCK = 4096
# Fewer than these were seen to fit to chance.
_FEW = 64

# From a site and the second moments of its inputs to a boolean array of the
# kernel's shape: what stays.
Choose = Callable[[Site, np.ndarray], np.ndarray]


def reconstruct(
    model: keras.Model,
    data: Any,
    *,
    dense: keras.Model | None = None,
    verbose: int = 0,
) -> Reconstruction:
    """Fits the weights that stay to what the dense model computed, in place.

    Layer by layer, in the order of the calls: the inputs are those that the
    pruned model so far gives, the targets what the dense model computed there,
    and the weights that stay, with the bias, are their damped least squares.
    So each layer mends what the layers before it lost. The statistics of
    BatchNormalization follow. It takes seconds, unlabelled samples and no
    training; it is a better start for one, too.

    The masked weights are zeroed for good, as at the freeze of a schedule.

    Args:
        model: A model with masks, before the masked weights were zeroed; or
            any pruned model of the shapes of `dense`, whose zeros stay zeros.
        data: Samples, as `fit` takes them; targets are not looked at. 1,024
            were seen to suffice, 256 nearly; see
            `kprune.observing.samples.read`.
        dense: The dense model, with the same layers in the same order. `None`
            takes the stored weights of `model` itself, masks lifted.
        verbose: 0 is silent, 1 shows a progress bar.

    Returns:
        `kprune.reconstruction.Reconstruction`: what was done to each layer. A
        layer whose error on samples that were held out would not fall keeps
        its weights.

    Raises:
        ValueError: If the model has nothing pruned, the dense one has other
            layers, or the data does not fit.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(512, 16)).astype("float32")
    >>> x = x @ np.ones((16, 16), "float32") / 16 + x  # related inputs
    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(4)])
    >>> model = kprune.prune(model, 0.5)
    >>> (layer,) = kprune.reconstruct(model, x).layers
    >>> layer.after < layer.before
    True

    Reference:

    - [He et al., 2017](https://arxiv.org/abs/1707.06168)
    - [Frantar & Alistarh, 2022](https://arxiv.org/abs/2208.11580)
    """
    check_model(model, "reconstruct")
    return Repair(model, samples.read(data), dense, verbose).run()


def recalibrate(
    model: keras.Model,
    data: Any,
    *,
    dense: keras.Model | None = None,
    verbose: int = 0,
) -> Reconstruction:
    """Sets the statistics of BatchNormalization to those of a pruned model.

    What goes changes the mean and the variance of all that comes after. Each
    BatchNormalization, in the order of the calls, gets the mean and variance
    that it had, moved by as much as those of its inputs have moved from the
    dense model to the pruned one. `kprune.reconstruct` does more.

    Args:
        model: As `kprune.reconstruct` takes it.
        data: As `kprune.reconstruct` takes it.
        dense: As `kprune.reconstruct` takes it.
        verbose: 0 is silent, 1 shows a progress bar.

    Returns:
        `kprune.reconstruction.Reconstruction`.

    Raises:
        ValueError: As `kprune.reconstruct` does.

    Example:

    >>> model = kprune.make_prunable(keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3),
    ...     keras.layers.BatchNormalization(), keras.layers.Flatten()]))
    >>> model = kprune.prune(model, 0.8)
    >>> result = kprune.recalibrate(model, np.ones((64, 8, 8, 3)))
    >>> [layer.name for layer in result.layers]
    ['batch_normalization']

    Reference:

    - [Frantar & Alistarh, 2022](https://arxiv.org/abs/2208.11580)
    """
    check_model(model, "recalibrate")
    return Repair(model, samples.read(data), dense, verbose).run(
        kernels_too=False
    )


class Repair:
    """Repairs a pruned model, site by site.

    Args:
        model: As `reconstruct` takes it.
        batches: List of `Batch`.
        dense: As `reconstruct` takes it.
        verbose: As `reconstruct` takes it.
        choose: Callable `(site, moments) -> kept` for kernels whose masks are
            chosen on the way, of the shape of the kernel; `None` where the
            site's mask stays as it is.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: list[Batch],
        dense: keras.Model | None = None,
        verbose: int = 0,
        choose: Choose | None = None,
    ):
        self._model = model
        self._dense = model if dense is None else dense
        self._batches = batches
        self._verbose = verbose
        self._choose = choose
        self._fitted: set[int] = set()

    def run(self, kernels_too: bool = True) -> Reconstruction:
        """Repairs the model.

        Args:
            kernels_too: Boolean. Whether kernels are fitted, too.
        """
        self._check()
        started = time.perf_counter()
        first = self._batches[0].x
        seen = look(self._model, first, lifted=False)
        teacher = look(self._dense, first, lifted=True)
        _check_alike(seen, teacher)
        pairs = [
            (site, of_dense)
            for site, of_dense in zip(seen.sites, teacher.sites)
            if kernels_too or site.map is None
        ]
        self._targets(teacher, [of_dense for _, of_dense in pairs])
        bar = keras.utils.Progbar(
            len(pairs), verbose=self._verbose, unit_name="layer"
        )
        found = []
        for done, (site, of_dense) in enumerate(pairs):
            begun = time.perf_counter()
            fit = self._normalize if site.map is None else self._fit
            before, after, note = fit(site, of_dense, seen)
            found.append(
                LayerRepair(
                    site.name, before, after, time.perf_counter() - begun, note
                )
            )
            bar.update(done + 1, finalize=done + 1 == len(pairs))
        if kernels_too:
            for layer in prunable_layers(self._model):
                layer.apply_masks()
        found += self._left_alone(seen) if kernels_too else []
        return Reconstruction(
            tuple(found),
            sum(map(len, self._batches)),
            time.perf_counter() - started,
        )

    def _check(self) -> None:
        count = sum(map(len, self._batches))
        if count < _FEW:
            warnings.warn(
                f"{count} samples are few: layers may be fitted to chance. "
                "Some hundred are better; labels are not needed.",
                stacklevel=4,
            )
        if self._dense is not self._model or self._choose is not None:
            return
        masked = lost = False
        for weight in all_weights(self._model):
            if weight.mask is not None:
                gone = ~weights.to_numpy(weight.mask)
                masked |= bool(gone.any())
                lost |= bool(gone.any()) and not weight.value()[gone].any()
        if lost or not masked:
            what = (
                "what was masked is zero in it already"
                if masked
                else "nothing is masked in it"
            )
            raise ValueError(
                f"There is no dense model to fit '{self._model.name}' to: "
                f"{what}. Pass `dense=`, the model before it was pruned, or "
                "prune it with `kprune.prune(..., reconstruct=True)`."
            )

    def _left_alone(self, seen: Seen) -> list[LayerRepair]:
        """The pruned kernels that are no linear map of what is known."""
        known = {id(s.weight.variable) for s in seen.sites if s.weight}
        return [
            LayerRepair(
                str(weight.layer.name)
                if weight.name == "kernel"
                else f"{weight.layer.name}/{weight.name}",
                None,
                None,
                0.0,
                "left alone: an index reads one row"
                if weight.name == "embeddings"
                else "left alone: recurrent, unused or of an unknown kind",
            )
            for weight in all_weights(self._model)
            if id(weight.variable) not in known
            and (weight.mask is None or not weights.to_numpy(weight.mask).all())
        ]

    def _targets(self, teacher: Seen, sites: list[Site]) -> None:
        """Stores what the dense model computes at all sites."""
        every = np.arange(sum(map(len, self._batches)))
        checked = every % _HELD_OUT == _HELD_OUT - 1
        if len(every) < 2 * _HELD_OUT:
            parts = every, every
        else:
            parts = every[~checked], every[checked]
        split = [_take(self._batches, part) for part in parts]
        self._samples = {
            id(site): (
                Sample(split[0], max(ROWS, ROWS_PER_INPUT * _inputs(site))),
                Sample(split[1], CHECKED_ROWS),
            )
            for site in sites
        }
        # Of kernels (rows of outputs), of normalizations (sums).
        self._wanted: dict[tuple, np.ndarray] = {}
        self._before: dict[int, _Statistics] = {}
        groups: dict[int, list[Site]] = {}
        for site in sites:
            groups.setdefault(self._samples[id(site)][0].rows, []).append(site)
        for of_rows in groups.values():
            for part in (0, 1):

                def tell(site, place, read, part=part):
                    if site.map is None:
                        if part == 0:
                            self._before.setdefault(
                                id(site), _Statistics(site.owner)
                            ).add(read())
                        return
                    kernel = site.map.matrices(site.weight.value())
                    outputs = read() @ kernel
                    if site.bias is not None:
                        outputs += _of_bias(site, weights.to_numpy(site.bias))
                    key = id(site), part, place
                    self._wanted[key] = outputs.astype(np.float32)

                sample = self._samples[id(of_rows[0])][part]
                sample.run(self._dense, teacher, of_rows, tell, lifted=True)

    def _fit(self, site, of_dense, seen) -> tuple[float, float, str]:
        kernel = site.weight.value()
        kept = site.kept
        is_free = site.bias is not None or self._feeds_norm(site, seen)
        matrices = site.map.matrices(np.where(kept, kernel, 0)).astype(float)
        masks = site.map.matrices(kept)
        starts = range(0, site.map.shape[1], _BLOCK)
        note = f"solved in {len(starts)} blocks" if len(starts) > 1 else ""
        fitted = matrices.copy()
        rows = 0
        for start in starts:
            block = slice(start, start + _BLOCK)
            moments = self._moments(site, of_dense, seen, fitted, block)
            rows = moments.count
            gram, cross = moments.of(is_free)
            if self._choose is not None and len(starts) == 1:
                kernel_kept = self._choose(site, gram)
                if kernel_kept is not None:
                    # What the dense layer has there, not the old mask's zeros.
                    masks = site.map.matrices(kernel_kept)
                    dense = site.map.matrices(of_dense.weight.value())
                    matrices = np.where(masks, dense, 0).astype(float)
                    cross = cross + gram @ (fitted - matrices)
                    fitted = matrices.copy()
            for index, mask in enumerate(masks):
                old = fitted[index, block]
                fitted[index, block] = least_squares.fit(
                    gram[index],
                    cross[index] + gram[index] @ old,
                    old,
                    mask[block],
                )
        if rows < site.map.shape[1]:
            note = (
                f"{rows:,} rows for {site.map.shape[1]:,} inputs; "
                "damping holds the rest"
            )
        return self._decide(
            site, of_dense, seen, matrices, fitted, masks, is_free, note
        )

    def _decide(
        self, site, of_dense, seen, matrices, fitted, masks, is_free, note
    ):
        """Takes the fit where its error on held-out samples is lower."""
        bias = None if site.bias is None else weights.to_numpy(site.bias)
        kept_bias = None
        old_bias = new_bias = 0.0
        if bias is not None:
            mask = masks_of(self._model).get(id(site.bias))
            mask = (
                np.ones(bias.shape, bool)
                if mask is None
                else (weights.to_numpy(mask))
            )
            kept_bias = _of_bias(site, mask)
            old_bias = _of_bias(site, np.where(mask, bias, 0)).astype(float)
            moments = self._moments(site, of_dense, seen, fitted, slice(0, 0))
            new_bias = np.where(kept_bias, moments.residual_mean, 0.0)
        centred = is_free and bias is None
        errors = self._errors(
            site,
            of_dense,
            seen,
            [(matrices, old_bias), (fitted, new_bias)],
            centred,
        )
        before, after = errors
        if self._choose is not None and site.weight.mask is not None:
            kept = site.map.kernel(masks)
            site.weight.mask.assign(kept)
        if not after < before:
            return before, before, "kept as it was" + (note and f"; {note}")
        value = site.weight.value()
        kept = site.map.kernel(masks)
        new = site.map.kernel(fitted).astype(value.dtype)
        site.weight.variable.assign(np.where(kept, new, value))
        if bias is not None:
            shape = tuple(site.bias.shape)
            new_bias = new_bias.reshape(shape).astype(bias.dtype)
            mask = kept_bias.reshape(shape)
            site.bias.assign(np.where(mask, new_bias, bias))
        self._fitted.add(id(site.owner))
        return before, after, note

    def _feeds_norm(self, site, seen) -> bool:
        """Whether a BatchNormalization takes away what a bias would add."""
        return id(site.owner) in seen.sources.values()

    def _moments(self, site, of_dense, seen, matrices, block) -> "_Moments":
        moments = _Moments(site.map.shape, block)

        def tell(site, place, read):
            rows = read()
            wanted = self._wanted[id(of_dense), 0, place]
            moments.add(rows, wanted - rows @ matrices)

        sample = self._samples[id(of_dense)][0]
        sample.run(self._model, seen, [site], tell)
        return moments

    def _errors(self, site, of_dense, seen, candidates, centred):
        """The squared errors of candidates, over the variance wanted."""
        differences = [[] for _ in candidates]
        targets = []

        def tell(site, place, read):
            rows = read()
            wanted = self._wanted[id(of_dense), 1, place].astype(float)
            targets.append(wanted)
            for found, (matrices, bias) in zip(differences, candidates):
                found.append(rows @ matrices + bias - wanted)

        sample = self._samples[id(of_dense)][1]
        sample.run(self._model, seen, [site], tell)
        scale = np.concatenate(targets, axis=1)
        energy = np.square(scale - scale.mean(axis=1, keepdims=True)).sum()
        errors = []
        for found in differences:
            difference = np.concatenate(found, axis=1)
            if centred:
                difference -= difference.mean(axis=1, keepdims=True)
            errors.append(
                float(np.square(difference).sum() / max(energy, 1e-30))
            )
        return errors

    def _normalize(self, site, of_dense, seen) -> tuple:
        """Moves the statistics of a BatchNormalization."""
        now = _Statistics(site.owner)

        def tell(site, place, read):
            now.add(read())

        sample = self._samples[id(of_dense)][0]
        sample.run(self._model, seen, [site], tell)
        before = self._before[id(of_dense)]
        owner = site.owner
        mean = weights.to_numpy(owner.moving_mean)
        variance = weights.to_numpy(owner.moving_variance)
        is_live = now.variance > 0
        moved = mean + (now.mean - before.mean)
        error = np.square(now.mean - before.mean)
        owner.moving_mean.assign(np.where(is_live, moved, mean))
        note = "mean"
        if seen.sources.get(id(owner)) not in self._fitted:
            # What is fitted has the variance that was wanted, or less.
            scale = now.variance / np.where(
                before.variance > 0, before.variance, 1
            )
            owner.moving_variance.assign(
                np.where(
                    is_live & (before.variance > 0), variance * scale, variance
                )
            )
            note = "mean and variance"
        shift = float(error.sum() / max(before.variance.sum(), 1e-30))
        return shift, 0.0, note


def _inputs(site: Site) -> int:
    return 0 if site.map is None else min(site.map.shape[1], _BLOCK)


def _of_bias(site: Site, bias: np.ndarray) -> np.ndarray:
    """A bias as it is added to outputs of shape (matrices, rows, outputs)."""
    matrices, _, outputs = site.map.shape
    return bias.reshape(matrices, 1, outputs)


def _take(batches: list[Batch], indices: np.ndarray) -> list[Batch]:
    """Some of the samples of all batches, without their targets."""
    found, start = [], 0
    for batch in batches:
        of_batch = indices[(indices >= start) & (indices < start + len(batch))]
        if len(of_batch):
            rows = of_batch - start
            found.append(
                Batch(
                    keras.tree.map_structure(
                        lambda leaf, rows=rows: leaf[rows], batch.x
                    )
                )
            )
        start += len(batch)
    return found


def _check_alike(seen: Seen, teacher: Seen) -> None:
    mine = [_shape(site) for site in seen.sites]
    theirs = [_shape(site) for site in teacher.sites]
    if mine == theirs:
        return
    different = next(
        (
            f"'{site.name}' of shape {_shape(site)[1]} where the dense model "
            f"has {_shape(other)[1]}"
            for site, other in zip(seen.sites, teacher.sites)
            if _shape(site) != _shape(other)
        ),
        f"{len(mine)} layers where the dense model has {len(theirs)}",
    )
    raise ValueError(
        "`dense` must have the layers of `model`, of the same shapes and in "
        f"the same order. Received: {different}. Reconstruct before "
        "`kprune.strip` removes channels."
    )


def _shape(site: Site) -> tuple:
    if site.weight is None:
        return type(site.owner).__name__, tuple(site.owner.moving_mean.shape)
    return type(site.owner).__name__, site.weight.shape


class _Moments:
    """Second moments of inputs, and of inputs with what is still missing.

    Args:
        shape: Tuple of three integers: matrices, inputs, outputs.
        block: Slice of the inputs.
    """

    def __init__(self, shape, block):
        matrices, inputs, outputs = shape
        size = len(range(inputs)[block])
        self._block = block
        self.count = 0
        self._x = np.zeros((matrices, 1, size))
        self._y = np.zeros((matrices, 1, outputs))
        self._xx = np.zeros((matrices, size, size))
        self._xy = np.zeros((matrices, size, outputs))

    def add(self, rows: np.ndarray, residual: np.ndarray) -> None:
        rows = rows[..., self._block]
        self.count += rows.shape[1]
        self._x += rows.sum(axis=1, keepdims=True)
        self._y += residual.sum(axis=1, keepdims=True)
        turned = rows.swapaxes(1, 2)
        self._xx += turned @ rows
        self._xy += turned @ residual

    @property
    def residual_mean(self) -> np.ndarray:
        return self._y / self.count

    def of(self, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """The moments, about the means where a bias takes these up."""
        gram, cross = self._xx / self.count, self._xy / self.count
        if centred:
            mean = self._x.swapaxes(1, 2) / self.count
            gram = gram - mean @ mean.swapaxes(1, 2)
            cross = cross - mean @ self.residual_mean
        return gram, cross


class _Statistics:
    """Mean and variance of each channel that a BatchNormalization reads."""

    def __init__(self, owner: keras.layers.BatchNormalization):
        self._axis = owner.axis
        self._count = 0
        self._sums: Any = 0.0
        self._squares: Any = 0.0

    def add(self, x: np.ndarray) -> None:
        x = np.moveaxis(x, self._axis, -1)
        x = x.reshape(-1, x.shape[-1])
        self._count += len(x)
        self._sums = self._sums + x.sum(axis=0)
        self._squares = self._squares + np.square(x).sum(axis=0)

    @property
    def mean(self) -> np.ndarray:
        return self._sums / self._count

    @property
    def variance(self) -> np.ndarray:
        found = self._squares / self._count - np.square(self.mean)
        return np.maximum(found, 0.0)
