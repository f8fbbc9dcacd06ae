"""report and the counts behind it."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from models import Untraceable, convnet

import kprune


def test_rows_and_totals_in_numbers():
    model = kprune.prune(convnet(), 0.5)
    report = kprune.report(model)
    rows = {row.name: row for row in report.layers}
    assert list(rows) == [
        "conv1",
        "max_pooling2d",
        "conv2",
        "max_pooling2d_1",
        "flatten",
        "hidden",
        "logits",
    ]
    conv2 = rows["conv2"]
    assert conv2.kind == "Conv2D" and conv2.shapes == ((3, 3, 8, 16),)
    # Half of the inputs and half of the outputs are masked.
    assert (conv2.weights, conv2.zeros) == (1152, 864)
    assert conv2.sparsity == 0.75
    assert (conv2.filters, conv2.filters_removed) == (16, 8)
    assert conv2.parameters == 1152 + 16
    assert conv2.macs == 11 * 11 * 1152
    assert rows["flatten"].reason == "no weights"
    assert rows["hidden"].reason == ""
    assert report.weights == 72 + 1152 + 400 * 32 + 320
    assert report.zeros == 36 + 864 + 6400 + 160
    assert report.filters_removed == 12
    assert report.parameters == report.weights + 8 + 16 + 32 + 10
    assert report.macs == sum(row.macs or 0 for row in report.layers)
    assert report.sparsity == report.zeros / report.weights


def test_filters_that_are_reported_are_those_that_strip_removes():
    model = kprune.prune(convnet(), 0.5)
    stripped = kprune.strip(model)
    for row in kprune.report(model).layers:
        layer = stripped.get_layer(row.name)
        if isinstance(layer, layers.Conv2D):
            assert layer.filters == row.filters - row.filters_removed
    assert kprune.report(stripped).parameters == stripped.count_params()


class Unknown(layers.Layer):
    """A layer of the user's own."""

    def call(self, x):
        return keras.ops.flip(x, axis=-1)


def test_reasons():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kprune.PrunableConv2D(4, 3, name="frozen"),
            kprune.PrunableConv2D(4, 3, name="before_norm"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(4, 3, padding="same", name="plain"),
            kprune.PrunableConv2D(4, 2, name="before_unknown"),
            Unknown(name="unknown"),
            layers.Flatten(),
            kprune.PrunableDense(2, granularity="filter", name="logits"),
        ]
    )
    model.get_layer("prunable_frozen").trainable = False
    norm = model.get_layer("norm")
    norm.moving_mean.assign(np.full(4, -0.5))
    kprune.prune(model, 0.5)
    reasons = {row.name: row.reason for row in kprune.report(model).layers}
    assert reasons["frozen"] == "frozen (trainable=False)"
    assert reasons["before_norm"] == (
        "masked filters stay: 'plain' reads them; wrap it too"
    )
    assert reasons["norm"] == "no kernels"
    assert reasons["plain"] == "not wrapped"
    assert reasons["before_unknown"] == ("'unknown' (Unknown) has no rule")
    assert "output of the model" in reasons["logits"]


def test_the_table_and_the_dict():
    report = kprune.report(kprune.prune(convnet(), 0.5))
    text = str(report)
    for word in ("conv2 (Conv2D)", "(3, 3, 8, 16)", "75.0%", "8 of 16"):
        assert word in text
    assert f"Parameters: {report.parameters:,}" in text
    as_dict = json.loads(json.dumps(report.to_dict()))
    assert as_dict["layers"][2]["sparsity"] == 0.75
    assert as_dict["zeros"] == report.zeros


def test_nested_and_subclassed_models():
    inner = keras.Sequential(
        [keras.Input((4,)), kprune.PrunableDense(4, name="deep")]
    )
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])
    assert kprune.report(outer).layers[0].name == "deep"

    model = Untraceable()
    model(np.ones((1, 4), "float32"))
    kprune.prune(model, 0.5)
    report = kprune.report(model)
    assert report.macs is None and report.layers[0].sparsity == 0.5
    assert "unknown" in str(report)


@pytest.mark.parametrize("model", [None, keras.Sequential([layers.Dense(2)])])
def test_bad_models(model):
    with pytest.raises(ValueError, match="needs a built `keras.Model`"):
        kprune.report(model)
