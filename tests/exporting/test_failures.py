"""Exports that fail: what was there stays, and nothing else is left."""

import errno
import itertools
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from files import contents, on_tensorflow
from keras import layers
from models import Untraceable

import kprune
from kprune.exporting import (
    checking,
    keras_file,
    litert,
    other_backend,
    saved_model,
)


def _small(sparsity=0.0):
    """A model that is written in no time."""
    model = keras.Sequential(
        [keras.Input((8,)), kprune.PrunableDense(8), layers.Dense(3)]
    )
    return kprune.prune(model, sparsity) if sparsity else model


NAMES = ["model", "model.tflite", "model.keras"]
FAILURES = list(itertools.product(["write", "check", "move"], NAMES))
if keras.backend.backend() != "tensorflow":
    # A process on TensorFlow writes all but `.keras`, which takes a while.
    FAILURES = [
        (stage, name)
        for stage, name in FAILURES
        if name == "model.keras" or stage == "check"
    ]


@pytest.mark.parametrize("stage, name", FAILURES)
def test_a_failed_export_leaves_what_was_there(
    tmp_path, monkeypatch, name, stage
):
    path = tmp_path / name
    kprune.export(_small(), path)
    before = contents(tmp_path)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    moves = []

    def fail_to_move(self, to):
        moves.append(to)
        # The folder that was there is put back by another rename.
        if pathlib.Path(to) == path and moves.count(to) == 1:
            fail()
        return os.rename(self, to)

    if stage == "move":
        monkeypatch.setattr(pathlib.Path, "rename", fail_to_move)
        monkeypatch.setattr(pathlib.Path, "replace", fail_to_move)
    elif stage == "check":
        monkeypatch.setattr(checking.Check, "difference", fail)
    else:
        for writer in (saved_model, litert, keras_file):
            monkeypatch.setattr(writer, "write", fail)
    with pytest.raises(OSError, match="Nothing was replaced") as caught:
        kprune.export(_small(0.5), path)
    assert caught.value.errno == errno.ENOSPC
    assert contents(tmp_path) == before


def test_a_disk_that_is_full_half_way(tmp_path, monkeypatch):
    for name in NAMES:
        kprune.export(_small(), tmp_path / name)
    before = contents(tmp_path)

    def write_half(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save_half(model, path):
        write_half(path, b"PK" * 100)

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_half)
    monkeypatch.setattr(keras.Model, "save", save_half)
    for name in ("model.tflite", "model.keras"):
        # Elsewhere than on TensorFlow `.tflite` starts from a `.keras`.
        with pytest.raises(OSError, match="could not be written: No space"):
            kprune.export(_small(0.5), tmp_path / name)
        assert contents(tmp_path) == before


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="another process writes SavedModels there",
)
def test_a_disk_that_is_full_for_a_saved_model(tmp_path, monkeypatch):
    import tensorflow as tf

    kprune.export(_small(), tmp_path / "model")
    before = contents(tmp_path)

    def save(module, path, signatures):
        pathlib.Path(path).mkdir()
        (pathlib.Path(path) / "saved_model.pb").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(
            None, None, "No space left on device"
        )

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(OSError, match="could not be written: No space") as e:
        kprune.export(_small(0.5), tmp_path / "model")
    assert e.value.errno == errno.ENOSPC
    assert contents(tmp_path) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_limit_on_the_size_of_files(tmp_path):
    """The operating system itself refuses to write on, in every writer."""
    program = """if True:
        import pathlib, resource, signal, sys
        import keras, kprune
        folder = pathlib.Path(sys.argv[1])
        model = keras.Sequential([
            keras.Input((64,)), keras.layers.Dense(2000),
        ])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        for name in ("model", "model.tflite", "model.keras"):
            try:
                kprune.export(model, folder / name)
            except OSError as error:
                assert "Nothing was replaced" in str(error), error
            else:
                raise AssertionError(name)
    """
    for name in NAMES:
        kprune.export(_small(), tmp_path / name)
    before = contents(tmp_path)
    finished = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert contents(tmp_path) == before


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="no other process needed"
)
def test_the_process_that_writes_says_why_it_failed(tmp_path):
    @keras.saving.register_keras_serializable("only here")
    class Own(layers.Layer):
        def call(self, x):
            return x + 1

    model = keras.Sequential([keras.Input((4,)), Own()])
    for name in ("model", "model.tflite"):
        with pytest.raises(
            ValueError, match="(?s)layers of your own.*Own"
        ) as e:
            kprune.export(model, tmp_path / name)
        assert "KERAS_BACKEND=tensorflow" in str(e.value)
    assert not contents(tmp_path)


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    load = litert.load

    def wrong(*arguments):
        run = load(*arguments)
        return lambda inputs: [output + 0.1 for output in run(inputs)]

    monkeypatch.setattr(litert, "load", wrong)
    with pytest.raises(RuntimeError, match="does not compute.*differs by 0.1"):
        kprune.export(_small(0.5), tmp_path / "model.tflite")
    assert not contents(tmp_path)


