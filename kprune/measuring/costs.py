"""What a model costs: parameters, multiply-accumulates, bytes and time."""

import dataclasses
import io
import math
import os
import pathlib

import keras
from rich.console import Console
from rich.table import Table

from kprune import files, keras_internals, received
from kprune.measuring.macs import macs
from kprune.prunable import all_weights, prunable_layers
from kprune.structure.graph import readable_or_none
from kprune.tflite import flatbuffer, operators
from kprune.tflite.latency import Latency, measure
from kprune.zeros import count_zeros


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model or a file costs. `str(cost)` is a table.

    Args:
        name: String. The model's name, or the path of the file.
        parameters: Integer. All numbers, masks not included. A `.tflite` file
            can have fewer than the model (norms are folded, and biases of
            zeros left out or shared) or more (what a loop starts from).
        weights: Integer. The numbers in kernels, shared ones once.
        zeros: Integer. How many of them are exactly 0.
        macs: Integer. Multiply-accumulates for one sample, zeros included
            (of a file whose inputs and outputs have no batch, for one run);
            `None` if unknown.
        bytes: Integer. The size of the file; `None` for a model in memory.
        gzip_bytes: Integer. The same after gzip.
        latency: `kprune.tflite.latency.Latency` against the reference;
            `None` if there was none.

    Example:

    ```python
    cost = kprune.cost("pruned.tflite", reference="dense.tflite")
    print(cost)
    print(cost.macs, cost.latency.ratio)
    ```
    """

    name: str
    parameters: int
    weights: int
    zeros: int
    macs: int | None
    bytes: int | None = None
    gzip_bytes: int | None = None
    latency: Latency | None = None

    @property
    def sparsity(self) -> float:
        """Float. The fraction of zeros over all kernels."""
        return self.zeros / self.weights if self.weights else 0.0

    def to_dict(self) -> dict:
        """Returns the cost as a dict of plain Python values."""
        return {**dataclasses.asdict(self), "sparsity": self.sparsity}

    def __str__(self) -> str:
        table = Table(title=f"Cost of '{self.name}'", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("Parameters", f"{self.parameters:,}")
        table.add_row(
            "Zeros in kernels",
            f"{self.zeros:,} of {self.weights:,} ({self.sparsity:.1%})",
        )
        macs = "unknown" if self.macs is None else f"{self.macs:,}"
        table.add_row("MACs for one sample", macs)
        if self.bytes is not None:
            table.add_row("Bytes", f"{self.bytes:,}")
            table.add_row("Bytes gzipped", f"{self.gzip_bytes:,}")
        for label, cell in () if self.latency is None else self.latency.rows():
            table.add_row(label, cell)
        # A terminal's width does not count where a string is asked for.
        text = io.StringIO()
        Console(file=text, width=100).print(table)
        return text.getvalue().rstrip()


def cost(
    model: keras.Model | str | os.PathLike,
    *,
    reference: str | os.PathLike | None = None,
) -> Cost:
    """Counts what a model or a file costs.

    Multiply-accumulates (MACs) are those of convolutions and of products of
    matrices, attention and recurrent layers included, as is the custom of
    published tables. Zeros count as well, since a dense kernel multiplies
    them: only whole filters make the count smaller.

    Args:
        model: A built `keras.Model`, with prunable layers or plain, or the
            path of a `.keras`, `.h5` or `.tflite` file.
        reference: Path of a `.tflite` file to time `model`, which then must
            be one too, against: in the LiteRT interpreter, on one thread, in
            turns. Takes some seconds.

    Returns:
        A `Cost`: `print` it, or take its `to_dict()`.

    Raises:
        ValueError: If the model is not built, a file is missing, damaged or
            of another format, or the interpreter cannot run it.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(8, name="logits")])
    >>> cost = kprune.cost(kprune.prune(model, 0.75))
    >>> cost.parameters, cost.zeros, cost.macs
    (136, 96, 128)
    """
    path = None
    if isinstance(model, (str, os.PathLike)):
        path = pathlib.Path(model)
    is_tflite = path is not None and path.suffix == ".tflite"
    if reference is not None and not is_tflite:
        raise ValueError(
            "Latency is that of `.tflite` files in the LiteRT interpreter: "
            "`kprune.export` both models first. "
            f"Received: reference='{reference}' with model={model!r}"
        )
    if path is None:
        if not isinstance(model, keras.Model) or not model.built:
            raise ValueError(
                "`cost` needs a built `keras.Model` (start it with "
                "`keras.Input(shape)` or call it on data first) or the path "
                "of a `.keras`, `.h5` or `.tflite` file. "
                f"Received: {received.describe(model)}"
            )
        return _of_model(model)
    if is_tflite:
        found = _of_tflite(path)
    elif path.is_file() and path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ValueError(
            "`cost` reads '.keras', '.h5' and '.tflite' files. "
            f"Received: model='{path}'"
        )
    else:
        found = _of_model(files.load_model(path))
    raw, gzipped = files.sizes(path)
    timed = None
    if reference is not None:
        timed = measure(path, reference)
    return dataclasses.replace(
        found,
        name=str(path),
        bytes=raw,
        gzip_bytes=gzipped,
        latency=timed,
    )


def parameters(model: keras.Model) -> int:
    """Counts the weights of a model, not what prunable layers add to them.

    Args:
        model: A built `keras.Model`.

    Returns:
        Integer. The number of scalars.
    """
    added: set[int] = set()
    for layer in prunable_layers(model):
        plain = {id(weight) for weight in layer.layer.weights}
        added.update(id(w) for w in layer.weights if id(w) not in plain)
    sizes = [math.prod(w.shape) for w in model.weights if id(w) not in added]
    return sum(sizes)


def _of_model(model) -> Cost:
    with keras_internals.calls_forgotten(model):
        return of_graph(model, readable_or_none(model))


def of_graph(model: keras.Model, graph: keras.Model | None) -> Cost:
    """What a model costs whose graph has been read.

    Args:
        model: A built `keras.Model`.
        graph: The model as a Sequential or Functional one; `None` where it
            cannot be read.

    Returns:
        A `Cost`.
    """
    found = None if graph is None else macs(graph)
    return Cost(
        model.name,
        parameters(model),
        *count_zeros(all_weights(model)),
        found,
    )


def _of_tflite(path) -> Cost:
    graphs = flatbuffer.read(path)
    kernels = operators.kernels(graphs)
    return Cost(
        str(path),
        operators.parameters(graphs),
        sum(kernel.size for kernel in kernels),
        sum(kernel.zeros for kernel in kernels),
        operators.macs(graphs),
    )
