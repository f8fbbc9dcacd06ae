"""What a model would cost under masks that are only planned."""

import contextlib
import functools
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.budgets import Budget
from kprune.exporting import export
from kprune.formats import MEASURED
from kprune.measuring.costs import cost
from kprune.measuring.group_counts import GroupCounts
from kprune.planning import Plan, ReadGraph
from kprune.prunable import prunable_layers
from kprune.stripping import strip
from kprune.structure.removal import Removal
from kprune.tflite import latency
from kprune.weights import to_numpy


class ModelMeter:
    """Measures plans of the masks of a model.

    Args:
        model: A model with prunable layers.
        read: Its `ReadGraph`, `None` where whole groups go nowhere.
        batches: List of `kprune.observing.samples.Batch` that an int8 file is
            calibrated with; `None` where there is no data.
    """

    def __init__(
        self, model: keras.Model, read: ReadGraph | None, batches: Any = None
    ):
        self.model = model
        self._batches = batches
        self.read = read
        self._counts = None
        if read is not None:
            self._counts = GroupCounts(read.model, read.channels)
        # The dense file is written once: what it is, and itself.
        self._of_file: dict[str, float] = {}
        self._dense_file = b""

    @property
    def counts_macs(self) -> bool:
        """Boolean. Whether `of` tells multiply-accumulates exactly."""
        return self._counts is None or self._counts.are_exact

    def dense(self, budget: Budget) -> dict[str, float]:
        """What the model has of each key of a budget, masks lifted.

        Args:
            budget: The `Budget`.

        Returns:
            Dict from each key to a float.

        Raises:
            ValueError: If the multiply-accumulates are asked for and unknown.
        """
        found = self.counted(None)
        if budget.macs is not None and found["macs"] is None:
            raise ValueError(
                f"The multiply-accumulates of model '{self.model.name}' are "
                "not known: is the size of its input open, or does it compute "
                "what cannot be traced? Give it an input of one size, or ask "
                "for another key."
            )
        if self.writes(budget) and not self._of_file:
            with (
                tempfile.TemporaryDirectory() as folder,
                self._masks(self._lift),
            ):
                path = pathlib.Path(folder) / f"dense.{budget.format}"
                self._of_file = self._written(budget, path)
                if budget.latency is not None:
                    self._dense_file = path.read_bytes()
                    timed = latency.measure(path, path, rounds=20)
                    self._of_file["latency"] = 1e3 * timed.seconds
        return {**found, **self._of_file}

    def of(self, plan: Plan) -> dict[str, Any]:
        """Counts what a plan leaves of parameters and multiply-accumulates.

        Args:
            plan: The `Plan`.

        Returns:
            Dict of what can be counted exactly.
        """
        found = self.counted(plan)
        if not self.counts_macs:
            del found["macs"]
        return found

    def counted(self, plan: Plan | None) -> dict[str, Any]:
        """As `of`, with multiply-accumulates that may not be exact.

        Args:
            plan: The `Plan`, `None` for the dense model.
        """
        if self._counts is None or plan is None or plan.keep is None:
            return dict(self._whole)
        return self._counts.of(plan.keep)

    @functools.cached_property
    def _whole(self) -> dict[str, Any]:
        if self._counts is not None:
            return self._counts.dense
        found = cost(self.model)
        return {"parameters": found.parameters, "macs": found.macs}

    def is_right_about(self, plan: Plan) -> bool:
        """Whether `kprune.strip` removes all that a plan says.

        Where filters are masked and something that has no masks reads them
        they stay.

        Args:
            plan: The `Plan`.
        """
        if self.read is None:
            return True
        with self._masks(plan.assign):
            left = Removal(self.read.model).parameters()
        return left == self.of(plan)["parameters"]

    @staticmethod
    def writes(budget: Budget) -> bool:
        """Whether a file has to be written to know all keys of a budget."""
        return any(key in MEASURED for key in budget.keys)

    def measure(self, plan: Plan, budget: Budget) -> dict[str, Any]:
        """Strips the model under a plan, and writes it where that is needed.

        Args:
            plan: The `Plan`. The masks are what they were in the end.
            budget: The `Budget`.

        Returns:
            Dict from each key of the budget, and the others that are counted,
            to a number; `"spread"` to the `kprune.tflite.latency.Ratio` of
            the latency to the dense file's.
        """
        with (
            tempfile.TemporaryDirectory() as folder,
            self._masks(plan.assign),
        ):
            counted = cost(strip(self.model))
            found: dict[str, Any] = {
                "parameters": counted.parameters,
                "macs": counted.macs,
            }
            if self.writes(budget):
                path = pathlib.Path(folder) / f"pruned.{budget.format}"
                found.update(self._written(budget, path))
                if budget.latency is not None:
                    dense_path = pathlib.Path(folder) / "dense.tflite"
                    dense_path.write_bytes(self._dense_file)
                    timed = latency.measure(path, dense_path)
                    found["spread"] = timed.ratio
                    dense = self._of_file["latency"]
                    found["latency"] = timed.ratio.median * dense
        return found

    def _written(self, budget, path) -> dict[str, float]:
        batches = self._batches if budget.quantize == "int8" else None
        result = export(
            self.model,
            path,
            format=budget.format,
            quantize=budget.quantize,
            representative_data=batches
            and (lambda: (batch.x for batch in batches)),
        )
        return {"bytes": result.bytes, "gzip_bytes": result.gzip_bytes}

    @contextlib.contextmanager
    def _masks(self, assign) -> Iterator[None]:
        """Has other masks for a while."""
        masks = [
            mask
            for layer in prunable_layers(self.model)
            for mask in layer.masks.values()
        ]
        values = [to_numpy(mask).copy() for mask in masks]
        try:
            assign()
            yield
        finally:
            for mask, value in zip(masks, values):
                mask.assign(value)

    def _lift(self) -> None:
        for layer in prunable_layers(self.model):
            for mask in layer.masks.values():
                mask.assign(np.ones(mask.shape, bool))
