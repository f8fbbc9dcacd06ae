"""`report`: what was pruned, what was left alone, and why."""

import dataclasses
import io
import math
from collections.abc import Iterable

import keras
from rich.console import Console
from rich.table import Table

from kprune import (
    granularities,
    keras_internals,
    masks,
    received,
    weights,
)
from kprune.measuring import costs
from kprune.measuring import macs as model_macs
from kprune.measuring.comparison import (
    Comparison,
    Pruned,
    compare,
    filters_of,
    own_layers,
)
from kprune.prunable import (
    all_weights,
    prunable_weights,
    unwrapped,
    weights_of,
)
from kprune.structure.graph import readable_or_none
from kprune.structure.removal import Removal
from kprune.zeros import count_zeros


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
        without = [layer.name for layer in self.layers if not layer.weights]
        if without:
            lines.append(f"Left alone, no kernels: {', '.join(without)}.")
        # A terminal's width does not count where a string is asked for.
        text = io.StringIO()
        console = Console(file=text, width=110)
        console.print(table, *lines, sep="\n")
        if self.comparison is not None:
            console.print(self.comparison.table())
        return text.getvalue().rstrip()


def report(
    model: keras.Model,
    *,
    dense: keras.Model | None = None,
    data: Iterable | None = None,
    files: dict | None = None,
    latency: bool = False,
) -> PruningReport:
    """Says what was pruned in a model, what was left alone, and why.

    With a dense model it also compares the two, side by side.

    Args:
        model: A built `keras.Model`, with prunable layers or plain. Of a
            model without a graph that can be read (a subclassed one whose
            call cannot be traced) the multiply-accumulates and the reasons of
            units are not known.
        dense: A `keras.Model` to compare with, as it was before pruning or
            trained without.
        data: Tuple `(x, y)` of samples and classes, or an iterable of such
            batches (a `tf.data.Dataset`, a `keras.utils.PyDataset`), to
            compare the accuracy of the two models.
        files: Dict from a name, such as `"tflite"`, to two paths, the dense
            model's and the pruned one's, to compare their bytes.
        latency: Boolean. Whether to time the `.tflite` files among `files`,
            of which there must be a pair, in turns, on one thread. Takes some
            seconds.

    Returns:
        A `PruningReport`: `print` it, or take its `to_dict()`.

    Raises:
        ValueError: If `model` is no built Keras model; if `data` or `files`
            come without `dense` or do not fit; or if a file is missing,
            damaged, or cannot run.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(8, name="logits")])
    >>> dense = kprune.strip(model)
    >>> report = kprune.report(kprune.prune(model, 0.75), dense=dense)
    >>> report.zeros, report.sparsity, report.layers[0].name
    (96, 0.75, 'logits')
    >>> report.comparison.parameters.ratio
    1.0
    """
    for argument, value in (("model", model), ("dense", dense)):
        is_built = isinstance(value, keras.Model) and value.built
        if not is_built and (argument == "model" or value is not None):
            raise ValueError(
                "`report` needs a built `keras.Model`: start it with "
                "`keras.Input(shape)` or call it on data first. "
                f"Received: {argument}={received.describe(value)}"
            )
    if dense is None and (data is not None or files or latency):
        raise ValueError(
            "`data`, `files` and `latency` compare two models: pass the other "
            "one as `dense`."
        )
    if latency and not files:
        raise ValueError(
            "`latency` is that of `.tflite` files: pass them as `files`."
        )
    models = [model] if dense is None else [model, dense]
    with keras_internals.calls_forgotten(*models):
        return _report(model, dense, data, files, latency)


def _report(model, dense, data, files, latency) -> PruningReport:
    removal, macs, total = None, {}, None
    graph = readable_or_none(model)
    if graph is not None:
        removal = Removal(graph)
        macs = model_macs.layer_macs(graph)
        total = model_macs.total(macs)
    layers = own_layers(model)
    is_prunable = any(unwrapped(layer) is not layer for layer in layers)
    rows = []
    for layer in layers:
        reason = _reason(layer, removal) if is_prunable else ""
        count = macs.get(id(unwrapped(layer)))
        rows.append(_layer_report(layer, removal, count, reason))
    made = PruningReport(
        model.name,
        tuple(rows),
        *count_zeros(all_weights(model)),
        *count_zeros(prunable_weights(model)),
        costs.parameters(model),
        total,
    )
    if dense is None:
        return made
    compared = compare(
        Pruned(
            model,
            graph,
            removal,
            made.sparsity,
            made.filters - made.filters_removed,
        ),
        dense,
        data,
        {} if files is None else files,
        latency,
    )
    return dataclasses.replace(made, comparison=compared)


def _layer_report(layer, removal, macs, reason) -> LayerReport:
    plain = unwrapped(layer)
    kernels = weights_of(layer)
    size, zeros = count_zeros(kernels)
    filters, removed = filters_of(kernels, plain, removal)
    return LayerReport(
        name=plain.name,
        kind=type(plain).__name__,
        shapes=tuple(weight.shape for weight in kernels),
        weights=size,
        zeros=zeros,
        filters=filters,
        filters_removed=removed,
        parameters=sum(math.prod(weight.shape) for weight in plain.weights),
        macs=macs,
        reason=reason,
    )


def _reason(layer, removal) -> str:
    """Why a layer of a prunable model, or filters of it, were left alone."""
    plain = unwrapped(layer)
    if not weights.kernels(plain):
        return weights.no_kernels_reason(plain)
    if plain is layer:
        return "not wrapped"
    reasons = []
    if not (layer.trainable and plain.trainable):
        reasons.append("frozen (trainable=False)")
    if removal is not None and _loses_filters(layer):
        reasons.extend(removal.reasons(plain))
    return "; ".join(reasons)


def _loses_filters(layer) -> bool:
    """Whether whole filters are what is or would be masked of a layer."""
    granularity = granularities.get(layer.granularity)
    return getattr(granularity, "whole_groups", False) or all(
        masks.is_of_slices(weights.to_numpy(layer.masks[name]))
        for name in layer.kernels
    )
