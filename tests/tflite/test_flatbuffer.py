"""Reading `.tflite` files: those with state, and damaged ones."""

import keras
import numpy as np
import pytest
from files import on_tensorflow
from keras import layers

import kprune
from kprune.tflite import flatbuffer


@pytest.fixture(scope="module")
def stateful(tmp_path_factory):
    """A file that adds to a variable, and multiplies by a matrix of 4x3."""
    import tensorflow as tf

    class Counter(tf.Module):
        def __init__(self):
            self.total = tf.Variable(tf.zeros((1, 4)))
            self.kernel = tf.constant(np.eye(4, 3, dtype="float32"))

        @tf.function(input_signature=[tf.TensorSpec((1, 4))])
        def add(self, x):
            return tf.matmul(self.total.assign_add(x), self.kernel)

    module = Counter()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.add.get_concrete_function()], module
    )
    converter.experimental_enable_resource_variables = True
    path = tmp_path_factory.mktemp("stateful") / "counter.tflite"
    path.write_bytes(converter.convert())
    return path


@on_tensorflow
def test_a_file_with_state(stateful):
    operators = flatbuffer.read(stateful)[0].operators
    assert any(not operator.inputs for operator in operators)
    assert any(not operator.outputs for operator in operators)
    cost = kprune.cost(stateful)
    assert (cost.macs, cost.weights, cost.zeros) == (12, 12, 9)
    assert not kprune.check_sparse_inference(stateful).is_eligible


@on_tensorflow
def test_a_file_without_a_batch(tmp_path):
    import tensorflow as tf

    kernel = tf.constant(np.ones((64, 10), "float32"))

    @tf.function(input_signature=[tf.TensorSpec((64,))])
    def project(x):
        return tf.matmul(tf.reshape(x, (1, 64)), kernel)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [project.get_concrete_function()]
    )
    path = tmp_path / "vector.tflite"
    path.write_bytes(converter.convert())
    assert kprune.cost(path).macs == 640


@on_tensorflow
def test_what_signatures_share_counts_once(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(np.eye(80, 40, dtype="float32"))
    signatures = {
        name: tf.function(
            lambda x, name=name: getattr(tf, name)(x) @ module.kernel,
            input_signature=[tf.TensorSpec((1, 80), name="x")],
        ).get_concrete_function()
        for name in ("exp", "sin", "tanh")
    }
    tf.saved_model.save(module, tmp_path / "saved", signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "saved"), signature_keys=list(signatures)
    )
    path = tmp_path / "shared.tflite"
    path.write_bytes(converter.convert())
    assert len(flatbuffer.read(path)) == 3
    cost = kprune.cost(path)
    assert (cost.parameters, cost.weights, cost.zeros) == (3200, 3200, 3160)
    assert cost.bytes < 3 * 4 * 3200


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, 3, strides=2),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.Conv2D(4, 1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    path = tmp_path_factory.mktemp("flatbuffer") / "convolutional.tflite"
    kprune.export(model, path)
    return path


@pytest.fixture(scope="module")
def looping(tmp_path_factory):
    model = keras.Sequential([keras.Input((3, 2)), layers.LSTM(2)])
    path = tmp_path_factory.mktemp("flatbuffer") / "looping.tflite"
    kprune.export(model, path)
    return path


@on_tensorflow
@pytest.mark.parametrize("name", ["stateful", "convolutional", "looping"])
def test_damaged_bytes_are_said_to_be_damage(tmp_path, request, name):
    whole = request.getfixturevalue(name).read_bytes()
    path = tmp_path / "flipped.tflite"
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(250):
        content = bytearray(whole)
        for place in generator.integers(8, len(content), 3):
            content[place] = generator.integers(256)
        path.write_bytes(content)
        for read in (kprune.cost, kprune.check_sparse_inference):
            try:
                read(path)
            except ValueError as error:
                assert "is a damaged `.tflite` file" in str(error)
                refused += 1
    assert refused > 100


def _changed(path, change):
    """Writes the file again with one thing in it changed."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _reads_itself(model):
    operator = model.subgraphs[0].operators[0]
    operator.inputs = [operator.outputs[0], *operator.inputs[1:]]


def _output_is_elsewhere(model):
    model.subgraphs[0].outputs = [10_000]


def _lacks_an_input(model):
    for operator in model.subgraphs[0].operators:
        operator.inputs = operator.inputs[:1]


def _lacks_its_output(model):
    for operator in model.subgraphs[0].operators:
        operator.outputs = []


def _has_no_graph(model):
    model.subgraphs = []


@on_tensorflow
@pytest.mark.parametrize(
    "change",
    [
        _reads_itself,
        _output_is_elsewhere,
        _lacks_an_input,
        _lacks_its_output,
        _has_no_graph,
    ],
)
def test_damage_that_a_parser_does_not_see(tmp_path, convolutional, change):
    path = tmp_path / "changed.tflite"
    path.write_bytes(_changed(convolutional, change))
    for read in (kprune.cost, kprune.check_sparse_inference):
        with pytest.raises(ValueError, match="is a damaged `.tflite` file"):
            read(path)


@on_tensorflow
def test_a_loop_that_runs_itself(tmp_path, looping):
    def change(model):
        for graph in model.subgraphs:
            for operator in graph.operators:
                if hasattr(operator.builtinOptions, "bodySubgraphIndex"):
                    operator.builtinOptions.bodySubgraphIndex = 0

    path = tmp_path / "changed.tflite"
    path.write_bytes(_changed(looping, change))
    with pytest.raises(ValueError, match="is a damaged `.tflite` file"):
        kprune.cost(path)
