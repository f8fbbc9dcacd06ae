"""The command `kprune`: files in, files and tables out, exit codes."""

import io
import json
import os
import pathlib
import subprocess
import sys
import sysconfig

import keras
import numpy as np
import pytest
from files import contents
from keras import layers

import kprune
from kprune.command_line import commands, main
from kprune.tflite import interpreter as tflite

ROOT = str(pathlib.Path(kprune.__file__).parent.parent)
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
    many = np.random.default_rng(1).normal(size=(96, 8, 8, 3))
    many = many.astype("float32")
    np.save("many.npy", many)
    targets = many.mean(axis=(1, 2)) @ np.ones((3, 4), "float32")
    np.savez("many.npz", x=many, y=targets)
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


def pruned_here(**arguments):
    """What `kprune prune` should make of the model, as a plain one."""
    model = kprune.make_prunable(keras.saving.load_model("dense.keras"))
    kprune.prune(model, 0.5, **arguments)
    return kprune.strip(model)


def interpreter_of(path):
    interpreter = tflite.load(path)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    (made,) = interpreter.get_output_details()
    return interpreter, given, made


def outputs_of_tflite(path, x):
    interpreter, given, made = interpreter_of(path)
    found = []
    for image in x:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(made["index"])[0])
    return np.array(found)


FILTERS = ("--granularity", "filter")
HALF_OF_THE_FILTERS = ("--sparsity", "0.5", *FILTERS)


@TENSORFLOW_ONLY
def test_prune_fits_what_stays_and_exports(folder, capsys):
    x = np.load("many.npy")
    arguments = ["prune", "dense.keras", "small.tflite", *HALF_OF_THE_FILTERS]
    told = run(capsys, *arguments, "--data", "many.npy")
    assert told["bytes"] == pathlib.Path("small.tflite").stat().st_size
    repair = told["reconstruction"]
    assert repair["samples"] == 96
    logits = next(r for r in repair["layers"] if r["name"] == "logits")
    assert logits["after"] < logits["before"]
    expected = pruned_here(granularity="filter", data=x, reconstruct=True)
    assert expected.get_layer("conv").filters == 8
    np.testing.assert_allclose(
        outputs_of_tflite("small.tflite", x),
        expected.predict(x, verbose=0),
        atol=1e-5,
    )
    # It did the model good, and the table says what was done.
    dense = keras.saving.load_model("dense.keras").predict(x, verbose=0)
    masks_only = pruned_here(granularity="filter").predict(x, verbose=0)
    fitted = expected.predict(x, verbose=0)
    assert np.mean((fitted - dense) ** 2) < np.mean((masks_only - dense) ** 2)
    assert main([*arguments, "--data", "many.npy", "--force"]) == 0
    assert "Reconstructed from 96 samples" in capsys.readouterr().out


def test_prune_to_a_budget(folder, capsys):
    arguments = ["prune", "dense.keras", "small.keras", "--budget"]
    told = run(capsys, *arguments, "parameters=0.5,macs=0.9", *FILTERS)
    met = told["budget"]
    small = keras.saving.load_model("small.keras")
    assert met["reached"]["parameters"] == small.count_params()
    assert met["binds"] == "parameters" and met["asked"]["macs"] > 0
    told = run(
        capsys, *arguments, f"bytes={told['bytes']}", *FILTERS, "--force"
    )
    assert told["bytes"] == told["budget"]["reached"]["bytes"]
    assert main([*arguments, "macs=0.5", *FILTERS, "--force"]) == 0
    assert "macs (binds)" in capsys.readouterr().out
    # Nothing is written where it cannot be met.
    before = pathlib.Path("small.keras").read_bytes()
    said = failure(capsys, *arguments, "macs=1e-4", *FILTERS, "--force")
    assert "macs can fall to" in said
    said = failure(capsys, *arguments, "flops=0.5", *FILTERS, "--force")
    assert "Received: flops" in said
    assert pathlib.Path("small.keras").read_bytes() == before
    for wrong in (["macs:0.5"], ["macs=0.5", "--sparsity", "0.5"]):
        with pytest.raises(SystemExit):
            main([*arguments, *wrong, *FILTERS])
    assert "not allowed with" in capsys.readouterr().err


