"""A layer of a user's own says which of its weights are pruned."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import numpy

import kprune
from kprune import weights
from kprune.prunable import prunable_layers


@keras.saving.register_keras_serializable(package="kprune_tests")
class Gated(layers.Layer):
    """Two matrices, of which one is not pruned, and one named like a scale."""

    def build(self, shape):
        width = shape[-1]
        self.gate = self.add_weight(name="gate", shape=(width, 6))
        self.kernel = self.add_weight(name="kernel", shape=(width, 6))
        self.scale = self.add_weight(name="scale", shape=(6, 6))

    def call(self, x):
        gated = ops.sigmoid(ops.matmul(x, self.gate)) * ops.matmul(
            x, self.kernel
        )
        return ops.matmul(gated, self.scale)

    def get_prunable_weights(self):
        return [self.kernel, self.scale]


def test_what_a_layer_names_is_pruned_and_nothing_else(tmp_path):
    model = keras.Sequential([keras.Input((8,)), Gated(name="gated")])
    assert list(weights.kernels(model.layers[0])) == ["kernel", "scale"]
    prunable = kprune.make_prunable(model)
    (layer,) = prunable.layers
    assert list(layer.masks) == ["kernel", "scale"]
    kprune.prune(prunable, 0.5)
    assert kprune.sparsity(prunable) == 0.5
    prunable.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for stripped in (kprune.strip(prunable), kprune.strip(loaded)):
        zeros = {v.name: int((numpy(v) == 0).sum()) for v in stripped.weights}
        assert zeros == {"gate": 0, "kernel": 24, "scale": 18}
        # The same before and after: what is not named does not count.
        assert kprune.sparsity(stripped) == 0.5
    # But it is multiplied by.
    cost = kprune.cost(stripped)
    assert (cost.weights, cost.macs) == (48 + 36, 48 + 48 + 36)


@keras.saving.register_keras_serializable(package="kprune_tests")
class Block(layers.Layer):
    """Holds layers, and says of their weights what is pruned."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(6), Gated()

    def call(self, x):
        return self.second(self.first(x))

    def get_prunable_weights(self):
        return [self.first.kernel]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.out = Block(name="block"), layers.Dense(2, name="out")

    def call(self, x):
        return self.out(self.block(x))


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_a_layer_decides_for_those_in_it(kind):
    x = np.ones((1, 8), "float32")
    if kind == "functional":
        model = keras.Sequential(
            [keras.Input((8,)), Block(name="block"), layers.Dense(2)]
        )
    else:
        model = Subclassed()
        model(x)
    prunable = kprune.make_prunable(model)
    block, out = prunable_layers(prunable)
    kernels = {v.path.rpartition("/block/")[2] for v in block.kernels.values()}
    assert kernels == {block.layer.first.kernel.path.rpartition("/block/")[2]}
    kprune.prune(prunable, 0.5, granularity="unstructured")
    assert block.sparsity == out.sparsity == 0.5


class Narrow(layers.LSTM):
    """A layer of Keras of which one kernel stays dense."""

    def get_prunable_weights(self):
        return [self.cell.kernel]


def test_a_layer_of_keras_keeps_its_rule_and_its_costs():
    def net(kind):
        model = keras.Sequential(
            [
                keras.Input((4, 6)),
                kind(8, name="lstm"),
                layers.Dense(2, name="out"),
            ]
        )
        model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
        return model

    model, plain = net(Narrow), net(layers.LSTM)
    assert kprune.cost(model).macs == kprune.cost(plain).macs
    graphs = [str(kprune.structure.channel_graph(m)) for m in (model, plain)]
    assert graphs[0] == graphs[1]
    prunable = kprune.make_prunable(model)
    assert list(prunable.layers[0].kernels) == ["kernel"]


def _naming(what):
    class Wrong(Gated):
        def build(self, shape):
            super().build(shape)
            self.vector = self.add_weight(name="vector", shape=(3,))
            self.counts = self.add_weight(
                name="counts",
                shape=(3, 3),
                dtype="int32",
                initializer="ones",
                trainable=False,
            )

        def get_prunable_weights(self):
            return what(self)

    layer = Wrong(name="wrong")
    layer.build((None, 8))
    return layer


@pytest.mark.parametrize(
    "what",
    [
        lambda layer: layer.kernel,
        lambda layer: ["kernel"],
        lambda layer: [keras.Variable(np.ones((2, 2)))],
        lambda layer: [layer.vector],
        lambda layer: [layer.counts],
    ],
    ids=["no list", "names", "of another", "one axis", "integers"],
)
def test_what_cannot_be_pruned_is_refused(what):
    layer = _naming(what)
    with pytest.raises(ValueError, match=r"`get_prunable_weights` of.*'wrong'"):
        kprune.PrunableLayer(layer)


def test_a_layer_that_names_nothing_is_left_alone():
    layer = _naming(lambda layer: [])
    with pytest.raises(ValueError, match="`get_prunable_weights` names none"):
        kprune.PrunableLayer(layer)
    layer = _naming(lambda layer: [])
    model = keras.Sequential([keras.Input((8,)), layer, layers.Dense(2)])
    (found,) = weights.kernels(model.layers[1])
    assert (found, weights.kernels(layer)) == ("kernel", {})
