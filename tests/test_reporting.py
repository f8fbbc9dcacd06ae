"""report and the counts behind it."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from models import Untraceable, convnet

import kprune
from kprune import costs


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


def test_reasons():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kprune.PrunableConv2D(4, 3, name="frozen"),
            kprune.PrunableConv2D(4, 3, name="before_norm"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(4, 3, padding="same", name="plain"),
            kprune.PrunableConv2D(4, 2, name="before_unknown"),
            layers.LayerNormalization(name="unknown"),
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
    assert reasons["before_unknown"] == (
        "'unknown' (LayerNormalization) has no rule"
    )
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


@pytest.mark.parametrize(
    ("architecture", "parameters", "macs"),
    [
        # Published: 300M, 4.1G without the shortcut of stride 1, 15.5G.
        ("MobileNetV2", 3_538_984, 300_774_272),
        ("ResNet50", 25_636_712, 3_857_973_248),
        ("VGG16", 138_357_544, 15_470_264_320),
    ],
)
def test_costs_of_published_models(architecture, parameters, macs):
    with keras.StatelessScope():
        model = getattr(keras.applications, architecture)(weights=None)
    assert costs.parameters(model) == parameters
    assert costs.macs(model) == macs


def test_macs_by_hand():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, strides=2, padding="same"),  # 16 places
            layers.DepthwiseConv2D(3, depth_multiplier=2),  # 4 places
            layers.SeparableConv2D(5, 2),  # 1 place
            layers.Conv2DTranspose(6, 3),  # 1 place of its input
            layers.Flatten(),
            layers.Dense(7),
        ]
    )
    expected = 16 * 27 * 4 + 4 * 9 * 8 + (4 * 8 + 8 * 5) + 9 * 5 * 6
    assert costs.macs(model) == expected + 54 * 7
    anywhere = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(2, 3)]
    )
    assert costs.macs(anywhere) is None


def test_a_shared_layer_counts_once_in_weights_and_twice_in_macs():
    layer = layers.Dense(3)
    first, second = keras.Input((4,)), keras.Input((4,))
    x = layers.Add()([layer(first), layer(second)])
    model = keras.Model([first, second], x)
    assert costs.macs(model) == 2 * 12
    assert costs.parameters(model) == 15
