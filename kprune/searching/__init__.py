"""`search`: the smallest model whose score holds."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from kprune.allocations import Allocation
from kprune.budgets import Budget
from kprune.criteria import Criterion
from kprune.formats import COUNTED
from kprune.granularities import Granularity
from kprune.meeting import Unreachable, least, meet
from kprune.observing import samples
from kprune.received import check_model
from kprune.searching.checking import check, check_floor, none_holds, so_far
from kprune.searching.folder import Folder, digest, told
from kprune.searching.results import SearchResult, Trial
from kprune.searching.trying import Trier, prunable_copy
from kprune.updating import MaskUpdater
from kprune.weights import to_numpy

# Shares that make no difference.
_CLOSE = 1e-3


def search(
    model: keras.Model,
    score: Callable[[keras.Model], Any],
    *,
    at_least: float,
    minimize: str = "macs",
    fit: Callable[[keras.Model, list], Any] | None = None,
    data: Any = None,
    granularity: Granularity | str | None = None,
    criterion: Criterion | str = "magnitude",
    allocation: Allocation | Mapping[str, float] | str = "uniform",
    loss: Any = None,
    format: str = "tflite",
    quantize: str | None = None,
    trials: int = 8,
    path: str | os.PathLike | None = None,
    verbose: int = 0,
) -> SearchResult:
    """Looks for the smallest model whose score holds.

    Each trial prunes a copy of the model to a `kprune.Budget`, scores what
    `kprune.strip` makes of it, and halves the range of shares in which the
    smallest lies that holds. After eight trials that range is 1/256 of the
    one that can be reached. A score that is noisy can mislead it: return its
    standard error as well, and trials within one of the floor are marked. And
    of several trials the score of the one that is chosen by it is a little too
    good: test that model on other samples.

    Without `fit` nothing is trained: with `data` what stays is fitted to what
    the dense model computes on it (see `kprune.reconstruct`), without `data`
    masks are all.

    Args:
        model: A trained model, plain or with prunable layers. It is not
            changed; all weights of a plain one can go that
            `kprune.make_prunable` finds.
        score: Callable from a stripped model, which is not compiled, to a
            number, higher is better; or to a tuple of the number and its
            standard error.
        at_least: Float. The floor of the score.
        minimize: String: `"macs"`, `"parameters"`, `"bytes"`, `"gzip_bytes"`
            or `"latency"`, as in `kprune.Budget`. The last three write up to
            nine files a trial.
        fit: Callable from a model with prunable layers, which is not
            compiled, and a list of callbacks. It trains the model in any way,
            with these callbacks among its own. Each trial starts from the
            weights of `model`.
        data: Samples, as `kprune.prune` takes them.
        granularity: As `kprune.prune` takes it. Multiply-accumulates fall
            where whole filters go.
        criterion: As `kprune.prune` takes it.
        allocation: As `kprune.prune` takes it.
        loss: As `kprune.prune` takes it.
        format: As `kprune.Budget` takes it.
        quantize: As `kprune.Budget` takes it.
        trials: Integer. At most how many there are.
        path: A folder in which finished trials and the weights of the best
            model are kept. A search that was interrupted goes on there if it
            is called again with the same arguments; with more `trials` it
            goes further. That `score` and `fit` are the same is up to you.
        verbose: 0 is silent, 1 shows a progress bar.

    Returns:
        A `kprune.SearchResult`: `print` it, `plot` it, export its `model`.
        `kprune.prune` with its `budget` and the same arguments sets the same
        masks, unless latency was timed or the model trained.

    Raises:
        ValueError: If an argument is not valid, the dense model or no trial
            reaches the floor, nothing can be made smaller, a score is no
            number or raises, `fit` does not prune, or another search is kept
            at `path`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(16, activation="relu"),
    ...     keras.layers.Dense(4),
    ... ])
    >>> x = np.random.default_rng(0).normal(size=(64, 8))
    >>> y = model.predict(x, verbose=0)
    >>> def score(small):
    ...     return -float(np.mean((small.predict(x, verbose=0) - y) ** 2))
    >>> floor = -0.3 * float(np.var(y))
    >>> result = kprune.search(
    ...     model, score, at_least=floor, data=x, granularity="filter",
    ...     trials=3)
    >>> result.best.score >= floor, result.best.reached < 1
    (True, True)
    """
    check_model(model, "search")
    check(score, at_least, minimize, fit, trials)
    if data is not None:
        data = samples.read(data)
    members = {
        "criterion": criterion,
        "granularity": granularity,
        "allocation": allocation,
        "data": data,
        "loss": loss,
    }

    def budget_of(share: float) -> Budget:
        return Budget(
            **{minimize: share},
            format=format,
            quantize=quantize,
        )

    start = prunable_copy(model)
    planner, meter = MaskUpdater(**members).outlook(start)
    lowest = least(planner, budget_of(1.0), meter)[minimize]
    if lowest > 1 - _CLOSE:
        raise ValueError(
            f"No pruning makes the {minimize} of model '{model.name}' smaller. "
            "Parameters and multiply-accumulates fall where whole filters go: "
            "pass `granularity='filter'`, or minimize 'bytes'."
        )
    trier = Trier(start, score, at_least, fit, members)
    folder = None
    if path is not None:
        settings = {
            "minimize": minimize,
            "at_least": float(at_least),
            "trained": fit is not None,
            "format": format,
            "quantize": quantize,
            **{name: told(members[name]) for name in _MEMBERS},
            "data": data and digest(_arrays(data)),
            "model": digest(map(to_numpy, start.weights)),
        }
        folder = Folder(path, settings)
    rows = folder.read() if folder is not None else []
    if not rows:
        rows.append(trier.dense())
    check_floor(rows[0], at_least)
    best, found = _last_that_holds(rows), None
    if folder is not None and best is not None:
        found = prunable_copy(start)
        folder.load(best, found)

    bar = keras.utils.Progbar(
        trials,
        verbose=verbose,
        unit_name="trial",
        stateful_metrics=("share", "score"),
    )

    @functools.cache
    def planned(share: float) -> float | None:
        """What would stay, where that can be counted."""
        if minimize not in COUNTED:
            return None
        _, met = meet(planner, budget_of(share), meter)
        return met.reached[minimize]

    shares = _Shares(lowest, planned)
    for row in rows[1:]:
        shares.learn(row)
    while len(rows) <= trials and (share := shares.middle()) is not None:
        try:
            row, tried = trier.make(budget_of(share))
        except Unreachable:
            shares.low = share
            continue
        except Exception as error:
            error.add_note(so_far(budget_of(share), rows, path))
            raise
        rows.append(row)
        shares.learn(row)
        if row.holds:
            best, found = len(rows) - 1, tried
        if folder is not None:
            folder.keep(rows, best, found)
        bar.update(
            len(rows) - 1,
            values=[("share", row.reached), ("score", row.score)],
            finalize=len(rows) > trials,
        )
    if best is None or found is None:
        raise ValueError(none_holds(rows, at_least, minimize))
    return SearchResult(
        model=found,
        budget=budget_of(rows[best].asked),
        best=rows[best],
        dense=rows[0],
        trials=tuple(rows[1:]),
        minimize=minimize,
        at_least=float(at_least),
        most_trials=trials,
    )


_MEMBERS = ("criterion", "granularity", "allocation", "loss")


class _Shares:
    """The shares in which the smallest model lies that holds.

    Args:
        lowest: Float. The least that can be reached.
        planned: Callable from a share to what would stay, or to `None` where
            that is not known before a trial.
    """

    def __init__(self, lowest: float, planned: Callable[[float], float | None]):
        self.low, self._high = lowest, 1.0
        self._planned = planned
        # What the largest model leaves that does not hold.
        self._below: float | None = None

    def learn(self, row: Trial) -> None:
        """Narrows them by one trial."""
        if row.holds:
            # What lies between the two gives the same model.
            self._high = min(self._high, row.asked, row.reached)
        else:
            self.low = max(self.low, row.asked)
            self._below = self._planned(row.asked)

    def middle(self) -> float | None:
        """The next share to try: none whose model is known not to hold."""
        while self._high - self.low > _CLOSE:
            share = (self.low + self._high) / 2
            try:
                reached = self._planned(share)
            except Unreachable:
                # What was counted is less than what strip removes.
                self.low = share
                continue
            if reached is None or reached != self._below:
                return share
            self.low = share
        return None


def _last_that_holds(rows: list[Trial]) -> int | None:
    """Which trial is the smallest that holds: they get smaller."""
    return max(
        (n for n, row in enumerate(rows) if n and row.holds), default=None
    )


def _arrays(batches: list[samples.Batch]) -> Iterator[np.ndarray]:
    for batch in batches:
        for part in keras.tree.flatten((batch.x, batch.y, batch.sample_weight)):
            if part is not None:
                yield np.asarray(part)