def test_weights_that_are_nan_are_refused(tmp_path):
    model = _small()
    model.layers[-1].bias.assign(np.full(3, np.nan))
    with pytest.raises(RuntimeError, match="nan weights"):
        kprune.export(model, tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds something else.*chapter1.tex"):
        kprune.export(_small(0.5), folder)
    kprune.export(_small(0.5), tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("precious")
    for place in ("assets", "variables"):
        own = tmp_path / f"with {place}"
        kprune.export(_small(0.5), own)
        (own / place).mkdir(exist_ok=True)
        (own / place / "photo.jpg").write_text("precious")
        with pytest.raises(ValueError, match=f"{place}/photo.jpg"):
            kprune.export(_small(0.5), own)
        assert (own / place / "photo.jpg").exists()
    with pytest.raises(ValueError, match="holds something else.*notes.txt"):
        kprune.export(_small(0.5), tmp_path / "model")
    assert (tmp_path / "model" / "notes.txt").read_text() == "precious"
    assert (folder / "chapter1.tex").read_text() == "precious"


def test_bad_paths(tmp_path):
    model = _small(0.5)
    with pytest.raises(ValueError, match="'.pt' is of no format.*'.tflite'"):
        kprune.export(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="Unknown format.*'saved_model'"):
        kprune.export(model, tmp_path / "model", format="tf")
    with pytest.raises(ValueError, match="named '.keras'"):
        kprune.export(model, tmp_path / "model.h5", format="keras")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        kprune.export(model, tmp_path / "file")
    with pytest.raises(ValueError, match="cannot be written to"):
        kprune.export(model, tmp_path / "file" / "model.tflite")
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        kprune.export(model, tmp_path / "folder.tflite")


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (".", tmp_path):
        with pytest.raises(ValueError, match="current folder.*another path"):
            kprune.export(_small(), path)
    assert not list(tmp_path.iterdir())


@on_tensorflow
def test_dead_units_that_int8_cannot_have(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(
                4,
                3,
                activation="relu",
                bias_initializer=keras.initializers.Constant(-99),
            ),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    path = tmp_path / "model.tflite"
    with pytest.raises(
        ValueError, match="LiteRT does not run.*XNNPACK.*dead units.*float16"
    ):
        kprune.export(model, path, quantize="int8", representative_data=x)
    assert not list(tmp_path.iterdir())


@on_tensorflow
def test_a_file_that_litert_does_not_take(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"no flatbuffer")
    run = litert.load(path, _small(), None)
    with pytest.raises(
        ValueError, match="LiteRT does not run the written file of model"
    ):
        run([np.zeros((1, 8), "float32")])


def test_a_model_that_does_not_run(tmp_path):
    class Refuses(layers.Layer):
        def compute_output_shape(self, shape):
            return shape

        def call(self, x):
            raise KeyError("no such value")

    model = keras.Sequential([keras.Input((3,)), Refuses()])
    with pytest.raises(ValueError, match="cannot be run.*KeyError.*no such"):
        kprune.export(model, tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_bad_models(tmp_path):
    with pytest.raises(ValueError, match="not built"):
        kprune.export(keras.Sequential([layers.Dense(2)]), tmp_path / "model")
    model = Untraceable()
    model(np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match="subclass Untraceable"):
        kprune.export(model, tmp_path / "model")
    with pytest.raises(ValueError, match="Expected a `keras.Model`"):
        kprune.export(None, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_keras_files(tmp_path):
    target = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="There is no file"):
        kprune.export(tmp_path / "missing.keras", target)
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(ValueError, match="no `.keras` file, or it is damaged"):
        kprune.export(tmp_path / "text.keras", target)
    kprune.export(_small(0.5), tmp_path / "good.keras")
    content = (tmp_path / "good.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        kprune.export(tmp_path / "cut.keras", target)
    with zipfile.ZipFile(tmp_path / "foreign.keras", "w") as archive:
        archive.writestr("hello.txt", "world")
    with pytest.raises(ValueError, match="cannot be loaded as a Keras model"):
        kprune.export(tmp_path / "foreign.keras", target)
    assert not target.exists()


def test_a_disk_that_is_full_in_the_other_process(tmp_path, monkeypatch):
    (tmp_path / "full_disk.py").write_text(
        "def write(model, path, shapes):\n    raise OSError(28, 'full')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OSError) as caught:
        other_backend.write(
            kprune.strip(_small()), tmp_path / "model", "full_disk", []
        )
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "name", ["before", "for_conversion", "model", "sparse.tflite"]
)
def test_temporary_files_have_no_name_of_a_user(tmp_path, name):
    for _ in range(2):
        kprune.export(_small(), tmp_path / name, format="saved_model")
    result = kprune.export(
        _small(0.9), tmp_path / "files" / name, format="tflite"
    )
    assert result.largest_difference < 1e-5
    assert {p.name for p in tmp_path.iterdir()} == {name, "files"}
    assert [p.name for p in (tmp_path / "files").iterdir()] == [name]


def test_a_failed_export_leaves_no_new_folders(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("it differs")

    monkeypatch.setattr(checking.Check, "difference", fail)
    with pytest.raises(RuntimeError, match="it differs"):
        kprune.export(_small(), tmp_path / "new" / "deep" / "model.keras")
    assert not list(tmp_path.iterdir())
