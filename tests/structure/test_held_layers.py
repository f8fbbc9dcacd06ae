"""Layers that hold other layers of the model: sharing stays sharing."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import assert_equal_outputs, numpy, outputs

import kprune
from kprune.prunable import prunable_layers

_register = keras.saving.register_keras_serializable(package="test_held_layers")


class _Holding(layers.Layer):
    """A layer that others are passed to, and that is saved with them."""

    def __init__(self, held, **kwargs):
        super().__init__(**kwargs)
        self.held = held

    def get_config(self):
        held = keras.saving.serialize_keras_object(self.held)
        return {**super().get_config(), "held": held}

    @classmethod
    def from_config(cls, config):
        held = keras.saving.deserialize_keras_object(config.pop("held"))
        return cls(held, **config)


@_register
class Head(_Holding):
    """Reads the table of an Embedding, as masked language models do."""

    def build(self, shape):
        self.dense = layers.Dense(shape[-1], name="transform")
        self.dense.build(shape)
        if not self.held.built:
            self.held.build()

    def call(self, x):
        return ops.matmul(self.dense(x), ops.transpose(self.held.embeddings))


@_register
class Calling(_Holding):
    """Calls what it holds: a layer or model, or a list or dict of them."""

    def build(self, shape):
        for layer in keras.tree.flatten(self.held):
            if not layer.built:
                layer.build(shape)

    def call(self, x):
        for layer in keras.tree.flatten(self.held):
            x = ops.tanh(layer(x))
        return x


@_register
class Deep(layers.Layer):
    """Holds one through a layer of its own."""

    def __init__(self, held, **kwargs):
        super().__init__(**kwargs)
        self.inner = Calling([held])

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        held = keras.saving.serialize_keras_object(self.inner.held[0])
        return {**super().get_config(), "held": held}

    from_config = _Holding.__dict__["from_config"]


@_register
class Block(layers.Layer):
    """A block of several layers, as of a transformer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4)
        self.parts = [layers.Dense(8, activation="relu"), layers.Dense(8)]

    def build(self, shape):
        self.attention.build(shape, shape)
        for part in self.parts:
            part.build(shape)

    def call(self, x):
        x = x + self.attention(x, x)
        for part in self.parts:
            x = part(x)
        return x


def _tied_table():
    table = layers.Embedding(30, 8, name="table")
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Dense(8, activation="relu", name="middle")(table(inputs))
    return keras.Model(inputs, Head(table, name="head")(x))


def _reversible():
    table = layers.ReversibleEmbedding(30, 8, name="table")
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Dense(8, activation="relu", name="middle")(table(inputs))
    return keras.Model(inputs, table(x, reverse=True))


def _held(hold, called=True, first=True):
    """A Dense that is held, called before or after what holds it."""
    dense = layers.Dense(8, name="held")
    holder = hold(dense)
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, activation="tanh", name="middle")(inputs)
    if called and first:
        x = dense(x)
    x = holder(x)
    if called and not first:
        x = dense(x)
    return keras.Model(inputs, layers.Dense(3, name="last")(x))


def _two_hold_one():
    dense = layers.Dense(8, name="held")
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, activation="tanh", name="middle")(inputs)
    x = Calling({"a": dense}, name="two")(Calling(dense, name="one")(x))
    return keras.Model(inputs, layers.Dense(3, name="last")(x))


def _one_block_twice():
    block = Block(name="block")
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, name="middle")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="last")(block(block(x))))


def _tower(name="tower"):
    return keras.Sequential(
        [
            keras.Input((5, 8)),
            layers.Dense(8, activation="tanh", name="lower"),
            layers.Dense(8, name="upper"),
        ],
        name=name,
    )


def _siamese():
    tower = _tower()
    first, second = keras.Input((5, 8)), keras.Input((5, 8))
    x = layers.Subtract()([tower(first), tower(second)])
    return keras.Model([first, second], layers.Dense(3, name="last")(x))


def _held_tower(first):
    tower = _tower()
    holder = Calling([tower], name="holder")
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, name="middle")(inputs)
    x = holder(tower(x)) if first else tower(holder(x))
    return keras.Model(inputs, layers.Dense(3, name="last")(x))


# The model, and the layers that are wrapped.
MODELS = {
    "a tied table": (_tied_table, ["middle"]),
    "a reversible table": (_reversible, ["table", "middle"]),
    "held": (
        lambda: _held(lambda d: Calling(d, name="h"), called=False),
        ["middle", "h", "last"],
    ),
    "held and called": (lambda: _held(Calling), ["middle", "last"]),
    "in a list": (lambda: _held(lambda d: Calling([d])), ["middle", "last"]),
    "in a dict": (
        lambda: _held(lambda d: Calling({"x": [d]}), first=False),
        ["middle", "last"],
    ),
    "at depth": (lambda: _held(Deep), ["middle", "last"]),
    "called after": (lambda: _held(Deep, first=False), ["middle", "last"]),
    "in a TimeDistributed": (
        lambda: _held(layers.TimeDistributed),
        ["middle", "last"],
    ),
    "two hold one": (_two_hold_one, ["middle", "last"]),
    "one block twice": (_one_block_twice, ["middle", "block", "last"]),
    "a siamese tower": (_siamese, ["lower", "upper", "last"]),
    "a held tower": (lambda: _held_tower(True), ["middle", "last"]),
    "a held tower, called after": (
        lambda: _held_tower(False),
        ["middle", "last"],
    ),
}


