"""report and the counts behind it."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers
from models import Untraceable, convnet

import kprune
from kprune.measuring.comparison import Pair


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
    model.get_layer("frozen").trainable = False
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


class Unembedding(layers.Layer):
    """A layer of the user's own that multiplies by another one's table."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.table.embeddings))


def test_a_shared_kernel_counts_once_in_totals():
    tokens = keras.Input((6,), dtype="int32")
    table = layers.Embedding(20, 8)
    x = layers.Dense(8)(table(tokens))
    model = keras.Model(tokens, Unembedding(table)(x))
    table.embeddings.assign(np.zeros((20, 8)))
    report = kprune.report(model, dense=model)
    assert [row.weights for row in report.layers] == [160, 64, 160]
    assert (report.weights, report.zeros) == (224, 160)
    assert report.to_dict()["zeros"] == 160
    sparsity = report.comparison.sparsity
    assert sparsity.dense == sparsity.pruned == 160 / 224
    assert kprune.cost(model).weights == 224


@pytest.mark.parametrize("model", [None, keras.Sequential([layers.Dense(2)])])
def test_bad_models(model):
    with pytest.raises(ValueError, match="needs a built `keras.Model`"):
        kprune.report(model)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A dense and a pruned net, and a `.tflite` file of each."""
    folder = tmp_path_factory.mktemp("compared")
    prunable = convnet()
    dense = kprune.strip(prunable)
    kprune.prune(prunable, 0.5)
    paths = folder / "dense.tflite", folder / "pruned.tflite"
    for model, path in zip((dense, prunable), paths):
        kprune.export(model, path)
    return prunable, dense, paths


def test_dense_against_pruned(compared, digits):
    prunable, dense, paths = compared
    x, y = digits
    report = kprune.report(
        prunable,
        dense=dense,
        data=(x[:200], y[:200]),
        files={"tflite": paths},
        latency=True,
    )
    comparison = report.comparison
    stripped = kprune.strip(prunable)
    for model, name in ((dense, "dense"), (stripped, "pruned")):
        cost = kprune.cost(model)
        assert getattr(comparison.parameters, name) == cost.parameters
        assert getattr(comparison.macs, name) == cost.macs
        classes = np.argmax(model.predict(x[:200], verbose=0), axis=-1)
        accuracy = np.mean(classes == y[:200])
        assert getattr(comparison.accuracy, name) == pytest.approx(accuracy)
    assert comparison.filters.dense == 8 + 16 + 32 + 10
    assert comparison.filters.pruned == 4 + 8 + 32 + 10
    assert comparison.sparsity.dense == 0
    assert comparison.sparsity.pruned == report.sparsity > 0.5
    file = comparison.files["tflite"]
    assert file.bytes.pruned == paths[1].stat().st_size
    assert file.bytes.ratio == file.bytes.pruned / file.bytes.dense
    assert file.gzip_bytes.pruned < file.bytes.pruned
    assert file.latency.seconds > 0 and file.latency.rounds > 10

    as_dict = report.to_dict()["comparison"]
    assert json.loads(json.dumps(as_dict, allow_nan=False)) == as_dict
    timed = as_dict["files"]["tflite"]["latency"]
    assert timed["ratio"]["median"] == file.latency.ratio.median
    text = str(report)
    for words in (
        "Dense against pruned",
        f"{comparison.macs.pruned:,}",
        f"{comparison.macs.ratio:.3f}",
        "tflite, bytes gzipped",
        "The same, dense against itself",
        f"{file.latency.control}",
    ):
        assert words in text


def test_a_loss_of_accuracy_comes_with_what_to_do(compared):
    prunable, dense, _ = compared
    report = kprune.report(prunable, dense=dense)
    for pruned, is_advised in ((0.9, True), (0.945, False), (0.97, False)):
        comparison = dataclasses.replace(
            report.comparison, accuracy=Pair(0.95, pruned)
        )
        text = str(dataclasses.replace(report, comparison=comparison))
        assert ("fell by 5.0 points" in text) == is_advised
        assert ("reconstruct=True" in text) == is_advised


def test_how_far_whole_filters_go(compared):
    prunable, dense, _ = compared
    report = kprune.report(prunable)
    least = keras.models.clone_model(prunable)
    kprune.prune(least, 1 - 1e-9, granularity="filter")
    left, whole = kprune.cost(kprune.strip(least)), kprune.cost(dense)
    assert report.reachable == {
        "parameters": left.parameters / whole.parameters,
        "macs": left.macs / whole.macs,
    }
    assert f"macs {left.macs / whole.macs:.3g}" in str(report)
    assert kprune.report(dense).reachable is None


def test_what_was_not_asked_for_is_left_out(compared):
    prunable, dense, _ = compared
    report = kprune.report(prunable, dense=dense)
    assert report.comparison.accuracy is None
    assert report.to_dict()["comparison"]["files"] == {}
    assert "Accuracy" not in str(report) and "bytes" not in str(report)
    assert kprune.report(prunable).to_dict()["comparison"] is None


def test_unknown_macs_are_said_to_be_unknown():
    models = Untraceable(), Untraceable()
    for model in models:
        model(np.ones((1, 4), "float32"))
    report = kprune.report(models[0], dense=models[1])
    assert report.comparison.macs.ratio is None
    assert report.comparison.parameters.ratio == 1
    assert "unknown" in str(report.comparison.to_dict()) + str(report)


@pytest.mark.parametrize("one_hot", [False, True])
def test_classes_are_numbers_or_one_hot(compared, digits, one_hot):
    prunable, dense, _ = compared
    x, y = digits[0][:50], digits[1][:50]
    plain = kprune.report(prunable, dense=dense, data=(x, y))
    y = np.eye(10)[y] if one_hot else y[:, None]
    other = kprune.report(prunable, dense=dense, data=(x, y))
    assert other.comparison.accuracy == plain.comparison.accuracy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dense": None, "data": (1, 2)}, "pass the other one as `dense`"),
        ({"dense": "dense.keras"}, "built `keras.Model`.*dense="),
        ({"latency": True}, "pass them as `files`"),
        ({"files": {"tflite": "one.tflite"}}, "to two paths"),
        ({"files": {"tflite": (1, 2)}}, "to two paths"),
        ({"files": ["a.tflite", "b.tflite"]}, "`files` is a dict"),
        ({"files": {"tflite": ("no.tflite",) * 2}}, "There is no file"),
        (
            {"files": {"keras": (__file__, __file__)}, "latency": True},
            "times pairs of `.tflite` files",
        ),
        ({"data": np.ones(3)}, r"tuple `\(x, y\)`"),
        (
            {"data": (np.ones((2, 28, 28, 1)), np.ones((2, 3)))},
            r"outputs of shape \(2, 10\) and y of shape \(2, 3\)",
        ),
    ],
)
def test_bad_comparisons(compared, arguments, message):
    prunable, dense, _ = compared
    with pytest.raises(ValueError, match=message):
        kprune.report(prunable, **{"dense": dense, **arguments})
