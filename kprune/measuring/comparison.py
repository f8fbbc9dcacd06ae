"""Dense against pruned, side by side: what `kprune.report` is given."""

import dataclasses
import os
import pathlib

import keras
from rich.table import Table

from kprune.files import sizes
from kprune.measuring import costs
from kprune.measuring.accuracy import accuracies
from kprune.prunable import prunable_layers, unwrapped, weights_of
from kprune.structure.graph import readable_or_none
from kprune.structure.removal import Removal, remove_unused
from kprune.tflite import latency


@dataclasses.dataclass(frozen=True)
class Pair:
    """A quantity of both models.

    Args:
        dense: Number; `None` if unknown.
        pruned: Number; `None` if unknown.
    """

    dense: int | float | None
    pruned: int | float | None

    @property
    def ratio(self) -> float | None:
        """Float. Pruned over dense, `None` if unknown."""
        if self.pruned is None or not self.dense:
            return None
        return self.pruned / self.dense

    def to_dict(self) -> dict:
        """Returns the pair as a dict of plain Python values."""
        return {**dataclasses.asdict(self), "ratio": self.ratio}


@dataclasses.dataclass(frozen=True)
class FileComparison:
    """A file of the dense model and one of the pruned one.

    Args:
        bytes: `Pair`.
        gzip_bytes: `Pair`.
        latency: `kprune.tflite.latency.Latency` of the pruned file against
            the dense one; `None` if it was not measured.
    """

    bytes: Pair
    gzip_bytes: Pair
    latency: latency.Latency | None

    def to_dict(self) -> dict:
        """Returns the comparison as a dict of plain Python values."""
        timed = self.latency
        return {
            "bytes": self.bytes.to_dict(),
            "gzip_bytes": self.gzip_bytes.to_dict(),
            "latency": None if timed is None else dataclasses.asdict(timed),
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A dense model against a pruned one.

    The pruned model's filters, parameters and multiply-accumulates are those
    that `kprune.strip` leaves; its sparsity counts what is masked.

    Args:
        accuracy: `Pair` of fractions, `None` if no data was given.
        sparsity: `Pair` of fractions of zeros over all kernels.
        filters: `Pair` of output channels over all layers with kernels.
        parameters: `Pair`.
        macs: `Pair`.
        files: Dict from a name to a `FileComparison`.
    """

    accuracy: Pair | None
    sparsity: Pair
    filters: Pair
    parameters: Pair
    macs: Pair
    files: dict[str, FileComparison]

    def to_dict(self) -> dict:
        """Returns the comparison as a dict of plain Python values."""
        accuracy = self.accuracy
        return {
            "accuracy": None if accuracy is None else accuracy.to_dict(),
            "sparsity": self.sparsity.to_dict(),
            "filters": self.filters.to_dict(),
            "parameters": self.parameters.to_dict(),
            "macs": self.macs.to_dict(),
            "files": {name: f.to_dict() for name, f in self.files.items()},
        }

    def table(self) -> Table:
        """The comparison as a `rich.table.Table`."""
        table = Table(title="Dense against pruned")
        for heading in ("", "dense", "pruned", "pruned / dense"):
            table.add_column(heading, justify="right" if heading else "left")
        for label, pair in (
            ("Accuracy", self.accuracy),
            ("Sparsity", self.sparsity),
        ):
            if pair and pair.dense is not None and pair.pruned is not None:
                points = 100 * (pair.pruned - pair.dense)
                table.add_row(
                    label,
                    f"{pair.dense:.2%}",
                    f"{pair.pruned:.2%}",
                    f"{points:+.2f} points",
                )
        table.add_section()
        for label, pair in (
            ("Filters", self.filters),
            ("Parameters", self.parameters),
            ("MACs", self.macs),
        ):
            table.add_row(label, *_cells(pair))
        for name, file in self.files.items():
            table.add_section()
            table.add_row(f"{name}, bytes", *_cells(file.bytes))
            table.add_row(f"{name}, bytes gzipped", *_cells(file.gzip_bytes))
            if file.latency is not None:
                for row in _latency_rows(name, file.latency):
                    table.add_row(*row)
        return table


@dataclasses.dataclass(frozen=True)
class Pruned:
    """The pruned model of a comparison, and what is known of it already.

    Args:
        model: The pruned model.
        graph: It as a Sequential or Functional model, `None` if it has no
            graph that can be read.
        removal: The `Removal` of the graph, or `None`.
        sparsity: Float. Its fraction of zeros.
        filters: Integer. The channels that its layers make.
    """

    model: keras.Model
    graph: keras.Model | None
    removal: Removal | None
    sparsity: float
    filters: int


def compare(
    pruned: Pruned, dense: keras.Model, data, files, timed
) -> Comparison:
    """Compares a pruned model and its files with a dense one.

    Args:
        pruned: `Pruned`.
        dense: The dense model.
        data: Tuple `(x, y)`, an iterable of such batches, or `None`.
        files: Dict from a name to two paths, dense and pruned.
        timed: Boolean. Whether to time `.tflite` files.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If `data` does not fit the models, or a file is missing
            or cannot be read.
    """
    if not isinstance(files, dict):
        raise ValueError(
            "`files` is a dict from a name to two paths, such as "
            '`{"tflite": ("dense.tflite", "pruned.tflite")}`. '
            f"Received: files={files!r}"
        )
    compared = {
        name: _compare_files(name, paths, timed)
        for name, paths in files.items()
    }
    if timed and all(file.latency is None for file in compared.values()):
        raise ValueError(
            "`latency` times pairs of `.tflite` files, and there is none in "
            f"`files`: export both models. Received: files={files!r}"
        )
    plain = pruned.model, pruned.graph
    if prunable_layers(pruned.model) and pruned.graph is not None:
        plain = (remove_unused(pruned.graph, pruned.removal),) * 2
    dense_graph = readable_or_none(dense)
    of_dense = costs.of_graph(dense, dense_graph)
    of_plain = costs.of_graph(*plain)
    accuracy = None
    if data is not None:
        accuracy = Pair(*accuracies((dense, pruned.model), data))
    return Comparison(
        accuracy,
        Pair(of_dense.sparsity, pruned.sparsity),
        Pair(_filters(dense, dense_graph), pruned.filters),
        Pair(of_dense.parameters, of_plain.parameters),
        Pair(of_dense.macs, of_plain.macs),
        compared,
    )


def _compare_files(name, paths, timed) -> FileComparison:
    is_pair = isinstance(paths, (tuple, list)) and len(paths) == 2
    if not is_pair or not all(isinstance(p, (str, os.PathLike)) for p in paths):
        raise ValueError(
            "`files` is a dict from a name to two paths, that of the dense "
            "model and that of the pruned one. "
            f"Received: files={{{name!r}: {paths!r}}}"
        )
    dense, pruned = (pathlib.Path(os.fspath(path)) for path in paths)
    raw, gzipped = zip(sizes(dense), sizes(pruned))
    is_tflite = dense.suffix == pruned.suffix == ".tflite"
    measured = latency.measure(pruned, dense) if timed and is_tflite else None
    return FileComparison(Pair(*raw), Pair(*gzipped), measured)


def filters_of(kernels, layer, removal) -> tuple[int, int]:
    """How many channels a layer makes, and how many of them go.

    Args:
        kernels: List of the `PrunableWeight`s of the layer.
        layer: The layer, not wrapped.
        removal: The `Removal` of the model, or `None`.

    Returns:
        Tuple of two integers.
    """
    if not kernels:
        return 0, 0
    known = None if removal is None else removal.filters(layer, kernels[-1])
    return known or (kernels[-1].outputs, 0)


def own_layers(model: keras.Model) -> list:
    """The layers of a model and of its nested models, wrappers included."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found.extend(own_layers(layer))
        elif not isinstance(layer, keras.layers.InputLayer):
            found.append(layer)
    return list(dict.fromkeys(found))


def _filters(model, graph) -> int:
    removal = None if graph is None else Removal(graph)
    return sum(
        filters_of(weights_of(layer), unwrapped(layer), removal)[0]
        for layer in own_layers(model)
    )


def _cells(pair) -> list[str]:
    counts = [
        "unknown" if n is None else f"{n:,}" for n in (pair.dense, pair.pruned)
    ]
    return [*counts, "" if pair.ratio is None else f"{pair.ratio:.3f}"]


def _latency_rows(name, timed) -> list[list[str]]:
    reference = f"{1000 * timed.reference_seconds:.3f}"
    return [
        [
            f"{name}, latency in ms",
            reference,
            f"{1000 * timed.seconds:.3f}",
            str(timed.ratio),
        ],
        ["The same, dense against itself", reference, "", str(timed.control)],
    ]
