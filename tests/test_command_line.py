"""The command `kprune`: files in, files and tables out, exit codes."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from files import contents
from keras import layers

import kprune
from kprune.command_line import main

TENSORFLOW_ONLY = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="`.tflite` files are written by the TensorFlow backend",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a dense and a pruned model."""
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="logits"),
        ],
        name="net",
    )
    model.save("dense.keras")
    pruned = kprune.make_prunable(model)
    kprune.prune(pruned, 0.5, granularity="filter")
    pruned.save("pruned.keras")
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")
    np.save("x.npy", x)
    pathlib.Path("notes.npy").write_text("no numbers")
    np.savez("data.npz", x=x, y=np.arange(20) % 4)
    whole = pathlib.Path("data.npz").read_bytes()
    pathlib.Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez("empty.npz")
    np.savez("objects.npz", x=x, y=np.array([None, "cat"]))
    return tmp_path


def run(capsys, *arguments):
    """What a command that succeeds prints as JSON."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys, *arguments):
    """What a command that fails says."""
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("kprune: error: ")
    return captured.err


def test_report(folder, capsys):
    told = run(capsys, "report", "pruned.keras")
    of_model = kprune.report(keras.saving.load_model("pruned.keras"))
    assert told == json.loads(json.dumps(of_model.to_dict()))
    assert told["filters_removed"] == 8
    assert main(["report", "pruned.keras"]) == 0
    assert "8 of 16" in capsys.readouterr().out


@TENSORFLOW_ONLY
def test_report_side_by_side(folder, capsys):
    for name in ("dense", "pruned"):
        assert main(["export", f"{name}.keras", f"{name}.tflite"]) == 0
    capsys.readouterr()
    told = run(
        capsys,
        *("report", "pruned.keras", "--dense", "dense.keras"),
        *("--data", "data.npz", "--latency"),
        *("--files", "dense.tflite", "pruned.tflite"),
    )["comparison"]
    assert told["filters"] == {"dense": 20, "pruned": 12, "ratio": 0.6}
    assert 0 <= told["accuracy"]["pruned"] <= 1
    (file,) = told["files"].values()
    assert (
        file["bytes"]["pruned"] == pathlib.Path("pruned.tflite").stat().st_size
    )
    assert file["latency"]["control"]["median"] > 0


def test_files_of_the_same_name_are_both_compared(folder, capsys):
    for name in ("a", "b"):
        pathlib.Path(name).mkdir()
        pathlib.Path(name, "m.keras").write_bytes(
            pathlib.Path("pruned.keras").read_bytes()
        )
    command = ["report", "pruned.keras", "--dense", "dense.keras"]
    first = ["--files", "dense.keras", "a/m.keras"]
    cases = [
        ([*first], ["m.keras"]),
        (
            [*first, "--files", "dense.keras", "b/m.keras"],
            ["a/m.keras", "b/m.keras"],
        ),
        (
            [*first, "--files", "pruned.keras", "a/m.keras"],
            ["a/m.keras of dense.keras", "a/m.keras of pruned.keras"],
        ),
    ]
    for files, names in cases:
        told = run(capsys, *command, *files)["comparison"]
        assert list(told["files"]) == names


def test_strip_and_compact(folder, capsys):
    told = run(capsys, "strip", "pruned.keras", "small.keras")
    small = keras.saving.load_model("small.keras")
    assert small.get_layer("conv").filters == 8
    assert told["bytes"] == pathlib.Path("small.keras").stat().st_size
    assert told["largest_difference"] == 0
    run(capsys, "strip", "pruned.keras", "zeros.keras", "--keep-shapes")
    zeros = keras.saving.load_model("zeros.keras").get_layer("conv")
    assert type(zeros) is layers.Conv2D and zeros.filters == 16
    kernel = keras.ops.convert_to_numpy(zeros.kernel)
    assert (kernel == 0).all(axis=(0, 1, 2)).sum() == 8
    # The channels that do nothing are found without masks too.
    run(capsys, "compact", "zeros.keras", "compact.keras")
    compact = keras.saving.load_model("compact.keras")
    assert compact.get_layer("conv").filters == 8


@TENSORFLOW_ONLY
def test_export(folder, capsys):
    plain = run(capsys, "export", "pruned.keras", "model.tflite")
    half = run(
        capsys, "export", "pruned.keras", "half.tflite", "--quantize", "float16"
    )
    assert half["bytes"] < plain["bytes"]
    whole = run(
        capsys,
        *("export", "pruned.keras", "int8.tflite", "--quantize", "int8"),
        *("--representative-data", "x.npy", "--integer-io"),
    )
    assert whole["format"] == "tflite"
    saved = run(capsys, "export", "pruned.keras", "saved")
    assert saved["format"] == "saved_model"
    assert (
        main(["export", "pruned.keras", "b.tflite", "--sparse", "never"]) == 0
    )
    out = capsys.readouterr().out
    assert "bytes" in out and "checked on" in out


@TENSORFLOW_ONLY
def test_a_sparse_file_that_is_wrong_on_other_cpus(folder, capsys):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.ZeroPadding2D(),
            layers.Conv2D(8, 3, strides=2),
            layers.Conv2D(64, 1, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 1),
            layers.GlobalAveragePooling2D(),
        ]
    )
    model = kprune.make_prunable(model)
    kprune.prune(model, 0.9, granularity="unstructured")
    model.save("net.keras")
    told = run(capsys, "export", "net.keras", "net.tflite")
    assert "MAX_POOL_2D" in told["note"] and not told["is_sparse"]
    refused = ["export", "net.keras", "refused.tflite", "--sparse", "always"]
    assert main(refused) != 0
    assert "would compute wrong numbers" in capsys.readouterr().err
    assert not pathlib.Path("refused.tflite").exists()


@TENSORFLOW_ONLY
def test_cost_of_files(folder, capsys):
    told = run(capsys, "cost", "pruned.keras")
    assert told["macs"] == 6 * 6 * 27 * 16 + 16 * 4
    assert told["bytes"] == pathlib.Path("pruned.keras").stat().st_size
    for name in ("dense", "pruned"):
        assert main(["export", f"{name}.keras", f"{name}.tflite"]) == 0
    capsys.readouterr()
    arguments = ["pruned.tflite", "--reference", "dense.tflite"]
    told = run(capsys, "cost", *arguments)
    assert told["macs"] == 6 * 6 * 27 * 8 + 8 * 4
    assert told["latency"]["rounds"] > 0
    assert told["sparse_inference"]["is_eligible"] is False
    assert told["sparse_inference"]["verdict"] == "no gain"
    assert run(capsys, "report", "pruned.tflite")["macs"] == told["macs"]
    assert main(["cost", "pruned.tflite"]) == 0
    assert "Sparse inference" in capsys.readouterr().out


def test_graph(folder, capsys):
    told = run(capsys, "graph", "dense.keras")
    assert len(told["groups"]) == 16 + 4
    first, last = told["groups"][0], told["groups"][-1]
    assert first["members"] == ["conv.kernel out 0", "logits.kernel in 0"]
    assert first["stays"] is None and "output" in last["stays"]
    assert main(["graph", "dense.keras"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("group 0: conv.kernel out 0, logits.kernel in 0\n")


@pytest.mark.parametrize(
    ("command", "name"),
    [("strip", "pruned"), ("compact", "dense"), ("export", "pruned")],
)
def test_nothing_is_overwritten_unasked(folder, capsys, command, name):
    output = pathlib.Path("there.keras")
    output.write_text("something")
    arguments = [command, f"{name}.keras", "there.keras"]
    assert "--force" in failure(capsys, *arguments)
    assert output.read_text() == "something"
    assert main([*arguments, "--force"]) == 0
    assert keras.saving.load_model(output).name == "net"


def test_force_spares_a_folder_of_other_things(folder, capsys):
    pathlib.Path("thesis").mkdir()
    pathlib.Path("thesis/chapter.txt").write_text("one")
    before = contents(folder)
    said = failure(capsys, "export", "pruned.keras", "thesis", "--force")
    assert "holds something else" in said
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "none.keras"], "There is no file 'none.keras'"),
        (["cost", "x.npy"], "reads '.keras', '.h5' and '.tflite' files"),
        (["graph", "a.tflite"], "pass the `.keras` file that it was made of"),
        (["strip", "a.tflite", "b.keras"], "pass the `.keras` file"),
        (["strip", "pruned.keras", "b.tflite"], "named '.keras'"),
        (["report", "a.tflite", "--dense", "dense.keras"], "no masks"),
        (["report", "a.tflite", "--latency"], "`kprune cost` and --reference"),
        (["report", "pruned.keras", "--latency"], "compare two models"),
        (
            [
                *("report", "pruned.keras", "--dense", "dense.keras"),
                *("--latency", "--files", "dense.keras", "pruned.keras"),
            ],
            "times pairs of `.tflite` files",
        ),
        (
            [
                *("report", "pruned.keras", "--dense", "dense.keras"),
                *("--data", "cut.npz"),
            ],
            "'cut.npz' is no `.npy` or `.npz` file",
        ),
        (
            [
                *("report", "pruned.keras", "--dense", "dense.keras"),
                *("--data", "objects.npz"),
            ],
            "'objects.npz' is no `.npy` or `.npz` file",
        ),
        (["export", "pruned.keras", "b.xyz"], "suffix '.xyz'"),
        (
            ["report", "pruned.keras", "--data", "data.npz"],
            "pass the other one as `dense`",
        ),
        (
            [
                *("report", "pruned.keras", "--dense", "dense.keras"),
                *("--data", "x.npy"),
            ],
            "with the arrays 'x' and 'y'",
        ),
        (
            [
                *("export", "pruned.keras", "b.tflite", "--quantize", "int8"),
                *("--representative-data", "notes.npy"),
            ],
            "no `.npy` or `.npz` file of numbers",
        ),
        (
            [
                *("export", "pruned.keras", "b.tflite", "--quantize", "int8"),
                *("--representative-data", "empty.npz"),
            ],
            "'empty.npz' is empty",
        ),
        (["report", "pruned.keras", "--import", "no_such_one"], "no_such_one"),
    ],
)
def test_what_fails_says_why(folder, capsys, arguments, words):
    before = contents(folder)
    assert words in failure(capsys, *arguments)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "arguments", [[], ["prune", "a.keras"], ["export", "a.keras"]]
)
def test_wrong_arguments(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: kprune" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith("kprune ")


def test_nobody_reads_on(folder):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "kprune", "graph", "dense.keras"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    os.close(writer)
    assert ended.returncode == 141
    assert "Traceback" not in ended.stderr and "Broken" not in ended.stderr


def test_code_in_files_runs_only_on_request(folder, capsys):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Lambda(lambda x: 2 * x, output_shape=(4,)),
            layers.Dense(3),
        ]
    )
    model.save("code.keras")
    assert "--no-safe-mode" in failure(capsys, "report", "code.keras", "--json")
    # It holds for the process, up to the `clear_session` of the next test.
    allowed = run(capsys, "report", "code.keras", "--no-safe-mode")
    assert allowed["weights"] == 12


LAYER_OF_A_USER = """
import keras

@keras.saving.register_keras_serializable()
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_layers_of_a_user_are_imported(folder, capsys, monkeypatch):
    pathlib.Path("own_layers.py").write_text(LAYER_OF_A_USER)
    monkeypatch.syspath_prepend(str(folder))
    import own_layers

    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), own_layers.Twice()]
    )
    model.save("own.keras")
    # As in a process that has not imported them.
    monkeypatch.delitem(sys.modules, "own_layers")
    known = dict(keras.saving.get_custom_objects())
    keras.saving.get_custom_objects().clear()
    try:
        assert "has layers of your own" in failure(capsys, "graph", "own.keras")
        assert main(["graph", "own.keras", "--import", "own_layers"]) == 0
    finally:
        keras.saving.get_custom_objects().clear()
        keras.saving.get_custom_objects().update(known)
    assert capsys.readouterr().out.startswith("group 0")
