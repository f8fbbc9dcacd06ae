"""What a report of a pruned model says, as numbers and as a table."""

import dataclasses
import io

from rich.console import Console
from rich.table import Table

from kprune.measuring.comparison import Comparison

# What an accuracy may fall by without any advice.
_POINT = 0.01


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What a report says of one layer.

    Args:
        name: String. The layer's own name.
        kind: String. Its class.
        shapes: Tuple of the shapes of its kernels.
        weights: Integer. The number of weights in its kernels.
        zeros: Integer. How many of them are zero, masked ones included.
        filters: Integer. The channels that it makes: filters of a
            convolution, units of a Dense or of a recurrent layer; of an
            attention layer heads, their widths, and its outputs. 0 if it has
            no kernels.
        filters_removed: Integer. How many of them `kprune.strip` removes.
        parameters: Integer. All its weights, biases and statistics included.
        macs: Integer. Multiply-accumulates for one sample; `None` if unknown.
        reason: String. Why the layer or some of its filters were left alone;
            empty if nothing was.
    """

    name: str
    kind: str
    shapes: tuple
    weights: int
    zeros: int
    filters: int
    filters_removed: int
    parameters: int
    macs: int | None
    reason: str

    @property
    def sparsity(self) -> float:
        """Float. The fraction of zeros over the layer's kernels."""
        return float(self.zeros / self.weights) if self.weights else 0.0


@dataclasses.dataclass(frozen=True)
class PruningReport:
    """What was pruned in a model, layer by layer. `str(report)` is a table.

    Args:
        model: String. The model's name.
        layers: Tuple of `LayerReport`, those of nested models included.
        weights: Integer. The weights in all kernels, shared ones once.
        zeros: Integer. The zeros among them, masked weights included.
        prunable_weights: Integer. Those of them that have masks.
        prunable_zeros: Integer. The zeros among those.
        parameters: Integer. All weights of the model, masks not included.
        macs: Integer. Multiply-accumulates for one sample; `None` if unknown.
        comparison: `kprune.measuring.comparison.Comparison` with the dense
            model; `None` if none was given.
        reachable: Dict from `"parameters"` and `"macs"` to the share of the
            dense model that is left when all filters go that can, `None` for a
            model without prunable layers: what a `kprune.Budget` can ask for.

    Example:

    ```python
    report = kprune.report(model)
    print(report)
    print(report.sparsity, report.filters_removed)
    ```
    """

    model: str
    layers: tuple[LayerReport, ...]
    weights: int
    zeros: int
    prunable_weights: int
    prunable_zeros: int
    parameters: int
    macs: int | None
    comparison: Comparison | None = None
    reachable: dict[str, float] | None = None

    @property
    def sparsity(self) -> float:
        """Float. The fraction of zeros over all kernels: `kprune.sparsity`."""
        return float(self.zeros / self.weights) if self.weights else 0.0

    @property
    def prunable_sparsity(self) -> float:
        """Float. The fraction of zeros over the kernels that have masks."""
        if not self.prunable_weights:
            return 0.0
        return float(self.prunable_zeros / self.prunable_weights)

    @property
    def filters(self) -> int:
        """Integer. The channels that all layers make."""
        return sum(layer.filters for layer in self.layers)

    @property
    def filters_removed(self) -> int:
        """Integer. The output channels that `kprune.strip` removes."""
        return sum(layer.filters_removed for layer in self.layers)

    def _advice(self) -> str:
        """What to do where the accuracy fell; empty where it did not."""
        accuracy = None if self.comparison is None else self.comparison.accuracy
        if accuracy is None or None in (accuracy.dense, accuracy.pruned):
            return ""
        lost = float(accuracy.dense or 0) - float(accuracy.pruned or 0)
        if lost <= _POINT:
            return ""
        points = 100 * lost
        return (
            f"The accuracy fell by {points:.1f} points. Fit what stays to the "
            "dense model, from some hundred samples without labels: "
            "`kprune.prune(model, ..., data=samples, reconstruct=True)`; or "
            "train on under the masks: `model.fit(..., "
            "callbacks=[kprune.PruningScheduler(...)])`; or ask for less, "
            "such as `kprune.Budget(macs=0.7)`.\n"
        )

    def to_dict(self) -> dict:
        """Returns the report as a dict of plain Python values, as of JSON."""
        comparison = self.comparison
        return {
            "model": self.model,
            "parameters": self.parameters,
            "macs": self.macs,
            "weights": self.weights,
            "zeros": self.zeros,
            "sparsity": self.sparsity,
            "prunable_sparsity": self.prunable_sparsity,
            "filters": self.filters,
            "filters_removed": self.filters_removed,
            "reachable": self.reachable,
            "layers": [
                {**dataclasses.asdict(layer), "sparsity": layer.sparsity}
                for layer in self.layers
            ],
            "comparison": comparison and comparison.to_dict(),
        }

    def __str__(self) -> str:
        table = Table(title=f"Pruning of '{self.model}'")
        table.add_column("layer", overflow="fold")
        table.add_column("kernel", overflow="fold")
        for title in ("weights", "zeros", "sparsity", "filters removed"):
            table.add_column(title, justify="right")
        table.add_column("left alone", overflow="fold")
        for layer in self.layers:
            if layer.weights:
                table.add_row(
                    f"{layer.name} ({layer.kind})",
                    ", ".join(map(str, layer.shapes)),
                    f"{layer.weights:,}",
                    f"{layer.zeros:,}",
                    f"{layer.sparsity:.1%}",
                    f"{layer.filters_removed} of {layer.filters}",
                    layer.reason,
                )
        table.add_section()
        table.add_row(
            "all",
            "",
            f"{self.weights:,}",
            f"{self.zeros:,}",
            f"{self.sparsity:.1%}",
            f"{self.filters_removed} of {self.filters}",
            "",
        )
        macs = "unknown" if self.macs is None else f"{self.macs:,}"
        lines = [f"Parameters: {self.parameters:,}. MACs: {macs}."]
        if 0 < self.prunable_weights < self.weights:
            lines.append(
                f"Of the {self.prunable_weights:,} weights with masks "
                f"{self.prunable_sparsity:.1%} are zeros."
            )
        if self.reachable:
            shares = (f"{k} {v:.3g}" for k, v in self.reachable.items())
            lines.append(
                "Whole filters can bring it down to these shares of the dense "
                f"model: {', '.join(shares)}."
            )
        without = [layer.name for layer in self.layers if not layer.weights]
        if without:
            lines.append(f"Left alone, no kernels: {', '.join(without)}.")
        # A terminal's width does not count where a string is asked for.
        text = io.StringIO()
        console = Console(file=text, width=110)
        console.print(table, *lines, sep="\n")
        if self.comparison is not None:
            console.print(self.comparison.table())
            console.print(self._advice(), end="")
        return text.getvalue().rstrip()