_LOST_BY_KERAS = {
    "in a dict",
    "called after",
    "two hold one",
    "a held tower, called after",
}


def _data(model):
    generator = np.random.default_rng(0)
    data = [
        generator.integers(0, 30, (4, 5))
        if "int" in str(tensor.dtype)
        else generator.normal(size=(4, 5, 8))
        for tensor in model.inputs
    ]
    return data if len(data) > 1 else data[0]


@pytest.mark.filterwarnings("ignore:Layers of model")
@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("granularity", ["unstructured", "filter"])
def test_sharing_survives(tmp_path, name, granularity):
    make, wrapped = MODELS[name]
    model = make()
    x = _data(model)
    size = model.count_params()
    plain_reloads = _reloaded(model, tmp_path) is not None
    assert plain_reloads or name in _LOST_BY_KERAS
    prunable = kprune.make_prunable(model)
    names = [layer.name for layer in prunable_layers(prunable)]
    assert sorted(names) == sorted(wrapped)
    assert_equal_outputs(model, prunable, x)
    # What is shared counts once: a training step would show it.
    before = outputs(prunable, x)
    last = prunable.trainable_variables[-1]
    assert len(prunable.trainable_variables) == len(model.trainable_variables)
    last.assign(numpy(last) + 0.1)
    assert any((a != b).any() for a, b in zip(before, outputs(prunable, x)))
    try:
        kprune.prune(prunable, 0.5, granularity=granularity)
    except ValueError as error:
        assert granularity == "filter" and "No filter" in str(error)
        return
    for compact in (True, False):
        stripped = kprune.strip(prunable, compact=compact)
        assert stripped.count_params() <= size
        assert compact or stripped.count_params() == size
        assert_equal_outputs(prunable, stripped, x)
        for made in (prunable, stripped) if plain_reloads else ():
            loaded = _reloaded(made, tmp_path)
            assert loaded.count_params() == made.count_params()
            assert_equal_outputs(made, loaded, x)


def _reloaded(model, folder):
    """The model from its file; None where Keras cannot read what it wrote.

    As where a layer that is called comes after one that holds it.
    """
    model.save(folder / "model.keras")
    try:
        return keras.saving.load_model(folder / "model.keras")
    except ValueError as error:
        assert "could not be loaded" in str(error)
        return None


@pytest.mark.parametrize("name", ["a tied table", "two hold one"])
def test_what_is_left_alone_is_named(name):
    model = MODELS[name][0]()
    names = {"a tied table": ("table", "head")}.get(name, ("one", "two"))
    match = "'{0}': shares weights with '{1}'. '{1}': shares".format(*names)
    with pytest.warns(UserWarning, match=match):
        kprune.make_prunable(model)
    with pytest.raises(ValueError, match=f"no layer to prune.*{match}"):
        kprune.make_prunable(model, where=lambda layer: layer.name in names)


@pytest.mark.parametrize("head", [False, True])
def test_masks_of_what_is_shared_are_refused(head):
    """Where wrappers were set by hand."""
    table = layers.Embedding(30, 8, name="table")
    inputs = keras.Input((5,), dtype="int32")
    x = kprune.PrunableDense(8)(kprune.PrunableLayer(table)(inputs))
    last = Head(table, name="head")
    model = keras.Model(
        inputs, (kprune.PrunableLayer(last) if head else last)(x)
    )
    match = "'table' and 'head' share 'table/embeddings'"
    for use in (lambda model: kprune.prune(model, 0.5), kprune.strip):
        with pytest.raises(ValueError, match=match):
            use(model)


@_register
class Hidden(_Holding):
    """Holds what it calls where nobody finds it."""

    def __init__(self, held, **kwargs):
        super().__init__(held, **kwargs)
        self.all = {held}

    def call(self, x):
        (held,) = self.all
        return held(x)


def test_sharing_that_would_be_lost_is_refused():
    dense = layers.Dense(8, name="held")
    inputs = keras.Input((5, 8))
    # Keras finds it in a set; a copy in its place would not be called.
    holder = Hidden(dense, name="hidden")
    del holder.held
    holder.get_config = lambda: {
        **layers.Layer.get_config(holder),
        "held": keras.saving.serialize_keras_object(dense),
    }
    model = keras.Model(inputs, layers.Dense(3)(holder(dense(inputs))))
    with (
        pytest.warns(UserWarning, match="Layers of model .* stay as they are"),
        pytest.raises(ValueError, match="'hidden' shares 'held/kernel'"),
    ):
        kprune.make_prunable(model)
