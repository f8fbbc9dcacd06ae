"""A file of a model that nobody pruned says so."""

import json

import keras
import numpy as np
import pytest
from files import on_tensorflow

import kprune
from kprune.command_line import main


def _plain():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(8, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


def _forgotten():
    """Trained without the scheduler."""
    model = kprune.make_prunable(_plain())
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 8, 8, 2)), np.ones((4, 3)), verbose=0)
    return model


def _undone():
    return kprune.prune(kprune.prune(_forgotten(), 0.5), 0.0)


def _pruned(**how):
    return kprune.prune(_forgotten(), 0.5, **how)


@pytest.mark.parametrize("make", [_forgotten, _undone])
def test_nothing_masked_is_said_once(tmp_path, make):
    result = kprune.export(make(), tmp_path / "model.keras")
    assert result.note.startswith("No weight of the model is masked")
    assert "kprune.PruningScheduler()" in result.note
    assert "kprune.prune(" in result.note
    assert str(result).endswith(f"\n{result.note}")
    assert str(result).count("No weight") == 1
    assert str(result).startswith(f"{result.path}: {result.bytes:,} bytes")


@pytest.mark.parametrize(
    "make",
    [
        _plain,
        _pruned,
        lambda: _pruned(granularity="unstructured"),
        lambda: kprune.strip(_forgotten()),
        lambda: kprune.strip(_pruned()),
    ],
)
def test_else_there_is_nothing_to_say(tmp_path, make):
    result = kprune.export(make(), tmp_path / "model.keras")
    assert result.note == "" and "\n" not in str(result)


@on_tensorflow
def test_beside_the_notes_on_a_tflite(tmp_path):
    result = kprune.export(_forgotten(), tmp_path / "model.tflite", sparse=True)
    assert result.note.startswith("No weight of the model is masked")
    assert result.note.endswith("too few weights are zero.")


def test_the_command_says_it_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _forgotten().save("forgotten.keras")
    assert main(["export", "forgotten.keras", "a.keras"]) == 0
    assert "No weight of the model is masked" in capsys.readouterr().out
    assert main(["export", "forgotten.keras", "b.keras", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["note"].startswith("No weight")
    # `strip` also makes the dense model that one compares with.
    assert main(["strip", "forgotten.keras", "c.keras"]) == 0
    assert "masked" not in capsys.readouterr().out
