"""What is passed in place of a model: each door says what to do."""

import pathlib

import keras
import numpy as np
import pytest

import kprune


def _keras_2(name):
    """As the classes of tf_keras look, which need not be installed."""
    base = type("Layer", (), {"__module__": "tf_keras.src.engine.base_layer"})
    kind = type(name, (base,), {"__module__": "tf_keras.src.engine.training"})
    # A class of a user's own is one of Keras 2 through what it is made of.
    return type(f"My{name}", (kind,), {})()


DOORS = {
    "make_prunable": kprune.make_prunable,
    "prune": lambda model: kprune.prune(model, 0.5),
    "sparsity": kprune.sparsity,
    "strip": kprune.strip,
    "strip in place": lambda model: kprune.strip(model, compact=False),
    "compact": kprune.compact,
    "channel_graph": kprune.structure.channel_graph,
    "report": kprune.report,
    "report dense": lambda model: kprune.report(
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]),
        dense=model,
    ),
    "cost": kprune.cost,
    "export": lambda model: kprune.export(model, "out.keras"),
}


class Own(keras.Model):
    pass


def _lenet(classes=10):
    return keras.Sequential()


MISTAKES = [
    (lambda: _keras_2("Sequential"), "MySequential of Keras 2.*'model.h5'"),
    (lambda: Own, r"the class Own; call it: `Own\(...\)`"),
    (lambda: keras.Sequential, r"call it: `Sequential\(...\)`"),
    (lambda: _lenet, r"the function _lenet; call it: `_lenet\(...\)`"),
    (lambda: None, "None"),
    (lambda: np.zeros(3), "of type ndarray"),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("make, words", MISTAKES)
def test_every_door_says_what_to_do(tmp_path, monkeypatch, door, make, words):
    monkeypatch.chdir(tmp_path)
    if door == "report dense" and make() is None:
        return  # there, what is left out
    with pytest.raises(ValueError, match=f"(?s)`keras.Model`.*{words}") as e:
        DOORS[door](make())
    assert len(str(e.value)) < 500
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"cost", "export"}))
def test_a_path_is_to_be_loaded_first(door):
    for path in ("net.keras", pathlib.Path("net.keras")):
        with pytest.raises(ValueError, match=r"load_model\('net.keras'\)"):
            DOORS[door](path)


@pytest.mark.parametrize("door", ["make_prunable", "strip", "report", "cost"])
def test_a_layer_is_no_model(door):
    with pytest.raises(ValueError, match="layer 'logits'.*make a model of it"):
        DOORS[door](keras.layers.Dense(3, name="logits"))


@pytest.mark.parametrize(
    "wrap", [kprune.PrunableLayer, kprune.PrunableDense, kprune.PrunableConv2D]
)
def test_layers_that_are_none(wrap):
    for wrong, words in (
        (keras.layers.Dense, r"the class Dense; call it: `Dense\(...\)`"),
        (_keras_2("Dense"), "MyDense of Keras 2"),
    ):
        with pytest.raises(ValueError, match=f"{wrap.__name__}.*{words}"):
            wrap(wrong)
