"""Runs what the README shows."""

import pathlib
import re

import keras
import numpy as np
import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def names(digits):
    """What the blocks use without defining it."""
    x, y = digits
    return {"x": x[:200], "y": y[:200], "np": np}


def test_every_block_runs(names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) >= 2
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "Pruning of" in printed
    assert (tmp_path / "savedmodels/mnist/saved_model.pb").is_file()
    assert (tmp_path / "savedmodels/mnist.tflite").stat().st_size > 1000
    assert isinstance(names["model"], keras.Model)


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
