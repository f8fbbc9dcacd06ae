"""One trial of a search: a copy is pruned, stripped and scored."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from kprune.budgets import Budget
from kprune.callbacks import PruningScheduler
from kprune.conversion import make_prunable
from kprune.measuring.costs import cost
from kprune.meeting import Met
from kprune.prunable import prunable_layers
from kprune.pruning import set_masks
from kprune.searching.results import Trial
from kprune.stripping import strip
from kprune.structure.cloning import clone
from kprune.structure.graph import readable
from kprune.structure.rebuilding import Rebuilder


def prunable_copy(model: keras.Model) -> keras.Model:
    """A copy of a model, with prunable layers whose masks keep all.

    Args:
        model: A model, plain or with prunable layers.

    Returns:
        `keras.Model`, not compiled.
    """
    if not prunable_layers(model):
        return make_prunable(model)
    model = readable(model, "search")
    rebuilder = Rebuilder(clone)
    copy = rebuilder.rebuild(model)
    rebuilder.copy_weights()
    for layer in prunable_layers(copy):
        for mask in layer.masks.values():
            mask.assign(np.ones(mask.shape, bool))
    return copy


class Trier:
    """Makes the trials of a search.

    Args:
        start: The model that each begins with, with prunable layers.
        score: As `search` takes it.
        at_least: Float. The floor of the score.
        fit: As `search` takes it.
        members: Mapping from names to the other arguments of `kprune.prune`,
            `data` among them.
    """

    def __init__(
        self,
        start: keras.Model,
        score: Callable,
        at_least: float,
        fit: Callable | None,
        members: Mapping[str, Any],
    ):
        self._start = start
        self._score = score
        self._at_least = at_least
        self._fit = fit
        self._members = members

    def dense(self) -> Trial:
        """Scores the model as it is.

        Returns:
            `Trial`.
        """
        begun = time.perf_counter()
        return self._scored(self._start, 1.0, 1.0, None, begun)

    def make(self, budget: Budget) -> tuple[Trial, keras.Model]:
        """Prunes a copy to a budget, and scores it.

        Args:
            budget: `Budget` of one key.

        Returns:
            Tuple of the `Trial` and the model, with its masks.

        Raises:
            ValueError: If the score is no number, or `fit` did not prune.
            kprune.meeting.Unreachable: If the budget cannot be met.
        """
        begun = time.perf_counter()
        model = prunable_copy(self._start)
        met = self._pruned(model, budget)
        (key,) = budget.keys
        trial = self._scored(
            model,
            getattr(budget, key),
            met.reached[key] / met.dense[key],
            met.reached.get("bytes"),
            begun,
        )
        return trial, model

    def _pruned(self, model, budget) -> Met:
        if self._fit is None:
            met = set_masks(
                model,
                budget,
                reconstruct=self._members["data"] is not None,
                keep=None,
                pad_layer_norm=False,
                verbose=0,
                **self._members,
            ).met
        else:
            scheduler = PruningScheduler(budget, **self._members)
            self._fit(model, [scheduler])
            met = scheduler.met if scheduler.is_frozen else None
        if met is None:
            raise ValueError(
                "`fit(model, callbacks)` ended before the masks were final. "
                "It has to train the model that it is given, to the last "
                "epoch, with the callbacks that it is given: "
                "`model.fit(..., callbacks=[*callbacks, ...])`; to stop "
                "early there is `kprune.OnceFrozen`."
            )
        return met

    def _scored(self, model, asked, reached, size, begun) -> Trial:
        small = strip(model)
        counted = cost(small)
        value, error = self._value(small)
        return Trial(
            asked=float(asked),
            reached=float(reached),
            score=value,
            standard_error=error,
            parameters=counted.parameters,
            macs=counted.macs,
            bytes=size,
            seconds=time.perf_counter() - begun,
            holds=value >= self._at_least,
            is_within_noise=error is not None
            and abs(value - self._at_least) <= error,
        )

    def _value(self, model) -> tuple[float, float | None]:
        found = self._score(model)
        value, error = found if _is_pair(found) else (found, None)
        try:
            value = float(value)
            error = None if error is None else float(error)
        except (TypeError, ValueError):
            value = math.nan
        is_right = math.isfinite(value)
        if error is not None:
            is_right = is_right and math.isfinite(error) and error >= 0
        if not is_right:
            raise ValueError(
                "`score` must return a number, or a tuple of a number and its "
                f"standard error. Received: {found!r}"
            )
        return value, error


def _is_pair(found) -> bool:
    return isinstance(found, tuple) and len(found) == 2
