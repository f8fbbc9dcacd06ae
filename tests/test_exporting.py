"""export: real files, checked, and nothing lost when it fails."""

import gzip
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from models import Untraceable, compiled, convnet, numpy, outputs

import kprune
from kprune.exporting import checking, litert, saved_model

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="reads the file with Keras on TensorFlow",
)


def _pruned():
    return kprune.prune(convnet(), 0.5)


def _x(samples=3):
    generator = np.random.default_rng(0)
    return generator.normal(size=(samples, 28, 28, 1)).astype("float32")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("model", "saved_model"),
        ("model.tflite", "tflite"),
        ("m.keras", "keras"),
    ],
)
def test_what_is_written_computes_the_same(tmp_path, name, format):
    model = _pruned()
    path = tmp_path / "new" / "folder" / name
    result = kprune.export(model, path)
    assert result.path == str(path) and result.format == format
    assert 0 <= result.largest_difference < 1e-5
    files = [f for f in [path, *path.rglob("*")] if f.is_file()]
    assert result.bytes == sum(f.stat().st_size for f in files)
    assert result.gzip_bytes == sum(
        len(gzip.compress(f.read_bytes())) for f in files
    )
    # Nothing else is left behind.
    assert [child.name for child in path.parent.iterdir()] == [name]


@on_tensorflow
def test_saved_model_is_compact_and_loads_everywhere(tmp_path):
    import tensorflow as tf

    model = keras.Sequential(
        [
            keras.Input((64,)),
            kprune.PrunableDense(512, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(512),
            layers.Dense(10),
        ]
    )
    stripped = kprune.strip(model)
    weights = 4 * stripped.count_params()
    result = kprune.export(model, tmp_path / "model")
    assert result.bytes < 1.2 * weights
    x = np.random.default_rng(0).normal(size=(5, 64)).astype("float32")
    (expected,) = outputs(stripped, x)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    signature = loaded.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    (served,) = signature(**{name: tf.constant(x)}).values()
    np.testing.assert_allclose(served, expected, atol=1e-5)
    layer = keras.layers.TFSMLayer(str(tmp_path / "model"))
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=1e-5)
    layer = keras.layers.TFSMLayer(
        str(tmp_path / "model"), call_endpoint="serving_default"
    )
    (served,) = layer(x).values()
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_tflite_has_built_in_operations_only_and_runs(tmp_path):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    model = _pruned()
    kprune.export(model, tmp_path / "model.tflite")
    content = (tmp_path / "model.tflite").read_bytes()
    parsed = schema.ModelT.InitFromPackedBuf(content, 0)
    assert all(code.customCode is None for code in parsed.operatorCodes)
    interpreter = Interpreter(str(tmp_path / "model.tflite"))
    interpreter.allocate_tensors()
    (given,), (wanted,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    assert tuple(given["shape"]) == (1, 28, 28, 1)
    x = _x()
    received = []
    for image in x:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        received.append(interpreter.get_tensor(wanted["index"])[0])
    (expected,) = outputs(kprune.strip(model), x)
    np.testing.assert_allclose(received, expected, atol=1e-5)
    assert len(content) < 1.1 * 4 * kprune.strip(model).count_params() + 4096


def test_zeros_stay_zero_in_tflite(tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    model = keras.Sequential(
        [keras.Input((64,)), kprune.PrunableDense(32, name="logits")]
    )
    kprune.prune(model, 0.75)
    kprune.export(model, tmp_path / "model.tflite")
    parsed = schema.ModelT.InitFromPackedBuf(
        (tmp_path / "model.tflite").read_bytes(), 0
    )
    (tensor,) = (
        t for t in parsed.subgraphs[0].tensors if list(t.shape) == [32, 64]
    )
    data = np.frombuffer(bytes(parsed.buffers[tensor.buffer].data), "float32")
    assert np.count_nonzero(data == 0) == 0.75 * 64 * 32


def test_keras_file_loads_without_kprune(tmp_path):
    kprune.export(_pruned(), tmp_path / "model.keras")
    program = (
        "import sys, keras; sys.modules['kprune'] = None; "
        "model = keras.saving.load_model(sys.argv[1]); "
        "print(model.layers[0].filters)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.keras")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert finished.stdout.strip() == "4", finished.stderr


def test_several_inputs_and_outputs(tmp_path):
    first = keras.Input((4,), name="first")
    second = keras.Input((3,), dtype="int32", name="second")
    x = layers.Embedding(2, 4)(second)
    x = layers.Flatten()(x)
    x = layers.Concatenate()([kprune.PrunableDense(5)(first), x])
    model = keras.Model(
        {"first": first, "second": second},
        {"sum": layers.Dense(2)(x), "hidden": x},
    )
    kprune.prune(model, 0.5)
    for name in ("model", "model.tflite", "model.keras"):
        result = kprune.export(model, tmp_path / name)
        assert result.largest_difference < 1e-5


def test_a_plain_model_and_the_path_of_one(tmp_path):
    plain = kprune.strip(_pruned())
    kprune.export(plain, tmp_path / "plain.keras")
    result = kprune.export(tmp_path / "plain.keras", tmp_path / "plain.tflite")
    assert result.bytes == (tmp_path / "plain.tflite").stat().st_size


def test_the_state_of_the_optimizer_is_left_behind(tmp_path):
    plain = kprune.strip(_pruned())
    alone = kprune.export(plain, tmp_path / "plain.keras")
    compiled(plain).fit(_x(), np.zeros(3), verbose=0)
    result = kprune.export(plain, tmp_path / "trained.keras")
    assert result.bytes < 1.05 * alone.bytes
    assert plain.compiled


def test_format_wins_over_the_suffix(tmp_path):
    result = kprune.export(_pruned(), tmp_path / "v1.2", format="saved_model")
    assert result.format == "saved_model" and (tmp_path / "v1.2").is_dir()


def test_an_earlier_export_is_replaced(tmp_path):
    first = kprune.export(convnet(), tmp_path / "model")
    second = kprune.export(_pruned(), tmp_path / "model")
    assert second.bytes < first.bytes
    assert [child.name for child in tmp_path.iterdir()] == ["model"]


class Broken(Exception):
    """Stands for whatever can go wrong while writing."""


@pytest.mark.parametrize("name", ["model", "model.tflite", "model.keras"])
@pytest.mark.parametrize("stage", ["write", "check", "move"])
def test_a_failed_export_leaves_what_was_there(
    tmp_path, monkeypatch, name, stage
):
    model = _pruned()
    path = tmp_path / name
    kprune.export(convnet(), path)
    before = {
        f.relative_to(tmp_path): f.read_bytes()
        for f in tmp_path.rglob("*")
        if f.is_file()
    }

    def fail(*args, **kwargs):
        raise Broken

    if stage == "move":

        def fail_to_move(self, target):
            if pathlib.Path(target) == path:
                raise OSError("no space left on device")
            return os.rename(self, target)

        monkeypatch.setattr(pathlib.Path, "rename", fail_to_move)
        monkeypatch.setattr(pathlib.Path, "replace", fail_to_move)
        error = OSError
    elif stage == "check":
        monkeypatch.setattr(checking, "largest_difference", fail)
        error = Broken
    else:
        for writer in (saved_model, litert):
            monkeypatch.setattr(writer, "write", fail)
        monkeypatch.setattr(keras.Model, "save", fail)
        error = Broken
    if stage == "move" and name == "model":
        # The folder that is there is put back by another rename.
        renames = []

        def rename(self, target):
            renames.append(target)
            if len(renames) == 2:
                raise OSError("no space left on device")
            return os.rename(self, target)

        monkeypatch.setattr(pathlib.Path, "rename", rename)
    with pytest.raises(error):
        kprune.export(model, path)
    after = {
        f.relative_to(tmp_path): f.read_bytes()
        for f in tmp_path.rglob("*")
        if f.is_file()
    }
    assert after == before


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    run = litert.run

    def wrong(path, model, inputs):
        return [output + 0.1 for output in run(path, model, inputs)]

    monkeypatch.setattr(litert, "run", wrong)
    with pytest.raises(RuntimeError, match="does not compute.*differs by 0.1"):
        kprune.export(_pruned(), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_nan_are_refused(tmp_path):
    model = convnet()
    model.layers[-1].layer.bias.assign(np.full(10, np.nan))
    with pytest.raises(RuntimeError, match="nan weights"):
        kprune.export(model, tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_an_operation_without_a_built_in_kernel(tmp_path):
    inputs = keras.Input((4,))
    x = kprune.PrunableDense(4)(inputs)
    model = keras.Model(inputs, keras.ops.erfinv(x))
    with pytest.raises(ValueError, match="Erfinv"):
        kprune.export(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds something else.*chapter1.tex"):
        kprune.export(_pruned(), folder)
    kprune.export(_pruned(), tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds something else.*notes.txt"):
        kprune.export(_pruned(), tmp_path / "model")
    assert (tmp_path / "model" / "notes.txt").read_text() == "precious"
    assert (folder / "chapter1.tex").read_text() == "precious"


def test_bad_paths(tmp_path):
    model = _pruned()
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


class Subclassed(keras.Model):
    """A model whose call can be traced."""

    def __init__(self):
        super().__init__()
        self.dense = kprune.PrunableDense(8, activation="relu")
        self.logits = layers.Dense(2)

    def call(self, x):
        return self.logits(self.dense(x))


def test_a_subclassed_model_is_flattened(tmp_path):
    model = Subclassed()
    x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    model(x)
    kprune.prune(model, 0.5, granularity="filter")
    kprune.export(model, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].units == 4
    np.testing.assert_allclose(
        numpy(model(x)), numpy(loaded(x)), rtol=1e-4, atol=1e-6
    )


def test_bad_models(tmp_path):
    with pytest.raises(ValueError, match="not built"):
        kprune.export(keras.Sequential([layers.Dense(2)]), tmp_path / "model")
    model = Untraceable()
    model(np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match="subclass Untraceable"):
        kprune.export(model, tmp_path / "model")
    with pytest.raises(ValueError, match="expected a `keras.Model`"):
        kprune.export(None, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_keras_files(tmp_path):
    target = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="There is no file"):
        kprune.export(tmp_path / "missing.keras", target)
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(ValueError, match="no `.keras` file, or it is damaged"):
        kprune.export(tmp_path / "text.keras", target)
    kprune.export(_pruned(), tmp_path / "good.keras")
    content = (tmp_path / "good.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        kprune.export(tmp_path / "cut.keras", target)
    import zipfile

    with zipfile.ZipFile(tmp_path / "foreign.keras", "w") as archive:
        archive.writestr("hello.txt", "world")
    with pytest.raises(ValueError, match="cannot be loaded as a Keras model"):
        kprune.export(tmp_path / "foreign.keras", target)
    assert not target.exists()
