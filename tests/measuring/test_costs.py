"""cost: parameters, zeros, MACs and bytes, of models and of files."""

import gzip
import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import Untraceable, convnet

import kprune
from kprune.measuring import costs
from kprune.tflite import graphs

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the files are the same, and are written faster here",
)


@pytest.mark.parametrize(
    ("architecture", "parameters", "macs"),
    [
        # Published: 300M, 4.1G without the shortcut of stride 1, 15.5G.
        ("MobileNetV2", 3_538_984, 300_774_272),
        ("ResNet50", 25_636_712, 3_857_973_248),
        ("VGG16", 138_357_544, 15_470_264_320),
    ],
)
def test_costs_of_published_models(architecture, parameters, macs):
    with keras.StatelessScope():
        model = getattr(keras.applications, architecture)(weights=None)
    assert costs.parameters(model) == parameters
    assert costs.macs(model) == macs


def test_macs_by_hand():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, strides=2, padding="same"),  # 16 places
            layers.DepthwiseConv2D(3, depth_multiplier=2),  # 4 places
            layers.SeparableConv2D(5, 2),  # 1 place
            layers.Conv2DTranspose(6, 3),  # 1 place of its input
            layers.Flatten(),
            layers.Dense(7),
        ]
    )
    expected = 16 * 27 * 4 + 4 * 9 * 8 + (4 * 8 + 8 * 5) + 9 * 5 * 6
    assert costs.macs(model) == expected + 54 * 7
    anywhere = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(2, 3)]
    )
    assert costs.macs(anywhere) is None
    assert "unknown" in str(kprune.cost(anywhere))


def test_a_shared_layer_counts_once_in_weights_and_twice_in_macs():
    layer = layers.Dense(3)
    first, second = keras.Input((4,)), keras.Input((4,))
    x = layers.Add()([layer(first), layer(second)])
    model = keras.Model([first, second], x)
    assert costs.macs(model) == 2 * 12
    assert costs.parameters(model) == 15
    assert kprune.cost(model).weights == 12


class Projected(layers.Layer):
    """A layer of the user's own, with a weight and a layer inside."""

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1], 5))
        self.dense = layers.Dense(2)
        self.dense.build((None, 5))

    def call(self, x):
        return self.dense(x @ self.weight)


class Looped(layers.Layer):
    """A layer whose number of products is in Python's hands."""

    def call(self, x):
        return ops.fori_loop(0, 3, lambda _, y: ops.matmul(y, y), x)


class AppliedTwice(layers.Dense):
    """A kind that Keras has, which does more than Keras's."""

    def call(self, x):
        return super().call(super().call(x))


def _queries_keys_values(x):
    """Two heads, of 4 numbers a query and key and of 8 a value."""
    queries = ops.reshape(x, (-1, 6, 2, 4))
    return queries, queries, ops.concatenate([queries, queries], axis=-1)


ATTENTION = 4 * 6 * 8 * 12 + 2 * 6 * 6 * 12  # 3 heads of 4 on 6 places of 8


