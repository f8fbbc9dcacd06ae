"""Subclassed models: flattened where that works, else told what to do."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import (
    EXACT_MEAN,
    assert_equal_outputs,
    enliven,
    numpy,
    outputs,
    randomized,
    shrunk,
)

import kprune
from kprune.structure.flattening import flatten

pytestmark = pytest.mark.usefixtures("float64")


class Block(layers.Layer):
    """A residual block."""

    def __init__(self, filters, make=layers.Conv2D, **kwargs):
        super().__init__(**kwargs)
        self.first = make(filters, 3, padding="same", name="first")
        self.norm = layers.BatchNormalization()
        self.second = make(filters, 3, padding="same", name="second")

    def call(self, x):
        y = ops.relu(self.norm(self.first(x)))
        return x + self.second(y)


class Net(keras.Model):
    """A residual net in the way that many tutorials write one."""

    def __init__(self, make=layers.Conv2D):
        super().__init__()
        self.stem = make(8, 3, name="stem")
        self.blocks = [Block(8, make), Block(8, make)]
        self.dropout = layers.Dropout(0.5)
        self.pool = layers.GlobalAveragePooling2D()
        self.logits = layers.Dense(3)

    def call(self, x, training=False):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.dropout(self.pool(x), training=training))


def _x():
    return np.random.default_rng(0).normal(size=(4, 8, 8, 2))


def test_a_subclassed_model_shrinks_like_a_functional_one():
    model = Net()
    model(_x())
    stripped = shrunk(model, _x(), tolerance=EXACT_MEAN)
    assert stripped.get_layer("stem").filters == 4
    assert not any(isinstance(layer, Block) for layer in stripped.layers)


def test_wrapped_in_the_constructor_units_are_masked_and_removed():
    model = Net(kprune.PrunableConv2D)
    model(_x())
    enliven(randomized(model), _x())
    kprune.prune(model, 0.5)
    block = model.blocks[0]
    kept = numpy(block.first.masks["kernel"]).any(axis=(0, 1, 2))
    read = numpy(block.second.masks["kernel"]).any(axis=(0, 1, 3))
    assert kept.sum() == 4
    np.testing.assert_array_equal(kept, read)
    stripped = kprune.strip(model)
    assert_equal_outputs(model, stripped, _x(), EXACT_MEAN)
    assert stripped.get_layer("stem").filters == 4


def test_training_follows_the_new_models_mode():
    model = Net()
    model(_x())
    flat = flatten(model)
    first, second = (numpy(flat(_x(), training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 0
    np.testing.assert_array_equal(*(outputs(flat, _x())[0] for _ in range(2)))


def test_the_classes_of_layers_call_as_before():
    call = Block.__call__
    model = Net()
    model(_x())
    flatten(model)
    assert Block.__call__ is call


@keras.saving.register_keras_serializable(package="tests")
class Shift(layers.Layer):
    """A layer with a weight of its own beside the layers that it holds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.shift = self.add_weight(shape=(4,), name="shift")
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) + self.shift


