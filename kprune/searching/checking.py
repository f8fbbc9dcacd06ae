"""What no search is begun with, and what is said where one ends early."""

import math
import warnings

from kprune.budgets import Budget
from kprune.formats import COSTS
from kprune.received import is_real
from kprune.searching.results import Trial


def check(score, at_least, minimize, fit, trials) -> None:
    """Raises for arguments that nothing can be looked for with.

    Args:
        score: As `search` takes it.
        at_least: As `search` takes it.
        minimize: As `search` takes it.
        fit: As `search` takes it.
        trials: As `search` takes it.
    """
    for name, value in (("score", score), ("fit", fit)):
        if not callable(value) and (name, value) != ("fit", None):
            raise ValueError(
                f"`{name}` must be a callable. Received: {name}={value!r}"
            )
    if not is_real(at_least) or not math.isfinite(at_least):
        raise ValueError(
            "`at_least` must be a number, the floor of the score. "
            f"Received: at_least={at_least!r}"
        )
    if minimize not in COSTS:
        raise ValueError(
            f"`minimize` must be one of {list(COSTS)}. "
            f"Received: minimize={minimize!r}"
        )
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        raise ValueError(
            f"`trials` must be a positive integer. Received: trials={trials!r}"
        )


def check_floor(dense: Trial, at_least: float) -> None:
    """Raises where the dense model is below the floor; warns where near.

    Args:
        dense: The `Trial` of the dense model.
        at_least: Float.
    """
    if not dense.holds:
        raise ValueError(
            f"The dense model does not reach at_least={at_least:g}: its score "
            f"is {dense.score:.6g}. Ask for less than that, or train it "
            "longer. (Higher scores are better: return a loss with a minus.)"
        )
    if dense.is_within_noise and dense.standard_error:
        warnings.warn(
            f"The score of the dense model, {dense.score:.4g}, is within one "
            f"standard error ({dense.standard_error:.2g}) of the floor "
            f"{at_least:g}: what holds can hardly be told. Score on more "
            "samples, or lower the floor.",
            stacklevel=3,
        )


def so_far(budget: Budget, rows: list[Trial], path) -> str:
    """Where a search was when something ended it.

    Args:
        budget: The `Budget` that was tried.
        rows: List of `Trial`, first that of the dense model.
        path: As `search` takes it.

    Returns:
        String.
    """
    done = [f"a share of {t.asked:.4g} scored {t.score:.4g}" for t in rows[1:]]
    return (
        f"This was in trial {len(rows)} of `kprune.search`, {budget}. Finished "
        f"before: {'; '.join(done) or 'none'}. "
        + (
            "Pass `path=` to keep finished trials."
            if path is None
            else f"They are kept in '{path}': call it again to go on."
        )
    )


def none_holds(rows: list[Trial], at_least: float, minimize: str) -> str:
    """What to say where the search ends without a model.

    Args:
        rows: List of `Trial`, first that of the dense model.
        at_least: Float.
        minimize: String.

    Returns:
        String.
    """
    if len(rows) == 1:
        return (
            "No trial could be made: less is removed than the structure of "
            "the model lets expect. Wrap more layers."
        )
    best = max(rows[1:], key=lambda row: row.score)
    return (
        f"No trial reaches at_least={at_least:g}. The best of {len(rows) - 1} "
        f"has a score of {best.score:.6g} with a share of {best.reached:.4g} "
        f"of {minimize} (dense: {rows[0].score:.6g}). Ask for less, pass "
        "`data=` so that what stays is fitted, or `fit=` to train."
    )
