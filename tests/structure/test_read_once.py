"""Every public door reads the graph of a subclassed model once."""

import collections

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.structure import flattening


class Net(keras.Model):
    def __init__(self, name):
        super().__init__(name=name)
        self.first = kprune.PrunableDense(8, granularity="filter")
        self.second = layers.Dense(3)

    def call(self, x):
        return self.second(self.first(x))


def _net(name):
    net = Net(name)
    net(np.ones((2, 4), "float32"))
    return net


DOORS = {
    "prune": lambda p, d, path: kprune.prune(p, 0.5),
    "strip": lambda p, d, path: kprune.strip(p),
    "cost": lambda p, d, path: kprune.cost(p),
    "report": lambda p, d, path: kprune.report(p),
    "report, dense": lambda p, d, path: kprune.report(p, dense=d),
    "graph": lambda p, d, path: kprune.structure.channel_graph(p),
    "export": lambda p, d, path: kprune.export(p, path / "net.keras"),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_model_is_traced_once(door, tmp_path, monkeypatch):
    pruned, dense = _net("pruned"), _net("dense")
    kprune.prune(pruned, 0.5)
    traced = collections.Counter()
    flatten = flattening.flatten

    def counted(model):
        traced[model.name] += 1
        return flatten(model)

    monkeypatch.setattr(flattening, "flatten", counted)
    DOORS[door](pruned, dense, tmp_path)
    expected = {"pruned": 1, "dense": 1} if "dense" in door else {"pruned": 1}
    assert traced == expected
