"""Runs what examples/compositions.md shows, section by section."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers
from models import assert_equal_outputs, compiled, numpy

import kprune
from kprune.prunable import prunable_layers

PAGE = pathlib.Path(__file__).parent.parent / "examples" / "compositions.md"

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="one backend runs the page; others take longer",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Runs a section of the page in a folder and returns all names so far."""
    folder = tmp_path_factory.mktemp("page")
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    names = {"folder": folder}

    def run(title):
        (section,) = [part for part in sections if part.startswith(title)]
        blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        assert blocks
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for block in blocks:
                exec(compile(block, str(PAGE), "exec"), names)
        return names

    keras.utils.set_random_seed(0)
    run("#")
    run("Distillation")
    return run, names


@on_tensorflow
def test_every_section_is_run(page):
    text = PAGE.read_text()
    assert re.findall(r"^## (\w+)", text, re.MULTILINE) == [
        "Distillation",
        "Quantization",
        "KerasTuner",
        "Copies",
        "Lottery",
        "TensorBoard",
    ]


def _accuracy(model, names):
    predicted = model.predict(names["x_test"], verbose=0).argmax(axis=-1)
    return np.mean(predicted == names["y_test"])


@on_tensorflow
def test_the_student_is_pruned_and_learns(page):
    names = page[1]
    history = names["history"].history
    assert history["sparsity"][3:] == pytest.approx([0.9] * 5, abs=1e-4)
    teacher, student = names["teacher"], names["student"]
    assert _accuracy(student, names) > _accuracy(teacher, names) - 0.05
    stripped = kprune.strip(student)
    assert_equal_outputs(student, stripped, names["x_test"][:50], 1e-5)


@on_tensorflow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_int8_keeps_zeros_and_outputs(page):
    run, names = page
    floats = kprune.strip(names["student"])
    quantized = run("Quantization")["stripped"]
    for name in ("hidden", "logits"):
        kernel = numpy(quantized.get_layer(name).kernel)
        zeros = numpy(floats.get_layer(name).kernel) == 0
        assert kernel.dtype == "int8"
        assert zeros.mean() > 0.5
        assert not kernel[zeros].any()
    expected = names["expected"]
    outputs = quantized.predict(names["x_test"], verbose=0)
    assert np.abs(outputs - expected).max() < 0.05 * np.abs(expected).max()
    assert np.mean(outputs.argmax(-1) == expected.argmax(-1)) > 0.98


@on_tensorflow
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
@pytest.mark.filterwarnings("ignore:(currentThread|getName)\\(\\) is deprec")
def test_the_tuner_finds_a_sparsity(page):
    pytest.importorskip("keras_tuner")
    run, names = page
    names = run("KerasTuner")
    tuner = names["tuner"]
    chosen = tuner.get_best_hyperparameters()[0].get("sparsity")
    assert kprune.sparsity(names["best"]) == pytest.approx(chosen, abs=1e-3)
    accuracy = _accuracy(names["stripped"], names)
    assert accuracy >= names["dense"] - 0.021
    tried = [
        (trial.score, trial.hyperparameters.get("sparsity"))
        for trial in tuner.oracle.get_best_trials(3)
    ]
    assert len(tried) == 3
    good = [sparsity for score, sparsity in tried if score < 1]
    assert tried[0][0] == pytest.approx(1 - chosen, abs=1e-3)
    assert chosen == max(good)


@on_tensorflow
def test_copies_are_prunable_and_train(page):
    run, names = page
    names = run("Copies")
    copy, student = names["copy"], names["student"]
    assert kprune.sparsity(copy) == kprune.sparsity(student)
    assert_equal_outputs(copy, student, names["x_test"][:50])
    fresh = names["compiled"](keras.models.clone_model(student))
    assert kprune.sparsity(fresh) == 0
    history = fresh.fit(
        names["x"],
        names["y"],
        epochs=2,
        verbose=0,
        callbacks=[kprune.PruningScheduler(0.6)],
    ).history
    assert history["sparsity"][-1] == pytest.approx(0.6, abs=1e-3)
    assert history["loss"][-1] < history["loss"][0]
    # Folds of one unpruned epoch, as the page warns of, stay below.
    assert len(names["scores"]) == 2
    assert names["scores"].min() > 0.8


@on_tensorflow
def test_what_a_ticket_lost_stays_away(page):
    run, _ = page
    ticket = run("Lottery")["ticket"]
    assert kprune.sparsity(ticket) == 0.875
    assert _accuracy(ticket, page[1]) > 0.8


@on_tensorflow
def test_tensorboard_shows_each_layer(page):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator
    from tensorflow import make_ndarray

    run, names = page
    model = run("TensorBoard")["model"]
    events = event_accumulator.EventAccumulator(
        str(names["folder"] / "logs" / "train")
    )
    events.Reload()
    shown = {
        tag: [
            float(make_ndarray(event.tensor_proto))
            for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
        if "sparsity" in tag
    }
    assert set(shown) == {
        "epoch_sparsity",
        "epoch_sparsity/hidden",
        "epoch_sparsity/logits",
    }
    assert shown["epoch_sparsity"] == pytest.approx([0.7, *[0.8] * 3], abs=1e-3)
    for layer in model.layers:
        of_layer = shown[f"epoch_sparsity/{layer.layer.name}"]
        assert len(of_layer) == 4
        assert of_layer[-1] == pytest.approx(layer.sparsity)
    assert set(model.history.history) == {"accuracy", "loss", "sparsity"}


def test_filters_of_a_student_go_with_what_reads_them():
    def net():
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(8, 3, name="conv1"),
                layers.BatchNormalization(),
                layers.Conv2D(8, 3, activation="relu", name="conv2"),
                layers.Flatten(),
                layers.Dense(3, name="logits"),
            ]
        )

    teacher = net()
    student = kprune.make_prunable(net())
    distiller = keras.distillation.Distiller(
        teacher,
        student,
        [
            keras.distillation.LogitsDistillation(),
            # Makes the distiller hold one more model with these layers.
            keras.distillation.FeatureDistillation(
                teacher_layer_name="conv2", student_layer_name="conv2"
            ),
        ],
    )
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 8, 8, 1)).astype("float32")
    history = (
        compiled(distiller)
        .fit(
            x,
            generator.integers(0, 3, 32),
            epochs=2,
            verbose=0,
            callbacks=[kprune.PruningScheduler(0.5)],
        )
        .history
    )
    # Half of the outputs of both convolutions, and half of the inputs too.
    sparsities = [layer.sparsity for layer in prunable_layers(student)]
    assert sparsities == pytest.approx([0.5, 0.75, 0.5], abs=1e-2)
    assert history["sparsity"][-1] == kprune.sparsity(student)
    stripped = kprune.strip(student)
    assert [stripped.get_layer(f"conv{i}").filters for i in (1, 2)] == [4, 4]
    assert_equal_outputs(student, stripped, x[:4], 1e-5)
