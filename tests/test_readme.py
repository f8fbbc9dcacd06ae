"""Runs what README, CONTRIBUTING and the pages of examples show."""

import pathlib
import re

import keras
import numpy as np
import pytest
from models import convnet

import kprune
from kprune.structure.rules import registry

README = pathlib.Path(__file__).parent.parent / "README.md"


def _blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


BLOCKS = _blocks(README)


@pytest.fixture
def names(digits):
    """What the blocks use without defining it."""
    x, y = digits
    return {
        "x": x[:200],
        "y": y[:200],
        "samples": x,
        "trained_model": kprune.strip(convnet()),
    }


def test_every_block_runs(names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) >= 2
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "Pruning of" in printed
    assert (tmp_path / "savedmodels/mnist/saved_model.pb").is_file()
    assert (tmp_path / "savedmodels/mnist.tflite").stat().st_size > 1000
    # The existing model: half of its filters, a quarter of its numbers.
    small = kprune.strip(names["model"])
    assert small.get_layer("conv2").filters == 8
    whole = names["trained_model"].count_params()
    assert small.count_params() < 0.3 * whole
    written = (tmp_path / "savedmodels/small.tflite").stat().st_size
    assert written < 0.4 * 4 * whole


def test_the_workflow_is_short():
    statements = [
        line
        for line in BLOCKS[0].splitlines()
        if line and not line.startswith("import")
    ]
    assert len(statements) <= 16


def test_the_two_commands_are_there():
    text = README.read_text()
    assert 'pip install -e ".[examples]" && python examples/' in text
    assert 'pip install -e ".[test]" && pytest' in text


def test_every_block_of_the_way_to_a_phone_runs(tmp_path, monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the TensorFlow backend writes it; others take longer")
    monkeypatch.chdir(tmp_path)
    path = README.parent / "examples" / "deploy_on_device.md"
    names = {}
    for block in _blocks(path):
        exec(compile(block, str(path), "exec"), names)
    written = (tmp_path / "model.tflite").stat().st_size
    assert written == names["result"].bytes
    # Half of the filters leave a third of the parameters, of 2 bytes each.
    dense = keras.applications.MobileNetV2(
        weights=None, input_shape=(96, 96, 3), classes=10
    )
    assert 0.2 < written / (2 * dense.count_params()) < 0.45


def test_every_block_of_contributing_runs(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    path = README.with_name("CONTRIBUTING.md")
    names = {"keras": keras, "kprune": kprune, "np": np, "model": convnet()}
    before = set(registry._RULES)
    for block in _blocks(path):
        exec(compile(block, str(path), "exec"), names)
    assert kprune.sparsity(names["model"]) > 0.4
    (added,) = set(registry._RULES) - before
    assert added is names["Scale"]
    prunable = kprune.make_prunable(
        keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(4),
                names["Scale"](),
                keras.layers.Dense(2),
            ]
        )
    )
    kprune.prune(prunable, 0.5, granularity="filter")
    assert kprune.strip(prunable).layers[1].scale.shape == (2,)