def test_search(folder, capsys):
    arguments = ["search", "dense.keras", "small.keras", *FILTERS]
    x = np.load("many.npy")
    dense = keras.saving.load_model("dense.keras")
    # Classes that are the dense model's own: its accuracy is 1.
    classes = np.argmax(dense.predict(x, verbose=0), axis=-1)
    np.savez("digits.npz", x=x, y=classes)
    asked = ["--at-least", "0.8", "--data", "digits.npz", "--trials", "2"]
    told = run(capsys, *arguments, *asked, "--folder", "trials")
    best = told["search"]["best"]
    small = keras.saving.load_model("small.keras")
    assert best["parameters"] == small.count_params() < dense.count_params()
    hits = np.argmax(small.predict(x, verbose=0), axis=-1) == classes
    assert best["score"] == np.mean(hits) >= 0.8
    spread = np.sqrt(np.mean(hits) * np.mean(~hits) / 96)
    assert best["standard_error"] == pytest.approx(spread)
    assert len(told["search"]["trials"]) == 2
    assert told["search"]["dense"]["score"] == 1
    # Of the trials that are kept none is made again.
    assert main([*arguments, *asked, "--folder", "trials", "--force"]) == 0
    printed = capsys.readouterr().out
    assert "2 of at most 2 trials" in printed and "small.keras: " in printed
    asked[1] = "1.1"
    said = failure(capsys, *arguments, *asked, "--force")
    assert "The dense model does not reach at_least=1.1" in said


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_prune_shows_a_terminal_how_many_layers_are_fitted(
    folder, capsys, monkeypatch
):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    arguments = ["prune", "dense.keras", "small.keras", *HALF_OF_THE_FILTERS]
    told = run(capsys, *arguments, "--data", "many.npy")  # JSON alone
    assert len(told["reconstruction"]["layers"]) == 2
    assert "2/2" in terminal.getvalue()


@pytest.mark.parametrize(
    ("options", "same"),
    [
        (("--data", "many.npy", "--criterion", "obs"), {"criterion": "obs"}),
        (
            (
                *("--data", "many.npz", "--criterion", "taylor"),
                *("--loss", "mse", "--allocation", "global"),
            ),
            {"criterion": "taylor", "loss": "mse", "allocation": "global"},
        ),
    ],
    ids=["inputs", "inputs and targets"],
)
@pytest.mark.parametrize("reconstruct", [True, False])
def test_prune_by_what_the_data_says(
    folder, capsys, options, same, reconstruct
):
    arguments = ["prune", "dense.keras", "small.keras", *HALF_OF_THE_FILTERS]
    if not reconstruct:
        options = (*options, "--no-reconstruct")
    told = run(capsys, *arguments, *options)
    assert ("reconstruction" in told) == reconstruct
    with np.load("many.npz") as file:
        data = file["x"], file["y"]
    expected = pruned_here(
        granularity="filter", data=data, reconstruct=reconstruct, **same
    )
    small = keras.saving.load_model("small.keras")
    assert small.count_params() < 0.6 * (28 * 16 + 17 * 4)
    for found, wanted in zip(small.get_weights(), expected.get_weights()):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("granularity", [None, "filter", "unstructured"])
def test_prune_without_data_sets_masks_only(folder, capsys, granularity):
    command = ["prune", "dense.keras", "small.keras", "--sparsity", "0.5"]
    if granularity is not None:
        command += ["--granularity", granularity]
    assert "reconstruction" not in run(capsys, *command)
    small = keras.saving.load_model("small.keras")
    if granularity != "unstructured":
        assert small.get_layer("conv").filters == 8
    expected = pruned_here(granularity=granularity)
    for found, wanted in zip(
        small.get_weights(), expected.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_prune_takes_an_array_for_each_input(folder, capsys):
    inputs = {name: keras.Input((6,), name=name) for name in ("left", "right")}
    both = layers.Concatenate()(list(inputs.values()))
    hidden = layers.Dense(16, activation="relu", name="hidden")(both)
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    model.save("two.keras")
    generator = np.random.default_rng(0)
    np.savez(
        "two.npz", **{name: generator.normal(size=(96, 6)) for name in inputs}
    )
    told = run(
        capsys,
        *("prune", "two.keras", "small.keras", *HALF_OF_THE_FILTERS),
        *("--data", "two.npz"),
    )
    assert told["reconstruction"]["samples"] == 96
    small = keras.saving.load_model("small.keras")
    assert small.get_layer("hidden").units == 8


@TENSORFLOW_ONLY
@pytest.mark.parametrize("name", ["many.npy", "many.npz"])
def test_prune_quantizes_by_its_data(folder, capsys, name):
    x = np.load("many.npy")
    command = ["prune", "dense.keras", "int8.tflite", *HALF_OF_THE_FILTERS]
    int8 = ("--quantize", "int8", "--integer-io")
    run(capsys, *command, *int8, "--data", name)
    _, given, _ = interpreter_of("int8.tflite")
    scale, _ = given["quantization"]
    assert scale == pytest.approx((x.max() - x.min()) / 255, rel=1e-3)
    # Others can be given.
    np.save("large.npy", 10 * x)
    others = ("--representative-data", "large.npy", "--force")
    run(capsys, *command, *int8, "--data", name, *others)
    _, given, _ = interpreter_of("int8.tflite")
    assert given["quantization"][0] == pytest.approx(10 * scale, rel=1e-3)


@TENSORFLOW_ONLY
def test_sensitivity(folder, capsys):
    command = ["sensitivity", "dense.keras", "--data", "data.npz"]
    command += ["--sparsities", "0.5", "0.9", "--resume", "scores.json"]
    told = run(capsys, *command, "--granularity", "filter")
    x, y = (np.load("data.npz")[name] for name in ("x", "y"))

    def accuracy(model):
        return float(np.mean(model.predict(x, verbose=0).argmax(-1) == y))

    dense = keras.saving.load_model("dense.keras")
    alone = kprune.make_prunable(dense)
    kprune.prune(alone, 0.9, granularity="filter")
    assert told["dense"] == accuracy(dense)
    (conv,) = told["layers"]
    assert conv["name"] == "conv" and conv["filters"]
    assert conv["scores"][1] == accuracy(alone)
    assert (
        len(json.loads(pathlib.Path("scores.json").read_text())["scores"]) == 3
    )
    assert "another `granularity`" in failure(capsys, *command)
    assert "'x' and 'y'" in failure(capsys, *command[:3], "x.npy")


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
    ("command", "name", "options"),
    [
        ("strip", "pruned", []),
        ("compact", "dense", []),
        ("export", "pruned", []),
        ("prune", "dense", ["--sparsity", "0.5"]),
    ],
)
def test_nothing_is_overwritten_unasked(folder, capsys, command, name, options):
    output = pathlib.Path("there.keras")
    output.write_text("something")
    arguments = [command, f"{name}.keras", "there.keras", *options]
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


