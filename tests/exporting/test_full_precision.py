"""Models of half precision, as `.tflite` files that compute in float32."""

import keras
import numpy as np
import pytest
from files import on_tensorflow
from keras import layers, ops
from live import enliven

import kprune
from kprune.exporting import keras_file, litert, saved_model
from kprune.exporting.full_precision import in_float32


@pytest.fixture
def policy(request):
    """Runs a test under a policy of Keras."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


of_every_policy = pytest.mark.parametrize(
    "policy",
    ["float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16"],
    indirect=True,
)


def _x(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _convnet():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kprune.PrunableConv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
            layers.Activation("softmax", dtype="float32"),
        ]
    )
    enliven(model, _x(8, 8, 8, 3))
    return kprune.prune(model, 0.5)


@on_tensorflow
@of_every_policy
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_tflite_of_half_precision(tmp_path, policy, quantize):
    from ai_edge_litert.interpreter import Interpreter

    model = _convnet()
    x = _x(8, 8, 8, 3)
    expected = ops.convert_to_numpy(model(x))
    path = tmp_path / "model.tflite"
    kprune.export(
        model,
        path,
        quantize=quantize,
        representative_data=x if quantize else None,
    )
    runner = Interpreter(str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    received = [runner(**{name: x[i : i + 1]})["output_0"][0] for i in range(8)]
    assert expected.std() > 0.01
    np.testing.assert_allclose(
        np.array(received), expected, atol=0.05 if quantize else 0.02
    )
    # The model that was passed still is what it was.
    assert model.layers[0].dtype_policy.name == policy
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), expected)


@pytest.fixture
def damage(monkeypatch):
    """A function; after it files are written with a damaged last kernel."""

    def damaged(module, factor):
        write = module.write

        def wrong(model, *arguments, **options):
            kernel = next(w for w in model.weights[::-1] if len(w.shape) > 1)
            right = ops.convert_to_numpy(kernel)
            kernel.assign(factor * right)
            write(model, *arguments, **options)
            kernel.assign(right)

        monkeypatch.setattr(module, "write", wrong)

    return damaged


@on_tensorflow
@of_every_policy
@pytest.mark.parametrize(
    ("quantize", "factor"),
    # Half precision would explain 5 %, and the file has float32.
    [(None, 1.05), ("float16", 1.1), ("dynamic", 2.0), ("int8", 2.0)],
)
def test_a_damaged_tflite_is_refused(
    tmp_path, policy, damage, quantize, factor
):
    model, path = _convnet(), tmp_path / "model.tflite"
    model.pop()  # a softmax hides half of it
    damage(litert, factor)
    data = _x(8, 8, 8, 3) if quantize == "int8" else None
    with pytest.raises(RuntimeError, match="does not compute what model"):
        kprune.export(model, path, quantize=quantize, representative_data=data)
    assert not path.exists()


@on_tensorflow
@of_every_policy
@pytest.mark.parametrize("module", [saved_model, keras_file])
def test_a_damaged_file_of_half_precision_is_refused(
    tmp_path, policy, damage, module
):
    model = _convnet()
    model.pop()
    path = tmp_path / ("m.keras" if module is keras_file else "m")
    assert kprune.export(model, path).largest_difference < 0.05
    damage(module, 1.5)
    with pytest.raises(RuntimeError, match="does not compute what model"):
        kprune.export(model, path)


class Own(layers.Layer):
    """A layer that makes another, which no config tells of."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


@of_every_policy
def test_every_layer_computes_in_float32(policy):
    inputs = keras.Input((5, 6))
    inner = keras.Sequential([keras.Input((5, 6)), layers.Dense(6)])
    x = layers.Bidirectional(
        layers.LSTM(
            3, return_sequences=True, recurrent_initializer="glorot_normal"
        )
    )(inputs)
    x = layers.TimeDistributed(layers.Dense(6))(x)
    x = layers.TimeDistributed(keras.Sequential([layers.Dense(6)]))(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.Lambda(lambda x: x + 1)(Own()(inner(x)))
    x = ops.cast(ops.cast(x, "float32") * 2, "float16")
    model = keras.Model(inputs, layers.Dense(2)(x))
    new = in_float32(model)
    dtypes = {
        layer.compute_dtype for layer in kprune.keras_internals.sublayers(new)
    }
    assert dtypes == {"float32"}
    x = _x(2, 5, 6)
    received = ops.convert_to_numpy(new(x))
    assert received.dtype == "float32"
    expected = ops.convert_to_numpy(model(x)).astype("float32")
    np.testing.assert_allclose(
        received, expected, atol=0.05 * np.abs(expected).max()
    )
    assert keras.config.dtype_policy().name == policy
    assert (
        model.layers[1].compute_dtype == keras.DTypePolicy(policy).compute_dtype
    )


@pytest.mark.filterwarnings("ignore:.* does not have a `quantize` method")
def test_float32_and_quantized_layers_stay():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8)])
    assert in_float32(model) is model
    model.quantize("int8")
    assert in_float32(model) is model