@pytest.mark.parametrize(
    ("shape", "layer", "macs"),
    [
        ((6, 8), lambda: layers.Conv1D(4, 3, groups=2), 4 * 3 * 4 * 4),
        ((6, 8), lambda: layers.Conv1DTranspose(4, 3), 6 * 3 * 8 * 4),
        ((6, 8), lambda: layers.DepthwiseConv1D(3), 4 * 3 * 8),
        ((3, 3, 3, 2), lambda: layers.Conv3D(4, 2), 8 * 8 * 2 * 4),
        (
            (6, 8),
            lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
            6 * 8 * 2 * 3,
        ),
        ((6, 8), lambda: layers.EinsumDense("...x,xy->...y", 3), 6 * 8 * 3),
        ((6, 8), lambda: layers.SimpleRNN(4), 6 * (8 * 4 + 4 * 4)),
        ((6, 8), lambda: layers.LSTM(4), 6 * 4 * (8 * 4 + 4 * 4)),
        ((6, 8), lambda: layers.GRU(4, unroll=True), 6 * 3 * (32 + 16)),
        (
            (6, 8),
            lambda: layers.RNN([layers.LSTMCell(4), layers.GRUCell(2)]),
            6 * 4 * (32 + 16) + 6 * 3 * (8 + 4),
        ),
        ((6, 8), lambda: layers.Bidirectional(layers.GRU(4)), 1728),
        ((None, 8), lambda: layers.LSTM(4), None),
        (
            (3, 5, 5, 2),
            lambda: layers.ConvLSTM2D(4, 3),
            3 * 9 * (9 * 2 * 16 + 9 * 4 * 16),
        ),
        (
            (3, 5, 5, 2),
            lambda: layers.TimeDistributed(layers.Conv2D(4, 3)),
            3 * 9 * 9 * 2 * 4,
        ),
        ((6,), lambda: layers.Embedding(9, 4), 0),
        ((6, 8), lambda: layers.LayerNormalization(), 0),
        ((6, 8), lambda: layers.LayerNormalization(axis=(1, 2)), 0),
        ((6, 8), lambda: layers.PReLU(), 0),
        ((6, 8), lambda: AppliedTwice(8), 2 * 6 * 8 * 8),
        ((6, 8), lambda: Projected(), 6 * (8 * 5 + 5 * 2)),
        ((8, 8), lambda: Looped(), None),
        ((6, 8), lambda: kprune.PrunableLayer(layers.LSTM(4)), 6 * 4 * 48),
    ],
)
def test_macs_of_layers(shape, layer, macs):
    model = keras.Sequential([keras.Input(shape), layer()])
    assert costs.macs(model) == macs
    assert kprune.cost(model).macs == macs


@pytest.mark.filterwarnings(
    "ignore:NotImplemented should not be used in a boolean"
)
@pytest.mark.parametrize(
    ("call", "macs"),
    [
        (lambda x: layers.MultiHeadAttention(3, 4)(x, x), ATTENTION),
        (lambda x: layers.GroupQueryAttention(4, 3, 3)(x, x), ATTENTION),
        (
            # Keys of 4, values of 8: as wide as Keras takes the keys to be.
            lambda x: layers.Dense(3)(
                layers.MultiHeadAttention(2, 4, value_dim=8)(x, x)
            ),
            6 * 8 * (8 + 8 + 16) + 2 * 6 * 6 * (4 + 8) + 6 * 16 * 8 + 6 * 8 * 3,
        ),
        (
            lambda x: layers.Dot(axes=3)(
                [ops.dot_product_attention(*_queries_keys_values(x))] * 2
            ),
            2 * 6 * 6 * (4 + 8) + 6 * 2 * 6 * 2 * 8,
        ),
        (lambda x: layers.Attention()([x, x]), 2 * 6 * 6 * 8),
        # Its scores are sums, not products.
        (lambda x: layers.AdditiveAttention()([x, x]), 6 * 6 * 8),
        (
            lambda x: layers.Attention(score_mode="concat")([x, x, x]),
            6 * 6 * 8,
        ),
        (lambda x: layers.Dot(axes=2)([x, x]), 6 * 6 * 8),
        (lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), 6 * 6 * 8),
        (lambda x: ops.matmul(x, np.ones((8, 2), "float32")), 6 * 8 * 2),
        (lambda x: ops.einsum("bij,bkj->bik", x, x), 6 * 6 * 8),
        (lambda x: ops.einsum("bij,bij->bij", x, x), 0),
        (lambda x: ops.einsum("bij->bj", x), 0),
        (
            lambda x: ops.tensordot(x, np.ones((8, 2), "float32"), 1),
            6 * 8 * 2,
        ),
        (
            lambda x: ops.tensordot(x, np.ones((2, 8), "float32"), [[2], [1]]),
            6 * 8 * 2,
        ),
        (lambda x: ops.conv(x, np.ones((3, 8, 2), "float32")), 4 * 24 * 2),
        (
            lambda x: ops.conv_transpose(x, np.ones((3, 2, 8), "float32")),
            6 * 24 * 2,
        ),
        (
            lambda x: ops.depthwise_conv(x, np.ones((3, 8, 2), "float32")),
            4 * 3 * 16,
        ),
        (
            lambda x: ops.separable_conv(
                x,
                np.ones((3, 8, 2), "float32"),
                np.ones((1, 16, 5), "float32"),
            ),
            4 * (3 * 16 + 16 * 5),
        ),
        (
            # Places are taken for samples in between.
            lambda x: layers.Dense(2)(ops.reshape(x, (-1, 8))),
            6 * 8 * 2,
        ),
        (
            # The model inside takes any length.
            lambda x: keras.Sequential(
                [keras.Input((None, 8)), layers.Conv1D(2, 3)]
            )(x),
            4 * 24 * 2,
        ),
        (
            lambda x: layers.Lambda(
                lambda y: ops.einsum("bij,bkj->bik", y, y), output_shape=(6, 6)
            )(x),
            6 * 6 * 8,
        ),
    ],
)
def test_macs_of_calls(call, macs):
    x = keras.Input((6, 8))
    assert costs.macs(keras.Model(x, call(x))) == macs


