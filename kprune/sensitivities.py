"""`sensitivity`: what a model loses when one layer alone is pruned."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from kprune.allocations.by_sensitivity import name_of
from kprune.criteria import Criterion
from kprune.granularities import Granularity
from kprune.measured_cells import MeasuredCells, settings_of
from kprune.received import check_model, describe, is_real
from kprune.restoring import restored
from kprune.sensitivity_results import Sensitivity
from kprune.updating import MaskUpdater


def sensitivity(
    model: keras.Model,
    score: Callable[[keras.Model], float],
    *,
    data: Any = None,
    sparsities: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
    granularity: Granularity | str | None = None,
    criterion: Criterion | str = "magnitude",
    loss: Any = None,
    reconstruct: bool = False,
    pad_layer_norm: bool = False,
    path: str | os.PathLike | None = None,
    verbose: int = 0,
) -> Sensitivity:
    """Measures how much the score of a model depends on each of its layers.

    Each layer is pruned alone, to several sparsities, and the model is scored
    at each; where whole filters go, layers that lose theirs together are one.
    Weights and masks are then what they were, also where something fails.
    What was masked before counts as if it were not, unless it is gone for
    good.

    The score is asked for once for the dense model and once for each layer
    and sparsity: take as many samples as tell the layers apart, and none that
    the final model is tested on.

    Args:
        model: A model with prunable layers. Those with `trainable=False` are
            left alone.
        score: Callable from the model to a number, higher is better, such as
            the accuracy on some validation data. It must not keep the model.
        data: As `kprune.prune` takes it, for criteria that see data and for
            `reconstruct`.
        sparsities: Sequence of floats in `(0, 1)`.
        granularity: As `kprune.prune` takes it.
        criterion: As `kprune.prune` takes it.
        loss: As `kprune.prune` takes it.
        reconstruct: Boolean. Whether what stays is fitted to what the dense
            model computes on `data` before each score.
        pad_layer_norm: As `kprune.prune` takes it.
        path: A JSON file that keeps each score once it is known. Where it is
            there its scores are taken, and only the others measured: an
            interrupted call goes on. It cannot tell one `score` from another.
        verbose: 0 is silent, 1 shows a progress bar.

    Returns:
        `kprune.Sensitivity`: the scores, as a table, a plot and
        an allocation.

    Raises:
        ValueError: If an argument is not valid, the model has no prunable
            layers or is not built, the score is not a finite number, or the
            file belongs to something else.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     kprune.PrunableDense(16, name="hidden"),
    ...     kprune.PrunableDense(4, name="logits"),
    ... ])
    >>> def score(model):
    ...     return 1.0 - kprune.sparsity(model)
    >>> found = kprune.sensitivity(model, score, sparsities=[0.25, 0.75])
    >>> found.scores["logits"]
    {0.25: 0.916..., 0.75: 0.75}
    >>> model = kprune.prune(model, 0.5, allocation=found.allocation())

    Reference:

    - [Li et al., 2017](https://arxiv.org/abs/1608.08710)
    """
    check_model(model, "measure the sensitivity of")
    if not callable(score):
        raise ValueError(
            "`score` must be a callable from the model to a number, higher is "
            "better, such as `lambda model: model.evaluate(x, y)[1]`. "
            f"Received: score={describe(score)}"
        )
    sparsities = _checked(sparsities)
    if reconstruct and data is None:
        raise ValueError(
            "`reconstruct=True` fits what stays to what the dense model "
            "computes on some samples. Pass them as `data=`; some hundred are "
            "enough, without labels."
        )
    updater = MaskUpdater(
        criterion,
        granularity,
        data=data,
        loss=loss,
        pad_layer_norm=pad_layer_norm,
    )
    with restored(model):
        planner = updater.planner(model)
        plan = planner.at(0.0)
        plan.assign()
        layers = _parts(plan)
        cells = MeasuredCells(
            path,
            settings_of(
                model,
                plan.wishes,
                criterion=criterion,
                loss=loss,
                reconstruct=reconstruct,
                pad_layer_norm=pad_layer_norm,
                batches=updater.batches,
            ),
        )
        asked = [("", 0.0), *((n, s) for n in layers for s in sparsities)]
        bar = keras.utils.Progbar(
            len(asked), verbose=verbose, unit_name="score"
        )
        for done, (name, sparsity) in enumerate(asked, 1):
            if (name, sparsity) not in cells:
                with restored(model):
                    if name:
                        alone = updater.with_allocation(_Alone(name))
                        if reconstruct:
                            alone.update_and_repair(model, sparsity)
                        else:
                            alone.update(model, sparsity)
                    found = _number(score(model), name, sparsity)
                cells.keep(name, sparsity, found)
            bar.update(done)
    return Sensitivity(
        model.name,
        cells["", 0.0],
        {n: {s: cells[n, s] for s in sparsities} for n in layers},
        tuple(name for name, in_filters in layers.items() if in_filters),
    )


@dataclasses.dataclass(frozen=True)
class _Alone:
    """An allocation that prunes one layer, or class of groups, alone.

    Args:
        name: String: as `name_of` makes it of its layers.
    """

    name: str

    def __call__(self, layers: Sequence, sparsity: float) -> list[float]:
        makers = [[layer] for layer in layers]
        return self.over_groups((), sparsity, makers=makers)

    def over_groups(
        self, scores: Sequence, sparsity: float, *, makers: Sequence
    ) -> list[float]:
        return [sparsity if name_of(of) == self.name else 0.0 for of in makers]


def _parts(plan) -> dict[str, bool]:
    """What can be pruned alone, and whether that is whole filters."""
    found = {}
    classes = [
        [producer.layer for producer in of_class.producers]
        for of_class in plan.planner.classes
    ]
    for wish, is_whole in zip(plan.wishes, plan.in_groups):
        if not is_whole:
            found[name_of([wish.layer])] = False
        for makers in classes:
            if makers[0] is wish.layer:
                found[name_of(makers)] = True
    return found


def _checked(sparsities) -> list[float]:
    is_list = isinstance(sparsities, Iterable) and not isinstance(
        sparsities, (str, Mapping)
    )
    found = list(sparsities) if is_list else []
    if not found or not all(is_real(s) and 0 < s < 1 for s in found):
        raise ValueError(
            "`sparsities` must be a list of at least one number in (0, 1), "
            "such as [0.25, 0.5, 0.75]; at 0 the model is scored anyway. "
            f"Received: sparsities={sparsities!r}"
        )
    return sorted({float(s) for s in found})


def _number(found, name, sparsity) -> float:
    """What a score returned, if it is a finite number."""
    if is_real(found) and math.isfinite(found):
        return float(found) + 0.0  # no -0.0
    where = f"with '{name}' at a sparsity of {sparsity:g}" if name else "dense"
    raise ValueError(
        "`score` must return one finite number, such as a Python float. "
        f"Received: {found!r} (of type {type(found).__name__}) for the model "
        f"{where}"
    )
