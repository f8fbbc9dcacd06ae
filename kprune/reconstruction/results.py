"""What was repaired, layer by layer."""

import dataclasses

from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class LayerRepair:
    """What was done to one layer.

    Args:
        name: String. The layer.
        before: Float. The squared error of the outputs that it still has, on
            held-out samples, over the variance of those of the dense model,
            before; `None` where it was not looked at. Of a BatchNormalization
            the squared shift of the means.
        after: Float. The same after.
        seconds: Float.
        note: String. What is special, or why it was left alone.
    """

    name: str
    before: float | None
    after: float | None
    seconds: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What `kprune.reconstruct` did. `str(result)` is a table.

    Args:
        layers: Tuple of `LayerRepair`, in the order of the calls.
        samples: Integer. How many samples were used.
        seconds: Float.

    Example:

    >>> repair = kprune.reconstruction.LayerRepair("dense", 0.5, 0.02, 0.1)
    >>> result = kprune.Reconstruction((repair,), samples=1024, seconds=0.1)
    >>> result.layers[0].after
    0.02
    """

    layers: tuple[LayerRepair, ...]
    samples: int
    seconds: float

    def __str__(self) -> str:
        console = Console(width=100)
        with console.capture() as captured:
            console.print(self._table())
        return (
            f"Reconstructed from {self.samples:,} samples in "
            f"{self.seconds:.1f} s. Errors of each layer's outputs, relative "
            f"to their variance:\n{captured.get().rstrip()}"
        )

    def _table(self) -> Table:
        table = Table()
        for column in ("layer", "before", "after", "seconds", ""):
            is_text = column in ("layer", "")
            table.add_column(column, justify="left" if is_text else "right")
        for layer in self.layers:
            table.add_row(
                layer.name,
                *(
                    "" if error is None else f"{error:.2g}"
                    for error in (layer.before, layer.after)
                ),
                f"{layer.seconds:.2f}",
                layer.note,
            )
        return table
