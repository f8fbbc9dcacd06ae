"""What a subclassed model holds and its call in inference does not use."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import EXACT, assert_equal_outputs, outputs, randomized

import kprune
from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")


def _net(width=8, make=layers.Dense):
    return keras.Sequential(
        [
            keras.Input((4,)),
            make(width, activation="relu"),
            make(2),
        ]
    )


class Student(keras.Model):
    """It learns from a teacher in a training step of its own."""

    def __init__(self, make=layers.Dense):
        super().__init__()
        self.body = _net(make=make)
        self.left_out = _net(12, make)
        self.left_out.trainable = False

    def call(self, x):
        return self.body(x)


class Auxiliary(keras.Model):
    """It has a head that only training looks at."""

    def __init__(self, make=layers.Dense):
        super().__init__()
        self.first = make(8, activation="relu")
        self.second = make(8, activation="relu")
        self.head = make(2)
        self.left_out = make(3)

    def build(self, shape):
        self.first.build(shape)
        for part in (self.second, self.head, self.left_out):
            part.build((None, 8))

    def call(self, x, training=None):
        x = self.first(x)
        if training:
            self.add_loss(ops.mean(self.left_out(x)))
        return self.head(self.second(x))


class Forgetful(keras.Model):
    """One of its layers is never called, and a weight is not read."""

    def __init__(self, make=layers.Dense):
        super().__init__()
        self.body = _net(make=make)
        self.left_out = make(3)
        self.spare = self.add_weight(shape=(5,), name="spare")

    def build(self, shape):
        self.left_out.build(shape)

    def call(self, x):
        return self.body(x)


class Block(layers.Layer):
    """A layer that holds one that it does not call."""

    def __init__(self, make):
        super().__init__()
        self.up, self.down = make(8, activation="relu"), make(4)
        self.left_out = make(3)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((None, 8))
        self.left_out.build(shape)

    def call(self, x):
        return x + self.down(self.up(x))


class Nested(keras.Model):
    def __init__(self, make=layers.Dense):
        super().__init__()
        self.block, self.head = Block(make), make(2)
        self.left_out = self.block.left_out

    def call(self, x):
        return self.head(self.block(x))


KINDS = (Student, Auxiliary, Forgetful, Nested)


def _built(kind, make=layers.Dense):
    model = kind(make)
    model(_x())
    return randomized(model)


def _x():
    return np.random.default_rng(0).normal(size=(6, 4))


def _has(model, layer):
    """Whether weights of these shapes are all in a model."""
    found = [tuple(weight.shape) for weight in model.weights]
    return all(tuple(weight.shape) in found for weight in layer.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_used_is_left_out_and_named(kind):
    model = _built(kind)
    with pytest.warns(UserWarning, match="does not use in inference") as seen:
        prunable = kprune.make_prunable(model)
    (message,) = [str(w.message) for w in seen if "left out" in str(w.message)]
    assert repr(model.left_out.name) in message
    assert ("spare" in message) == (kind is Forgetful)
    np.testing.assert_array_equal(
        outputs(model, _x())[0], outputs(prunable, _x())[0]
    )
    assert not _has(prunable, model.left_out)
    kprune.prune(prunable, 0.5, granularity="filter")
    stripped = kprune.strip(prunable)
    assert_equal_outputs(prunable, stripped, _x(), EXACT)
    assert stripped.count_params() < prunable.count_params()


@pytest.mark.filterwarnings("ignore:Model '.*' has weights")
@pytest.mark.parametrize("kind", KINDS)
def test_every_door_takes_a_model_wrapped_by_hand(kind):
    model = _built(kind, kprune.PrunableDense)
    kprune.prune(model, 0.5, granularity="filter")
    assert kprune.cost(model).parameters
    report = kprune.report(model)
    assert report.macs and report.filters_removed > 0
    rows = {row.name: row for row in report.layers}
    unused = model.left_out
    for layer in getattr(unused, "layers", [unused]):
        if layer.name in rows:
            assert "is not used in inference" in rows[layer.name].reason
    assert str(channel_graph(model))
    for compact in (True, False):
        stripped = kprune.strip(model, compact=compact)
        assert_equal_outputs(model, stripped, _x(), EXACT)
        assert not _has(stripped, unused)


@pytest.mark.parametrize("kind", KINDS)
def test_compact_and_export_say_so_too(kind, tmp_path):
    model = _built(kind)
    with pytest.warns(UserWarning, match="They are left out"):
        compact = kprune.compact(model)
    np.testing.assert_allclose(
        outputs(model, _x())[0], outputs(compact, _x())[0], atol=EXACT
    )
    with pytest.warns(UserWarning, match="They are left out"):
        kprune.export(model, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        outputs(model, _x())[0], outputs(loaded, _x())[0], atol=EXACT
    )


class Direct(keras.Model):
    """Weights that it uses without a layer, by any of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.dense = layers.Dense(3)
        self.shift = self.add_weight(
            shape=(3,), initializer="ones", name="shift"
        )

    def call(self, x):
        return self.way(self.dense(x), self.shift)


WAYS = {
    "operator": lambda x, w: x + w,
    "keras.ops": lambda x, w: ops.multiply(x, w),
    "tensor": lambda x, w: x + ops.convert_to_tensor(w),
    "value": lambda x, w: x + w.value,
    "inside": lambda x, w: ops.map(lambda row: row * w, x),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_are_used_without_a_layer_are_refused(way):
    model = Direct(WAYS[way])
    model(_x())
    with pytest.raises(ValueError, match="(?s)outside of layers.*shift"):
        kprune.make_prunable(model)


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_nothing_is_said_where_all_is_used(kind, recwarn):
    model = _net()
    if kind == "subclassed":
        model = Nested()
        model.block.left_out = model.left_out = layers.Identity()
        model(_x())
    kprune.strip(kprune.make_prunable(model))
    assert not [w for w in recwarn if "left out" in str(w.message)]