def _embedded():
    x = keras.Input((6,), dtype="int32")
    return keras.Model(x, layers.Dense(4)(layers.Embedding(9, 8)(x)))


def _attended():
    x = keras.Input((6, 8))
    return keras.Model(x, layers.MultiHeadAttention(2, 4, value_dim=3)(x, x))


@pytest.mark.filterwarnings("ignore:.* does not have a `quantize` method")
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize(
    ("make", "macs"),
    [
        (lambda: keras.Sequential([keras.Input((6, 8)), layers.Dense(5)]), 240),
        (_embedded, 6 * 8 * 4),
        (_attended, 6 * 8 * (8 + 8 + 6) + 2 * 36 * (4 + 3) + 6 * 6 * 8),
    ],
)
def test_macs_of_quantized_models(make, macs, mode):
    model = make()
    quantized = keras.models.clone_model(model)
    quantized.quantize(mode)
    assert kprune.cost(quantized).macs == macs
    compared = kprune.report(quantized, dense=model).comparison.macs
    assert (compared.dense, compared.pruned) == (macs, macs)


@pytest.mark.filterwarnings("ignore:.* does not have a `quantize` method")
@pytest.mark.skipif(
    not hasattr(layers, "ReversibleEmbedding"), reason="this Keras has none"
)
def test_macs_of_a_quantized_table_in_reverse():
    x = keras.Input((6,), dtype="int32")
    table = layers.ReversibleEmbedding(9, 5)
    model = keras.Model(x, table(table(x), reverse=True))
    assert kprune.cost(model).macs == 6 * 9 * 5
    model.quantize("int8")
    assert kprune.cost(model).macs == 6 * 9 * 5


@pytest.mark.parametrize(
    ("shape", "layer", "macs"),
    [
        ((6, 8), lambda: layers.Dense(5), 6 * 8 * 5),
        ((6, 8), lambda: layers.Conv1D(4, 3), 4 * 3 * 8 * 4),
        ((6, 8), lambda: layers.EinsumDense("abc,cd->abd", (6, 5)), 6 * 8 * 5),
        ((6,), lambda: layers.Embedding(9, 5), 0),
    ],
)
def test_lora_is_merged_but_beside_a_quantized_kernel(shape, layer, macs):
    layer = layer()
    model = keras.Sequential([keras.Input(shape), layer])
    layer.enable_lora(2)
    assert kprune.cost(model).macs == macs
    if isinstance(layer, layers.Conv1D):  # there is no quantized one
        return
    layer.quantize("int8")
    products = 0 if isinstance(layer, layers.Embedding) else 6 * 8 * 2
    assert kprune.cost(model).macs == macs + products + 6 * 2 * 5


def test_a_fixed_batch_counts_for_one_sample():
    x = keras.Input(batch_shape=(5, 6, 8))
    y = ops.reshape(layers.Dense(3)(x), (5, -1))
    assert costs.macs(keras.Model(x, y)) == 6 * 8 * 3


def test_an_input_of_no_axes():
    x = keras.Input(batch_shape=())
    assert costs.macs(keras.Model(x, ops.exp(x))) == 0


