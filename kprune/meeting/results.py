"""How a budget was met, or that it cannot be."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


class Unreachable(ValueError):
    """No sparsity meets a budget."""


@dataclasses.dataclass(frozen=True)
class Met:
    """How a budget was met. `str(met)` is a table.

    Args:
        sparsity: Float: what the allocation shared out.
        dense: Dict from each key of the budget to what the dense model has.
        asked: Dict from each key to how much may stay.
        reached: Dict from each key to what stayed.
        files: Integer. How many files were written to find out.
        spread: `kprune.tflite.latency.Ratio` of the latency to the dense
            file's; `None` where nothing was timed.
    """

    sparsity: float
    dense: Mapping[str, float]
    asked: Mapping[str, float]
    reached: Mapping[str, float]
    files: int = 0
    spread: Any = None

    @property
    def binds(self) -> str:
        """String. The key that allowed no more to stay."""
        return max(self.asked, key=lambda k: self.reached[k] / self.asked[k])

    def to_dict(self) -> dict:
        """Returns it as a dict of plain Python values, as of JSON."""
        return {**dataclasses.asdict(self), "binds": self.binds}

    def __str__(self) -> str:
        table = Table(title=f"Budget met at a sparsity of {self.sparsity:.4g}")
        table.add_column("")
        for title in ("dense", "asked", "reached", "share"):
            table.add_column(title, justify="right")
        for key, asked in self.asked.items():
            dense, reached = self.dense[key], self.reached[key]
            digits = ".3f" if key == "latency" else ",.0f"
            table.add_row(
                key + (" (binds)" if key == self.binds else ""),
                *(f"{number:{digits}}" for number in (dense, asked, reached)),
                f"{reached / dense:.3f}",
            )
        if self.spread is not None:
            table.caption = f"latency of the dense file's: {self.spread}"
        text = io.StringIO()
        Console(file=text, width=100).print(table)
        return text.getvalue().rstrip()
