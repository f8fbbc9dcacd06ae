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
from kprune.reconstruction.moments import Moments, Statistics
from kprune.reconstruction.results import LayerRepair, Reconstruction
from kprune.reconstruction.sites import (
    CHECKED_ROWS,
    ROWS,
    ROWS_PER_INPUT,
    KernelSite,
    Sample,
    Seen,
    Site,
    look,
    name_of,
)

# Of so many samples one is held out, to see whether a fit is one.
_HELD_OUT = 8
# How many numbers of inputs a model is called with at once: on a network of
# images its activations take some hundred times as much.
_NUMBERS = 1 << 21
# The widest second moment that is made at once, in inputs.
_BLOCK = 4096
_KEPT = "kept as it was"
# Fewer than these were seen to fit to chance.
_FEW = 64

# From a site and the second moments of its inputs to a boolean array of the
# kernel's shape: what stays.
Choose = Callable[[KernelSite, np.ndarray], np.ndarray | None]


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

    >>> generator = np.random.default_rng(0)
    >>> x = generator.normal(size=(512, 4))
    >>> x = x @ generator.normal(size=(4, 16))  # related inputs
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
    >>> model = kprune.prune(model, 0.8, granularity="unstructured")
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
            if kernels_too or not isinstance(site, KernelSite)
        ]
        self._targets(teacher, [of_dense for _, of_dense in pairs])
        bar = keras.utils.Progbar(
            len(pairs), verbose=self._verbose, unit_name="layer"
        )
        found = []
        for done, (site, of_dense) in enumerate(pairs):
            begun = time.perf_counter()
            if isinstance(site, KernelSite):
                before, after, note = self._fit(site, of_dense, seen)
            else:
                before, after, note = self._normalize(site, of_dense, seen)
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
        known = {
            id(site.weight.variable)
            for site in seen.sites
            if isinstance(site, KernelSite)
        }
        return [
            LayerRepair(
                name_of(weight),
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
        self._before: dict[int, Statistics] = {}
        groups: dict[int, list[Site]] = {}
        for site in sites:
            groups.setdefault(self._samples[id(site)][0].rows, []).append(site)
        for of_rows in groups.values():
            for part in (0, 1):

                def tell(site, place, read, part=part):
                    if not isinstance(site, KernelSite):
                        if part == 0:
                            self._before.setdefault(
                                id(site), Statistics(site.owner)
                            ).add(read())
                        return
                    kernel = site.map.matrices(site.weight.value())
                    outputs = read() @ kernel
                    if site.bias is not None:
                        outputs += site.outputs_of(weights.to_numpy(site.bias))
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
        fitted = matrices
        rows, left = 0, np.zeros((1, 1, 1))
        for start in starts:
            block = slice(start, start + _BLOCK)
            seen_with = fitted
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
                    fitted = matrices
            fitted = fitted.copy()
            for index, mask in enumerate(masks):
                old = fitted[index, block]
                fitted[index, block] = least_squares.fit(
                    gram[index],
                    cross[index] + gram[index] @ old,
                    old,
                    mask[block],
                )
            left = moments.left_by((fitted - seen_with)[:, block])
        if rows < site.map.shape[1]:
            note = (
                f"{rows:,} rows for {site.map.shape[1]:,} inputs; "
                "damping holds the rest"
            )
        return self._decide(
            site, of_dense, seen, matrices, fitted, left, masks, is_free, note
        )

    def _decide(
        self, site, of_dense, seen, matrices, fitted, left, masks, is_free, note
    ) -> tuple[float, float, str]:
        """Takes the fit where its error on held-out samples is lower.

        `left` is the mean of what the fit leaves to a bias.
        """
        old_bias = new_bias = np.zeros((1, 1, 1))
        if site.bias is not None:
            kept_bias = site.outputs_of(self._kept_bias(site))
            old_bias = site.outputs_of(weights.to_numpy(site.bias))
            old_bias = np.where(kept_bias, old_bias, 0.0)
            new_bias = np.where(kept_bias, left, 0.0)
        before, after = self._errors(
            site,
            of_dense,
            seen,
            [(matrices, old_bias), (fitted, new_bias)],
            masks.any(axis=1, keepdims=True),
            is_centred=is_free and site.bias is None,
        )
        kept = site.map.kernel(masks)
        if self._choose is not None and site.weight.mask is not None:
            site.weight.mask.assign(kept)
        if not after < before:
            return (
                before,
                before,
                "; ".join(["kept as it was", note][: 1 + bool(note)]),
            )
        self._set(site.weight.variable, site.map.kernel(fitted), kept)
        if site.bias is not None:
            shape = tuple(site.bias.shape)
            self._set(
                site.bias, new_bias.reshape(shape), kept_bias.reshape(shape)
            )
        self._fitted.add(id(site.owner))
        return before, after, note

    def _kept_bias(self, site) -> np.ndarray:
        mask = masks_of(self._model).get(id(site.bias))
        if mask is None:
            return np.ones(tuple(site.bias.shape), bool)
        return weights.to_numpy(mask)

    @staticmethod
    def _set(variable, value: np.ndarray, kept: np.ndarray) -> None:
        now = weights.to_numpy(variable)
        variable.assign(np.where(kept, value.astype(now.dtype), now))

    def _feeds_norm(self, site, seen) -> bool:
        """Whether a BatchNormalization takes away what a bias would add."""
        return id(site.owner) in seen.sources.values()

    def _moments(self, site, of_dense, seen, matrices, block) -> "Moments":
        moments = Moments(site.map.shape, block)

        def tell(site, place, read):
            rows = read()
            wanted = self._wanted[id(of_dense), 0, place]
            moments.add(rows, wanted - rows @ matrices)

        sample = self._samples[id(of_dense)][0]
        sample.run(self._model, seen, [site], tell)
        return moments

    def _errors(self, site, of_dense, seen, candidates, is_there, is_centred):
        """The squared errors of candidates, over the variance wanted.

        Of the outputs that are still there: the others nothing reads.
        """
        differences: list[list[np.ndarray]] = [[] for _ in candidates]
        targets = []

        def tell(site, place, read):
            rows = read()
            wanted = self._wanted[id(of_dense), 1, place].astype(float)
            targets.append(wanted * is_there)
            for found, (matrices, bias) in zip(differences, candidates):
                found.append((rows @ matrices + bias - wanted) * is_there)

        sample = self._samples[id(of_dense)][1]
        sample.run(self._model, seen, [site], tell)
        scale = np.concatenate(targets, axis=1)
        energy = np.square(scale - scale.mean(axis=1, keepdims=True)).sum()
        errors = []
        for found in differences:
            difference = np.concatenate(found, axis=1)
            if is_centred:
                difference -= difference.mean(axis=1, keepdims=True)
            errors.append(
                float(np.square(difference).sum() / max(energy, 1e-30))
            )
        return errors

    def _normalize(self, site, of_dense, seen) -> tuple:
        """Moves the statistics of a BatchNormalization."""
        now = Statistics(site.owner)

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
    if not isinstance(site, KernelSite):
        return 0
    return min(site.map.shape[1], _BLOCK)


def _take(batches: list[Batch], indices: np.ndarray) -> list[Batch]:
    """Some of the samples of all batches, in batches as large as memory has.

    Args:
        batches: List of `Batch`; their targets are left out.
        indices: Integer array: which of all samples.

    Returns:
        List of `Batch`.
    """
    found: list[list] = []
    start = numbers = 0
    for batch in batches:
        of_batch = indices[(indices >= start) & (indices < start + len(batch))]
        rows = of_batch - start
        start += len(batch)
        leaves = [leaf[rows] for leaf in keras.tree.flatten(batch.x)]
        if not len(rows):
            continue
        numbers += sum(leaf.size for leaf in leaves)
        is_alike = found and all(
            leaf.shape[1:] == other.shape[1:]
            for leaf, other in zip(leaves, found[-1][-1])
        )
        if not is_alike or numbers > _NUMBERS:
            found.append([])
            numbers = sum(leaf.size for leaf in leaves)
        found[-1].append(leaves)
    return [
        Batch(
            keras.tree.pack_sequence_as(
                batches[0].x, [np.concatenate(parts) for parts in zip(*group)]
            )
        )
        for group in found
    ]


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
    return type(site.owner).__name__, site.shape
