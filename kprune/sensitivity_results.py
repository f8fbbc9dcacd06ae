"""What `sensitivity` found: scores by layer and sparsity."""

import dataclasses
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from kprune.allocations import BySensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What `kprune.sensitivity` found. `str(sensitivity)` is a table.

    Args:
        model: String. The name of the model.
        dense: Float. The score where nothing is masked.
        scores: Dict from the name of each layer, or from the names of layers
            that lose their filters together, joined by "and", to a dict from
            sparsity to score.
        filters: Tuple of strings: which of them lost whole filters, with all
            that is coupled to these.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)), kprune.PrunableDense(4, name="logits")])
    >>> def score(model):
    ...     return 1.0 - kprune.sparsity(model)
    >>> found = kprune.sensitivity(model, score, sparsities=[0.5])
    >>> found.dense, found.scores
    (1.0, {'logits': {0.5: 0.5}})
    """

    model: str
    dense: float
    scores: Mapping[str, Mapping[float, float]]
    filters: tuple[str, ...] = ()

    @property
    def sparsities(self) -> list[float]:
        """List of floats. The sparsities that were tried, ascending."""
        return sorted({s for row in self.scores.values() for s in row})

    def allocation(self) -> BySensitivity:
        """Returns the allocation that levels what the score loses.

        It takes any sparsity, and serves wherever an allocation is asked for;
        see `kprune.allocations.BySensitivity`.
        """
        return BySensitivity(self)

    def plot(
        self, *, figure: "Figure | SubFigure | None" = None
    ) -> "Figure | SubFigure":
        """Draws it, as `kprune.plots.sensitivity` does.

        Args:
            figure: Where to draw; `None` makes a new one.
        """
        from kprune import plots

        return plots.sensitivity(self, figure=figure)

    def to_dict(self) -> dict:
        """Returns it as a dict of plain Python values, as of JSON."""
        return {
            "model": self.model,
            "dense": self.dense,
            "sparsities": self.sparsities,
            "layers": [
                {
                    "name": name,
                    "filters": name in self.filters,
                    "scores": [row[s] for s in self.sparsities],
                }
                for name, row in self.scores.items()
            ],
        }

    def __str__(self) -> str:
        table = Table(
            title=f"Score of '{self.model}' where one layer alone is pruned "
            f"(dense: {self.dense:.4g})"
        )
        table.add_column("layer", overflow="fold")
        table.add_column("of its")
        for sparsity in self.sparsities:
            table.add_column(f"{sparsity:.4g}", justify="right", no_wrap=True)
        for name, row in self.scores.items():
            table.add_row(
                name,
                "filters" if name in self.filters else "weights",
                *(f"{row[sparsity]:.4g}" for sparsity in self.sparsities),
            )
        text = io.StringIO()
        Console(file=text, width=100).print(table)
        return text.getvalue().rstrip()
