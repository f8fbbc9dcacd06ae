"""Layers of one's own that cannot be opened stay closed, one class alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import EXACT_MEAN, assert_equal_outputs, outputs, randomized

import kprune
from kprune.structure.flattening import flatten

pytestmark = pytest.mark.usefixtures("float64")


class Part(layers.Layer):
    """A residual block, which can be opened."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = (
            layers.Dense(16, activation="relu"),
            layers.Dense(8),
        )

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 16))

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return x + self.down(self.up(x))


@keras.saving.register_keras_serializable("test_opening")
class Good(Part):
    pass


@keras.saving.register_keras_serializable("test_opening")
class Batched(Part):
    """Asks for the size of its batch."""

    def call(self, x):
        batch = ops.shape(x)[0]
        return super().call(x) * ops.ones((batch, 1, 1), x.dtype)


@keras.saving.register_keras_serializable("test_opening")
class Numbers(Part):
    """Asks for numbers, but in the middle of a symbolic call of its own."""

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("needs numbers")
        return super().call(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@keras.saving.register_keras_serializable("test_opening")
class Weighted(Part):
    """Has a weight of its own."""

    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(
            shape=(8,), initializer="ones", name="scale"
        )

    def call(self, x):
        return super().call(x) * self.scale


@keras.saving.register_keras_serializable("test_opening")
class Outer(Part):
    """Holds a block that cannot be opened, and can be itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Batched()

    def build(self, shape):
        super().build(shape)
        self.inner.build(shape)

    def call(self, x):
        return self.inner(super().call(x))


class Net(keras.Model):
    def __init__(self, *blocks):
        super().__init__()
        self.stem = layers.Dense(8)
        self.blocks = list(blocks)
        self.hidden = layers.Dense(16, activation="relu")
        self.head = layers.Dense(3)

    def call(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.hidden(x))


CASES = {
    "one": ((Good, Batched), ["Batched"]),
    "first": ((Batched, Good, Batched), ["Batched"]),
    "several": ((Good, Numbers, Weighted, Batched), None),
    "weights of its own": ((Weighted, Good), ["Weighted"]),
    "inside": ((Good, Outer), ["Batched"]),
    "none": ((Good,), []),
}


def _x():
    return np.random.default_rng(0).normal(size=(4, 5, 6))


def _net(blocks):
    model = Net(*(block() for block in blocks))
    model(_x())
    return randomized(model)


@pytest.mark.parametrize("case", CASES)
def test_only_the_class_that_fails_stays_closed(case):
    blocks, closed = CASES[case]
    closed = ["Numbers", "Weighted", "Batched"] if closed is None else closed
    model = _net(blocks)
    flat = flatten(model)
    left = [x for x in flat.layers if isinstance(x, Part)]
    assert list(dict.fromkeys(type(x).__name__ for x in left)) == closed
    prunable = kprune.make_prunable(model)
    np.testing.assert_allclose(
        outputs(model, _x())[0], outputs(prunable, _x())[0], atol=1e-6
    )
    kprune.prune(prunable, 0.5, granularity="filter")
    stripped = kprune.strip(prunable)
    assert_equal_outputs(prunable, stripped, _x(), EXACT_MEAN)
    # What is open loses half of its hidden units, the closed ones none.
    units = [x.units for x in stripped.layers if isinstance(x, layers.Dense)]
    assert 8 in units and 16 not in units
    for row in kprune.report(prunable).layers:
        if row.kind in closed:
            assert f"({row.kind}) has no rule" in row.reason
            says_why = "its call cannot be traced (" in row.reason
            assert says_why == (row.kind != "Weighted")
            assert row.filters_removed == 0


def test_the_reason_has_the_error_in_short():
    prunable = kprune.make_prunable(_net([Numbers]))
    (row,) = [r for r in kprune.report(prunable).layers if r.kind == "Numbers"]
    assert row.reason.startswith(f"'{row.name}' (Numbers) has no rule and its")
    assert "cannot be traced (TypeError: needs numbers)" in row.reason
    assert "\n" not in row.reason


def test_so_it_is_in_a_functional_model():
    x = keras.Input((5, 8))
    model = keras.Model(x, layers.Dense(3)(Batched(name="block")(x)))
    (reason,) = [
        row.reason
        for row in kprune.report(kprune.make_prunable(model)).layers
        if row.name == "block"
    ]
    assert "'block' (Batched) has no rule and its call" in reason


def test_a_model_whose_own_call_fails_is_refused_as_before():
    class Refuses(Net):
        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                raise TypeError("needs numbers")
            return super().call(x)

    model = Refuses(Good())
    model(_x())
    with pytest.raises(ValueError, match="TypeError: needs numbers"):
        kprune.make_prunable(model)