PRUNE = ("prune", "dense.keras", "b.keras", "--sparsity")


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
        ([*PRUNE, "0.5", "--criterion", "obs"], "is computed from data"),
        ([*PRUNE, "0.5", "--criterion", "best"], "Unknown criterion"),
        ([*PRUNE, "0.5", "--allocation", "fair"], "Unknown allocation"),
        ([*PRUNE, "0.5", "--granularity", "rows"], "Unknown granularity"),
        ([*PRUNE, "1.5"], "1.5"),
        ([*PRUNE, "0.5", "--data", "none.npy"], "There is no file 'none.npy'"),
        ([*PRUNE, "0.5", "--data", "notes.npy"], "no `.npy` or `.npz` file"),
        (
            [
                *(*PRUNE, "0.5", "--data", "many.npy"),
                *("--criterion", "taylor", "--loss", "mse"),
            ],
            "targets",
        ),
        (
            [*PRUNE, "0.5", "--data", "many.npz", "--criterion", "taylor"],
            "loss",
        ),
        (
            [
                *(*PRUNE, "0.5", "--data", "many.npz"),
                *("--criterion", "taylor", "--loss", "none_such"),
            ],
            "none_such",
        ),
    ],
)
def test_what_fails_says_why(folder, capsys, arguments, words):
    before = contents(folder)
    assert words in failure(capsys, *arguments)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["shrink", "a.keras"],
        ["export", "a.keras"],
        ["prune", "a.keras", "b.keras"],
        ["search", "a.keras", "b.keras", "--data", "data.npz"],
    ],
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


@pytest.mark.parametrize("is_script", [True, False], ids=["script", "module"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["prune", "--help"], 0), (["export", "a.keras"], 2)],
)
def test_arguments_are_read_before_anything_is_imported(
    tmp_path, is_script, arguments, code
):
    script = os.path.join(sysconfig.get_path("scripts"), "kprune")
    # Nothing in the current folder stands for a module.
    for name in ("argparse", "json", "keras", "numpy", "pathlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('mine')")
    started = [script] if is_script else ["-m", "kprune"]
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *started, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == code
    said = ended.stdout if code == 0 else ended.stderr
    assert "usage: kprune" in said
    imported = {
        line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()
    }
    assert "kprune.command_line.arguments" in imported
    assert not {"keras", "numpy", "rich", "tensorflow"} & imported


def test_the_current_folder_is_imported_from_on_request_only(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("own_module.py").write_text("")
    seen = []

    def graph(options, steps):
        seen.append(str(tmp_path) in sys.path)
        return {}, ""

    monkeypatch.setattr(commands, "graph", graph)
    assert main(["graph", "a.keras"]) == 0
    assert main(["graph", "a.keras", "--import", "own_module"]) == 0
    assert seen == [False, True]
    assert str(tmp_path) not in sys.path
    del sys.modules["own_module"]