class Shifted(keras.Model):
    """Dense, a layer without rule, Dense."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(6, activation="relu")
        self.shift = Shift()
        self.hidden = layers.Dense(6, activation="tanh")
        self.last = layers.Dense(2)

    def call(self, x):
        return self.last(self.hidden(self.shift(self.first(x))))


def test_a_layer_with_weights_of_its_own_stays_whole():
    model = Shifted()
    x = np.random.default_rng(0).normal(size=(4, 3))
    model(x)
    stripped = shrunk(model, x)
    assert stripped.layers[1].units == 6
    assert stripped.layers[3].units == 3
    (reason,) = kprune.structure.channel_graph(model).frozen_reasons(
        model.first
    )
    assert "(Shift) has no rule" in reason


class DictNet(keras.Model):
    """Takes and returns dicts."""

    def __init__(self):
        super().__init__()
        self.left = layers.Dense(6, activation="relu")
        self.right = layers.Dense(6, activation="relu")
        self.last = layers.Dense(2)

    def call(self, x):
        merged = self.left(x["left"]) + self.right(x["right"])
        return {"logits": self.last(merged)}


# Keras would have the inputs named as the keys are.
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_dicts_in_and_out():
    model = DictNet()
    generator = np.random.default_rng(0)
    x = {k: generator.normal(size=(4, 3)) for k in ("left", "right")}
    model(x)
    stripped = shrunk(model, x)
    assert stripped.layers[-1].name == model.last.name
    assert set(stripped(x)) == {"logits"}
    assert stripped.count_params() == 2 * (3 * 3 + 3) + 3 * 2 + 2


class Branching(keras.Model):
    """Python decides on values, which a symbolic tensor does not have."""

    def __init__(self, width=6):
        super().__init__()
        self.width = width
        self.parts = [kprune.PrunableDense(width, activation="relu")]
        self.heads = {"logits": kprune.PrunableDense(2)}

    def call(self, x):
        for part in self.parts:
            x = part(x)
        if float(ops.stop_gradient(ops.max(x))) > 1e6:
            x = x / 2
        return self.heads["logits"](x)


def _branching(x):
    model = Branching()
    model(x)
    return randomized(model)


def test_without_a_graph_masks_are_folded_in():
    x = np.random.default_rng(0).normal(size=(4, 3))
    model = _branching(x)
    kprune.prune(model, 0.5)
    plain = kprune.strip(model, compact=False)
    assert type(plain) is Branching
    assert [type(layer) for layer in plain.layers] == [layers.Dense] * 2
    assert plain.parts[0] is plain.layers[0]
    assert kprune.sparsity(plain) == 0.5
    assert_equal_outputs(model, plain, x)
    assert isinstance(model.parts[0], kprune.PrunableDense)


@pytest.mark.parametrize(
    "function", [kprune.strip, kprune.structure.channel_graph]
)
def test_what_cannot_be_traced_says_what_to_do(function):
    model = _branching(np.ones((1, 3)))
    with pytest.raises(
        ValueError, match="subclass Branching.*functional model"
    ):
        function(model)


def test_strip_says_what_it_can_do_without_a_graph():
    model = _branching(np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"compact=False\)` needs no graph"):
        kprune.strip(model)


class Choosy(keras.Model):
    """Cannot be traced, though Keras builds it by tracing."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("needs numbers")
        return self.dense(x)


def test_the_error_of_a_call_is_passed_on():
    model = Choosy()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="symbolic.*TypeError: needs numbers"):
        kprune.compact(model)


class Hidden(keras.Model):
    """Uses a weight outside of layers."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)
        self.shift = self.add_weight(shape=(3,), name="shift")

    def call(self, x):
        return self.dense(x) + self.shift


def test_weights_outside_of_layers_are_named():
    model = Hidden()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="outside of layers.*shift"):
        kprune.compact(model)


class Noisy(keras.Model):
    """Gives other outputs at every call."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x) + float(np.random.default_rng().normal())


def test_a_call_that_depends_on_more_than_its_inputs_is_refused():
    model = Noisy()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="depends on more than its inputs"):
        kprune.compact(model)


class Configless(Branching):
    """Cannot be made from its config."""

    def __init__(self, part):
        super().__init__()
        self.parts = [part]

    def get_config(self):
        raise NotImplementedError("no config")


@pytest.mark.filterwarnings("ignore:`build..` was called on layer")
def test_a_class_without_a_config_says_what_to_write():
    model = Configless(kprune.PrunableDense(6))
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="`get_config` that returns"):
        kprune.strip(model, compact=False)


class Counting(keras.Model):
    """Counts its calls, and returns the count."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)
        self.counter = Counter()

    def call(self, x):
        return self.counter(self.dense(x))


class Counter(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(
            name="count", initializer="zeros", trainable=False
        )

    def call(self, x):
        self.count.assign(self.count + 1)
        return x + self.count


def test_the_state_of_a_model_stays():
    model = Counting()
    x = np.random.default_rng(0).normal(size=(4, 3))
    model(x)
    flat = flatten(model)
    assert numpy(model.counter.count) == 1
    assert [layer.name for layer in flat.layers][-1].startswith("counter")
