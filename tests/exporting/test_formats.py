"""export: real files that compute what the model does."""

import gzip
import subprocess
import sys

import keras
import numpy as np
import pytest
from files import needs_onnx
from keras import layers
from models import compiled, convnet, numpy, outputs

import kprune

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
        pytest.param("model.onnx", "onnx", marks=needs_onnx),
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


@on_tensorflow
def test_a_saved_model_holds_the_graph_once(tmp_path):
    from tensorflow.core.protobuf import saved_model_pb2

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    kprune.export(model, tmp_path / "model")
    saved = saved_model_pb2.SavedModel.FromString(
        (tmp_path / "model" / "saved_model.pb").read_bytes()
    )
    functions = saved.meta_graphs[0].graph_def.library.function
    operations = [node.op for f in functions for node in f.node_def]
    assert operations.count("MatMul") == 1


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


ALL_NAMES = [
    *("model", "model.tflite", "model.keras"),
    pytest.param("model.onnx", marks=needs_onnx),
]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_several_inputs_and_outputs(tmp_path, name):
    # TensorFlow does not take these names as they are.
    first = keras.Input((4,), name="my first-1")
    second = keras.Input((3,), dtype="int32", name="_second")
    unused = keras.Input((2,), name="unused")
    x = layers.Embedding(2, 4)(second)
    x = layers.Flatten()(x)
    x = layers.Concatenate()([kprune.PrunableDense(5)(first), x])
    model = keras.Model(
        {"my first-1": first, "_second": second, "unused": unused},
        {"sum": layers.Dense(2)(x), "hidden": x},
    )
    kprune.prune(model, 0.5)
    result = kprune.export(model, tmp_path / name)
    assert result.largest_difference < 1e-5
    if name == "model.tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(tmp_path / name))
        (signature,) = interpreter.get_signature_list().values()
        assert set(signature["inputs"]) >= {"my_first_1", "input__second"}
        assert set(signature["outputs"]) == {"sum", "hidden"}


@pytest.mark.parametrize("name", ["model", "model.tflite"])
@pytest.mark.parametrize("of", ["1st", "class", "self", "Other"])
def test_names_that_mean_something_else_elsewhere(tmp_path, name, of):
    inputs = [keras.Input((4,), name=of), keras.Input((4,), name="other")]
    x = layers.Dense(3)(layers.Subtract()(inputs))
    model = keras.Model(inputs, {of: x, "2nd output": 2 * x})
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
