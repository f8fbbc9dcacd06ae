"""The walk through a pruned model that fits what stays, site by site."""

import dataclasses
import time
import warnings
from collections.abc import Callable

import keras
import numpy as np

from kprune import weights
from kprune.observing.samples import Batch
from kprune.prunable import all_weights, masks_of, prunable_layers
from kprune.reconstruction import least_squares
from kprune.reconstruction.moments import Moments, Statistics
from kprune.reconstruction.results import LayerRepair, Reconstruction
from kprune.reconstruction.sites import (
    KernelSite,
    Seen,
    Site,
    look,
    name_of,
)
from kprune.reconstruction.targets import BLOCK, CHECK, FIT, Targets

_KEPT = "kept as it was"
# As strong as that of the criteria that see second moments.
_DAMPING = 0.01
# Of more rows than this for each input little can be fitted to chance.
_MANY = 10
# Fewer than these were seen to fit to chance.
_FEW = 64

# From a site, the second moments of its inputs and the kernel that would serve
# best if nothing went, to a boolean array of the kernel's shape: what stays.
Choose = Callable[[KernelSite, np.ndarray, np.ndarray], np.ndarray | None]


class Repair:
    """Repairs a pruned model, site by site.

    Args:
        model: As `reconstruct` takes it.
        batches: List of `Batch`.
        dense: As `reconstruct` takes it.
        verbose: As `reconstruct` takes it.
        choose: Callable `(site, moments, kernel) -> kept` for kernels whose
            masks are chosen on the way: by the second moments of what is read
            there, and by the kernel that would serve best if nothing went.
            It returns a boolean array of the shape of the kernel, or `None`
            where the site's mask stays as it is.
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
        # By the id of a layer that was fitted, what its outputs lack in the
        # mean.
        self._lacking: dict[int, np.ndarray] = {}

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
        self._wanted = Targets(
            self._dense,
            teacher,
            [of_dense for _, of_dense in pairs],
            self._batches,
        )
        self._warn_of_few_rows(pairs)
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
                # A kernel of zeros says nothing: it was made of zeros.
                value = weight.value()
                lost |= bool(gone.any() and value.any()) and not (
                    value[gone].any()
                )
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

    def _warn_of_few_rows(self, pairs: list[tuple[Site, Site]]) -> None:
        if sum(map(len, self._batches)) < _FEW:
            return  # That was said.
        few = []
        for site, of_dense in pairs:
            if isinstance(site, KernelSite):
                inputs, rows = site.map.shape[1], self._wanted.rows(of_dense)
                if rows < inputs:
                    few.append(f"'{site.name}' {rows:,} for {inputs:,} inputs")
        if few:
            more = f" and {len(few) - 5} layers more" if len(few) > 5 else ""
            warnings.warn(
                "`data` has fewer rows than some layers have inputs: "
                f"{', '.join(few[:5])}{more}. What the rows do not say damping "
                "leaves as it was; more samples fit these layers better.",
                stacklevel=4,
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

    def _fit(self, site, of_dense, seen) -> tuple[float, float, str]:
        kernel = site.weight.value()
        kept = site.kept
        is_free = site.bias is not None or self._feeds_norm(site, seen)
        matrices = site.map.matrices(np.where(kept, kernel, 0)).astype(float)
        masks = site.map.matrices(kept)
        starts = range(0, site.map.shape[1], BLOCK)
        note = f"solved in {len(starts)} blocks" if len(starts) > 1 else ""
        fitted = matrices
        rows = 0
        solutions: list[tuple[np.ndarray, np.ndarray]] = []
        for start in starts:
            block = slice(start, start + BLOCK)
            seen_with = fitted
            moments = self._moments(site, of_dense, seen, fitted, block)
            rows = moments.count
            gram, cross = moments.of(is_free)
            if self._choose is not None and len(starts) == 1:
                # What the dense layer has there, not the old mask's zeros.
                dense = site.map.matrices(of_dense.weight.value())
                best = self._best(dense, gram, cross + gram @ fitted)
                kernel_kept = self._choose(site, gram, site.map.kernel(best))
                if kernel_kept is not None:
                    masks = site.map.matrices(kernel_kept)
                    matrices = np.where(masks, dense, 0).astype(float)
                    cross = cross + gram @ (fitted - matrices)
                    fitted = matrices
            solutions = []
            for damping in _dampings(rows, site.map.shape[1], len(starts)):
                found = fitted.copy()
                for index, mask in enumerate(masks):
                    old = fitted[index, block]
                    found[index, block] = least_squares.fit(
                        gram[index],
                        cross[index] + gram[index] @ old,
                        old,
                        mask[block],
                        damping=damping,
                    )
                left = moments.left_by((found - seen_with)[:, block])
                solutions.append((found, left))
            fitted = solutions[0][0]
        if rows < site.map.shape[1]:
            note = (
                f"{rows:,} rows for {site.map.shape[1]:,} inputs; "
                "damping holds the rest"
            )
        fit = _Fit(masks, matrices, solutions, is_free, note)
        return self._decide(site, of_dense, seen, fit)

    @staticmethod
    def _best(dense, gram, cross) -> np.ndarray:
        """The kernel that serves best if nothing goes, as matrices.

        What it reads is not what the dense layer reads, since layers before it
        are pruned; it makes up for that as far as it can.
        """
        everything = np.broadcast_to(True, dense.shape[1:])
        return np.stack(
            [
                least_squares.fit(*of_matrix, everything, damping=_DAMPING)
                for of_matrix in zip(gram, cross, dense)
            ]
        )

    def _decide(
        self, site, of_dense, seen, fit: "_Fit"
    ) -> tuple[float, float, str]:
        """Takes the fit with the least error on held-out samples, if any."""
        kept_bias = np.zeros((1, 1, 1), bool)
        old_bias = np.zeros((1, 1, 1))
        if site.bias is not None:
            kept_bias = site.outputs_of(self._kept_bias(site))
            old_bias = site.outputs_of(weights.to_numpy(site.bias))
        candidates = [
            (matrices, np.where(kept_bias, bias, 0.0))
            for matrices, bias in [(fit.before, old_bias), *fit.solutions]
        ]
        before, *errors = self._errors(
            site,
            of_dense,
            seen,
            candidates,
            fit.is_there,
            is_centred=fit.is_free and site.bias is None,
        )
        best = int(np.argmin(errors))
        after, (fitted, left) = errors[best], fit.solutions[best]
        kept = site.map.kernel(fit.masks)
        if self._choose is not None and site.weight.mask is not None:
            site.weight.mask.assign(kept)
        if not after < before:
            return before, before, "; ".join(filter(None, [_KEPT, fit.note]))
        self._set(site.weight.variable, site.map.kernel(fitted), kept)
        if site.bias is not None:
            shape = tuple(site.bias.shape)
            bias = np.where(kept_bias, left, 0.0)
            self._set(site.bias, bias.reshape(shape), kept_bias.reshape(shape))
        lacks = fit.is_there if site.bias is None else False
        lacking = np.where(lacks, left, 0.0)
        self._lacking[id(site.owner)] = lacking.ravel()
        return before, after, fit.note

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
            wanted = self._wanted.outputs(of_dense, FIT, place)
            moments.add(rows, wanted - rows @ matrices)

        sample = self._wanted.sample(of_dense, FIT)
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
            wanted = self._wanted.outputs(of_dense, CHECK, place)
            targets.append(wanted * is_there)
            for found, (matrices, bias) in zip(differences, candidates):
                found.append((rows @ matrices + bias - wanted) * is_there)

        sample = self._wanted.sample(of_dense, CHECK)
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

    def _normalize(self, site, of_dense, seen) -> tuple[float, float, str]:
        """Moves the statistics of a BatchNormalization."""
        owner = site.owner
        before = self._wanted.statistics(of_dense)
        mean = weights.to_numpy(owner.moving_mean)
        lacking = self._lacking.get(seen.sources.get(id(owner), 0))
        if lacking is not None:
            # What is fitted has the variance that was wanted, or less.
            owner.moving_mean.assign(mean - lacking)
            return before.shift(lacking), 0.0, "mean"
        now = Statistics(owner)

        def tell(site, place, read):
            now.add(read())

        sample = self._wanted.sample(of_dense, FIT)
        sample.run(self._model, seen, [site], tell)
        moved = now.mean - before.mean
        variance = weights.to_numpy(owner.moving_variance)
        # A channel that is gone keeps what it had.
        is_live = (now.variance > 0) & (before.variance > 0)
        scale = now.variance / np.where(is_live, before.variance, 1.0)
        owner.moving_mean.assign(np.where(is_live, mean + moved, mean))
        owner.moving_variance.assign(
            np.where(is_live, variance * scale, variance)
        )
        moved = np.where(is_live, moved, 0.0)
        return before.shift(moved), 0.0, "mean and variance"


@dataclasses.dataclass(frozen=True)
class _Fit:
    """What a kernel was fitted to be.

    Args:
        masks: Boolean array of shape `(matrices, inputs, outputs)`.
        before: Float array of that shape: the kernel as it was.
        solutions: List of tuples: a float array of that shape, the kernel as
            it was fitted, and one of shape `(matrices, 1, outputs)`, the mean
            of what that leaves to a bias.
        is_free: Boolean. Whether something takes up that mean.
        note: String.
    """

    masks: np.ndarray
    before: np.ndarray
    solutions: list[tuple[np.ndarray, np.ndarray]]
    is_free: bool
    note: str

    @property
    def is_there(self) -> np.ndarray:
        """Boolean array: the outputs that still read anything."""
        return np.any(self.masks, axis=1, keepdims=True)


def _dampings(rows: int, inputs: int, blocks: int) -> tuple[float, ...]:
    """The dampings to try: the held-out samples tell which of them is best."""
    if blocks > 1 or rows > _MANY * inputs:
        return (1e-3,)
    return 1e-3, 1e-2, 1e-1


def _check_alike(seen: Seen, teacher: Seen) -> None:
    mine = [_shape(site) for site in seen.sites]
    theirs = [_shape(site) for site in teacher.sites]
    if mine == theirs:
        return
    different = next(
        (
            f"'{site.name}' of shape {_shape(site)[1]} where the dense model "
            f"has '{other.name}' of shape {_shape(other)[1]}"
            for site, other in zip(seen.sites, teacher.sites)
            if _shape(site) != _shape(other)
        ),
        f"{len(mine)} layers where the dense model has {len(theirs)}",
    )
    raise ValueError(
        "`dense` must have the layers of `model`, of the same shapes and in "
        f"the same order. Received: {different}. Reconstruct before "
        "`kprune.strip` removes channels, and before `quantize` or "
        "`enable_lora`, after which a layer is no longer pruned."
    )


def _shape(site: Site) -> tuple:
    return type(site.owner).__name__, site.shape