class Stacked(keras.Model):
    """A subclassed model, which is traced to be read."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(3)
        self.last = keras.Sequential([layers.Dense(4), layers.Dense(2)])

    def call(self, x):
        return self.last(ops.relu(self.first(x)))


def _nested():
    inner = keras.Sequential([keras.Input((None, 8)), Projected()])
    x = keras.Input((6, 8))
    return keras.Model(x, inner(layers.MultiHeadAttention(2, 4)(x, x)))


@pytest.mark.parametrize("make", [convnet, _nested, Stacked])
def test_counting_leaves_no_calls_in_a_model(make):
    model = make()
    if not model.built:
        model(np.ones((1, 4), "float32"))

    def calls():
        return [
            (layer.name, len(layer._inbound_nodes), len(layer._outbound_nodes))
            for layer in (model, *model._flatten_layers(include_self=False))
        ]

    before = calls()
    for _ in range(2):
        assert kprune.cost(model).macs == kprune.report(model).macs > 0
        kprune.report(model, dense=model)
    assert calls() == before


def test_masked_weights_are_zeros_and_masks_are_no_parameters():
    model = kprune.prune(convnet(), 0.5)
    cost = kprune.cost(model)
    report = kprune.report(model)
    assert (cost.weights, cost.zeros) == (report.weights, report.zeros)
    assert cost.parameters == report.parameters
    assert cost.macs == report.macs
    assert cost.bytes is None and cost.latency is None
    assert json.loads(json.dumps(cost.to_dict()))["sparsity"] == cost.sparsity
    assert f"{cost.zeros:,} of {cost.weights:,}" in str(cost)
    untraceable = Untraceable()
    untraceable(np.ones((1, 4), "float32"))
    assert kprune.cost(untraceable).macs is None
    assert kprune.cost(untraceable).parameters == 10


def test_a_keras_file(tmp_path):
    path = tmp_path / "model.keras"
    model = kprune.strip(kprune.prune(convnet(), 0.5))
    model.save(path)
    cost = kprune.cost(path)
    assert cost.name == str(path)
    assert cost.bytes == path.stat().st_size
    assert cost.macs == kprune.cost(model).macs
    assert f"{cost.bytes:,}" in str(cost)


def _convolutions():
    """Every kind of convolution that a phone runs."""
    x = inputs = keras.Input((16, 16, 4))
    x = layers.Conv2D(8, 3, groups=2)(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same")(x)
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, strides=2)(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(16, 1, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def _sequences():
    """Attention, a loop, and products of matrices."""
    x = inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 8))(x)
    x = layers.Reshape((12, 8))(x)
    x = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    x = layers.Conv1D(8, 3)(x)
    return keras.Model(inputs, layers.Dense(4)(layers.LSTM(6)(x)))


def _with_zeros(model):
    """70 % of each kernel is 0, the rest no rounding takes there."""
    generator = np.random.default_rng(0)
    for layer in model._flatten_layers():
        for kernel in kprune.weights.kernels(layer).values():
            values = generator.choice([0.1, -0.1], kernel.shape)
            kernel.assign(values * (generator.random(kernel.shape) < 0.3))
        for bias in kprune.weights.biases(layer).values():
            bias.assign(generator.uniform(0.1, 0.2, bias.shape))
    return model


@on_tensorflow
@pytest.mark.parametrize("build", [_convolutions, _sequences])
def test_a_tflite_file_costs_what_its_model_does(tmp_path, build):
    model = _with_zeros(build())
    path = tmp_path / "model.tflite"
    kprune.export(model, path)
    of_model, of_file = kprune.cost(model), kprune.cost(path)
    assert of_file.macs == of_model.macs
    assert of_file.weights == of_model.weights
    assert of_file.zeros == of_model.zeros > 0.6 * of_model.weights
    content = path.read_bytes()
    assert of_file.bytes == len(content)
    assert of_file.gzip_bytes == len(gzip.compress(content))


@on_tensorflow
@pytest.mark.parametrize(
    ("inner", "macs"),
    [
        # The file says of each place how it goes on from the batch.
        (
            lambda: [
                layers.Conv2D(4, 3, activation="relu"),
                layers.DepthwiseConv2D(3),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(5),
            ],
            36 * 27 * 4 + 16 * 9 * 4 + 16 * 5,
        ),
        # It has a 1 for these: places that are computed, samples and places
        # in one, and samples and parts of the image in one.
        (lambda: [layers.UpSampling2D(), layers.Conv2D(3, 3)], None),
        (lambda: [layers.Reshape((64, 3)), layers.Dense(5)], None),
        (lambda: [layers.Conv2D(4, 3, dilation_rate=2)], None),
    ],
)
def test_a_file_with_an_open_batch(tmp_path, inner, macs):
    model = keras.Sequential([keras.Input((8, 8, 3)), *inner()])
    path = tmp_path / "open.tflite"
    kprune.export(model, path, input_signature=(None, 8, 8, 3))
    assert kprune.cost(path).macs == macs
    kprune.export(model, path, input_signature=(4, 8, 8, 3))
    assert kprune.cost(path).macs == kprune.cost(model).macs


@on_tensorflow
def test_a_file_for_images_of_any_size(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3, padding="same")]
    )
    path = tmp_path / "open.tflite"
    kprune.export(model, path)
    assert kprune.cost(path).macs is None


@on_tensorflow
@pytest.mark.parametrize("quantize", ["float16", "dynamic", "int8"])
def test_zeros_are_zeros_in_every_encoding(tmp_path, quantize):
    model = _with_zeros(_convolutions())
    x = np.random.default_rng(0).normal(size=(20, 16, 16, 4))
    path = tmp_path / "model.tflite"
    data = x.astype("float32") if quantize == "int8" else None
    kprune.export(model, path, quantize=quantize, representative_data=data)
    of_model, of_file = kprune.cost(model), kprune.cost(path)
    assert of_file.macs == of_model.macs
    assert of_file.weights == of_model.weights
    assert of_file.zeros == of_model.zeros


@on_tensorflow
def test_sparse_and_plain_files_cost_the_same(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 64)), layers.Conv2D(128, 1)])
    model = _with_zeros(model)
    plain, sparse = tmp_path / "plain.tflite", tmp_path / "encoded.tflite"
    kprune.export(model, plain, sparse=False)
    assert kprune.export(model, sparse, sparse=True).is_sparse
    one, other = kprune.cost(plain), kprune.cost(sparse)
    assert other.bytes < one.bytes
    for name in ("parameters", "weights", "zeros", "macs"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize(
    ("type", "data", "zero_points", "zeros"),
    [
        ("UINT8", [3, 0, 3, 9], [3], 2),
        ("INT8", [255, 0, 1, 1], [-1, 1], 2),  # the second axis has its own
        ("INT4", [0x1F, 0x02], [-1], 1),
        ("BFLOAT16", [0, 0, 0, 128, 1, 0, 0, 1], [], 2),  # 0 and -0
    ],
)
def test_zeros_are_what_stands_for_zero(type, data, zero_points, zeros):
    data, zero_points = np.array(data, np.uint8), np.array(zero_points)
    tensor = graphs.Tensor(
        "w", (2, 2), (), type, data, 1, zero_points, 1, False
    )
    assert tensor.is_parameter and tensor.zeros == zeros


@pytest.fixture(scope="module")
def needs_flex(tmp_path_factory):
    """A file with an operation that LiteRT has no kernel of."""
    import tensorflow as tf

    function = tf.function(
        tf.linalg.inv, input_signature=[tf.TensorSpec((1, 2, 2))]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()]
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    path = tmp_path_factory.mktemp("flex") / "flex.tflite"
    path.write_bytes(converter.convert())
    return path


def test_what_does_not_show_its_macs_is_unknown(needs_flex):
    assert kprune.cost(needs_flex).macs is None


def test_what_cannot_run_has_no_latency(needs_flex):
    with pytest.raises(ValueError, match="LiteRT cannot run .*flex.tflite"):
        kprune.cost(needs_flex, reference=needs_flex)


@pytest.mark.parametrize("model", [None, keras.Sequential([layers.Dense(2)])])
def test_bad_models(model):
    with pytest.raises(ValueError, match="needs a built `keras.Model`"):
        kprune.cost(model)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.tflite", None, "There is no file"),
        ("none.keras", None, "There is no file"),
        ("empty.tflite", b"", "no `.tflite` file"),
        ("text.tflite", b"That is no flatbuffer.", "no `.tflite` file"),
        ("marked.tflite", b"\x1c\0\0\0TFL3" + b"\xff" * 40, "damaged"),
        ("text.keras", b"That is no archive.", "no `.keras` file"),
        ("model.onnx", b"", "reads '.keras', '.h5' and '.tflite' files"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        kprune.cost(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99, 0.9999])
def test_truncated_files(tmp_path, written, share):
    content = written.read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="cut.tflite' is a damaged|no `.tfl"):
        kprune.cost(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "model.tflite"
    kprune.export(kprune.prune(convnet(), 0.5), path)
    return path


def test_latency_is_of_tflite_files(written):
    with pytest.raises(ValueError, match="`kprune.export` both"):
        kprune.cost(convnet(), reference=written)
