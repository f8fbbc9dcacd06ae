"""`Budget`: how much of a model may stay, where a sparsity can be asked for."""

import dataclasses
import math
from collections.abc import Mapping

from kprune.formats import COSTS
from kprune.received import is_real


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much of a model may stay: the largest that fits is looked for.

    It stands wherever a sparsity can: `kprune.prune(model, Budget(macs=0.5))`,
    `kprune.PruningScheduler(Budget(bytes=200_000))`, or as the final sparsity
    of a schedule. The sparsity is found for which what `kprune.strip` makes,
    or `kprune.export` writes, fits; so every criterion, granularity and
    allocation works with it. Of several keys all hold.

    A number up to 1 is the share of the dense model that may stay, a larger
    one is absolute. Parameters and multiply-accumulates fall where whole
    filters go, bytes where single weights do as well.

    Parameters and multiply-accumulates are counted, which takes no time, and
    met as nearly as the filters allow. For the other keys each trial writes a
    file, at most eight of them, and it ends within 1 % of what may stay; in a
    `PruningScheduler` that is so at each update.

    Args:
        parameters: Number. All weights, as `kprune.cost` counts them.
        macs: Number. Multiply-accumulates for one sample.
        bytes: Number. The size of the file.
        gzip_bytes: Number. The same after gzip, as a download carries it.
        latency: Number. The time of one run of a `.tflite` in the LiteRT
            interpreter on this machine, in milliseconds where it is above 1;
            timed in turns with the dense file.
        format: String. That of the file, as `kprune.export` takes it.
        quantize: String or `None`. As `kprune.export` takes it; `"int8"`
            needs `data=`.
        way: Float in `(0, 1]`. How much of the way from the dense model to
            the budget is asked for. Schedules set it.

    Raises:
        ValueError: If there is no key, or one is unknown or not positive.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 1)),
    ...     kprune.PrunableConv2D(16, 3),
    ...     keras.layers.Flatten(),
    ...     kprune.PrunableDense(10),
    ... ])
    >>> budget = kprune.Budget(macs=0.3)
    >>> model = kprune.prune(model, budget, granularity="filter")
    >>> kprune.cost(kprune.strip(model)).macs / kprune.cost(model).macs
    0.25
    """

    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    gzip_bytes: float | None = None
    latency: float | None = None
    format: str = "tflite"
    quantize: str | None = None
    way: float = 1.0

    def __new__(cls, *positional, **given):
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in given if name not in known]
        if positional or unknown:
            raise ValueError(
                f"A budget is made of {list(COSTS)}, by name, as "
                "`Budget(macs=0.5)`. Received: "
                + ", ".join([*map(repr, positional), *unknown])
            )
        return super().__new__(cls)

    def __post_init__(self):
        if not self.keys:
            raise ValueError(
                f"A budget needs at least one of {list(COSTS)}, such as "
                "`Budget(macs=0.5)`."
            )
        for name in self.keys:
            value = getattr(self, name)
            if not is_real(value) or not 0 < value < math.inf:
                raise ValueError(
                    f"`{name}` of a budget must be a positive number: up to 1 "
                    "the share of the dense model that may stay, above it "
                    f"absolute. Received: {name}={value!r}"
                )
        if self.latency is not None and self.format != "tflite":
            raise ValueError(
                "`latency` is that of `.tflite` files. "
                f"Received: format={self.format!r}"
            )
        if not is_real(self.way) or not 0 < self.way <= 1:
            raise ValueError(
                f"`way` must be in (0, 1]. Received: way={self.way!r}"
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """Tuple of strings: what is asked for."""
        return tuple(name for name in COSTS if getattr(self, name) is not None)

    def at(self, way: float) -> "Budget | float":
        """What is asked for when a share of the way to this is gone.

        Args:
            way: Float in `[0, 1]`.

        Returns:
            A `Budget`, or the sparsity 0.0 at the start.
        """
        return dataclasses.replace(self, way=way) if way > 0 else 0.0

    def limits(self, dense: Mapping[str, float]) -> dict[str, float]:
        """How much of each key may stay.

        Args:
            dense: Mapping from each key to what the dense model has.

        Returns:
            Dict from each key to a float, at most what the dense model has.
        """
        found = {}
        for name in self.keys:
            value, whole = float(getattr(self, name)), dense[name]
            limit = min(value * whole if value <= 1 else value, whole)
            found[name] = whole + self.way * (limit - whole)
        return found

    def __str__(self) -> str:
        asked = [f"{name}={getattr(self, name):g}" for name in self.keys]
        if self.way < 1:
            asked.append(f"way={self.way:.3g}")
        return f"Budget({', '.join(asked)})"
