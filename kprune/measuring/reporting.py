"""`report`: what was pruned, what was left alone, and why."""

import dataclasses
import math
from collections.abc import Iterable

import keras

from kprune import (
    granularities,
    keras_internals,
    masks,
    meeting,
    received,
    weights,
)
from kprune.measuring import costs
from kprune.measuring import macs as model_macs
from kprune.measuring.comparison import (
    Pruned,
    compare,
    filters_of,
    own_layers,
)
from kprune.measuring.pruning_report import LayerReport, PruningReport
from kprune.prunable import (
    all_weights,
    prunable_weights,
    unwrapped,
    weights_of,
)
from kprune.structure.graph import readable_or_none
from kprune.structure.removal import Removal
from kprune.zeros import count_zeros


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
    least = None
    if is_prunable and graph is not None:
        least = meeting.reachable(model, graph)
    made = PruningReport(
        model.name,
        tuple(rows),
        *count_zeros(all_weights(model)),
        *count_zeros(prunable_weights(model)),
        costs.parameters(model),
        total,
        reachable=least,
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
