"""What a search found, trial by trial."""

import dataclasses
from typing import TYPE_CHECKING

import keras
from rich.console import Console
from rich.table import Table

from kprune import plots
from kprune.budgets import Budget

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


@dataclasses.dataclass(frozen=True)
class Trial:
    """One pruned model of a search, and its score.

    Args:
        asked: Float. The share of the dense model that was asked for.
        reached: Float. The share that stayed.
        score: Float. What the score gave for the stripped model.
        standard_error: Float, `None` where the score tells none.
        parameters: Integer. Those of the stripped model.
        macs: Integer. Its multiply-accumulates, `None` if unknown.
        bytes: Integer. The size of the file, where it was looked for.
        seconds: Float. Pruning, training and scoring.
        holds: Boolean. Whether the score reaches the floor.
        is_within_noise: Boolean. Whether the score is within one standard
            error of the floor.
    """

    asked: float
    reached: float
    score: float
    standard_error: float | None
    parameters: int
    macs: int | None
    bytes: int | None
    seconds: float
    holds: bool
    is_within_noise: bool


@dataclasses.dataclass(frozen=True, eq=False)
class SearchResult:
    """What `kprune.search` found. `str(result)` is a table.

    Args:
        model: The smallest model whose score holds, with prunable layers and
            masks: `kprune.strip` and `kprune.export` take it.
        budget: The `kprune.Budget` that it was pruned to.
        best: `Trial`. Its row.
        dense: `Trial`. The row of the dense model.
        trials: Tuple of `Trial`, in the order in which they were made.
        minimize: String. What was made small.
        at_least: Float. The floor of the score.
        most_trials: Integer. How many trials were allowed.

    Example:

    ```python
    result = kprune.search(model, score, at_least=0.97, data=samples)
    print(result)
    kprune.export(result.model, "small.tflite")
    ```
    """

    model: keras.Model
    budget: Budget
    best: Trial
    dense: Trial
    trials: tuple[Trial, ...]
    minimize: str
    at_least: float
    most_trials: int

    def plot(
        self, *, figure: "Figure | SubFigure | None" = None
    ) -> "Figure | SubFigure":
        """Draws the score over the cost, as `kprune.plots.search` does.

        Args:
            figure: As `kprune.plots.search` takes it.

        Returns:
            `matplotlib.figure.Figure`.
        """
        return plots.search(self, figure=figure)

    def to_dict(self) -> dict:
        """Returns all but the model as a dict of plain values, as of JSON."""
        return {
            "minimize": self.minimize,
            "at_least": self.at_least,
            "budget": {key: getattr(self.budget, key) for key in _of_budget},
            "best": dataclasses.asdict(self.best),
            "dense": dataclasses.asdict(self.dense),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
            "most_trials": self.most_trials,
        }

    def __str__(self) -> str:
        best = self.best
        table = Table(
            title=f"The least {self.minimize} at a score of {self.at_least:g}"
        )
        for title in _COLUMNS:
            table.add_column(title, justify="right")
        table.add_column("")
        table.add_row(*_cells(self.dense), "dense")
        for trial in self.trials:
            note = "best" if trial is best else ""
            if not trial.holds:
                note = "below the floor"
            if trial.is_within_noise:
                note = ", ".join(filter(None, [note, "within noise"]))
            table.add_row(*_cells(trial), note)
        console = Console(width=110)
        with console.capture() as captured:
            console.print(table)
        lines = [
            captured.get().rstrip(),
            f"{self.budget}: a share of {best.reached:.3f} of {self.minimize} "
            f"stays, with a score of {best.score:.4g} (dense "
            f"{self.dense.score:.4g}); {len(self.trials)} of at most "
            f"{self.most_trials} trials.",
        ]
        if best.is_within_noise:
            lines.append(
                "That is within one standard error of the floor, so it may "
                "lie below: score it on more samples, or ask for more."
            )
        return "\n".join(lines)


_COLUMNS = ("asked", "reached", "score", "parameters", "MACs", "bytes", "s")
_of_budget = [
    field.name for field in dataclasses.fields(Budget) if field.name != "way"
]


def _cells(trial: Trial) -> list[str]:
    score = f"{trial.score:.4g}"
    if trial.standard_error is not None:
        score += f" ± {trial.standard_error:.2g}"
    return [
        f"{trial.asked:.4f}",
        f"{trial.reached:.4f}",
        score,
        *(
            "" if count is None else f"{count:,}"
            for count in (trial.parameters, trial.macs, trial.bytes)
        ),
        f"{trial.seconds:.1f}",
    ]
