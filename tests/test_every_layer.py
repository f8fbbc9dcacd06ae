"""Every layer with kernels: under masks of ones it is the plain layer.

Outputs in inference and in training, losses, gradients (as the step that SGD
takes), and what a layer updates by itself, such as statistics and states.
"""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import numpy

import kprune
from kprune.weights import kernels


def _random(*shape):
    generator = np.random.default_rng(0)
    return generator.normal(size=shape).astype("float32")


def _tokens():
    tokens = np.random.default_rng(0).integers(1, 20, (4, 6))
    tokens[:, 4:] = 0
    return tokens


def _sequence():
    return [_random(4, 6, 8)]


def _image():
    return [_random(4, 8, 8, 4)]


def _volume():
    return [_random(4, 5, 5, 5, 3)]


def _states():
    return [_random(4, 6, 8), _random(4, 5)]


@keras.saving.register_keras_serializable(package="test_every_layer")
class Attend(layers.Layer):
    """A layer of a user: a matrix, a Dense and a norm of its own."""

    def build(self, shape):
        self.matrix = self.add_weight(
            name="matrix", shape=(shape[-1], 5), initializer="glorot_uniform"
        )
        self.dense = layers.Dense(5)
        self.dense.build((*shape[:-1], 5))
        self.norm = layers.BatchNormalization()
        self.norm.build((*shape[:-1], 5))
        self.drop = layers.Dropout(0.4, seed=3)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 5)

    def call(self, x, training=False):
        x = ops.matmul(x, self.matrix)
        x = self.norm(self.dense(x), training=training)
        return self.drop(x, training=training)


@keras.saving.register_keras_serializable(package="test_every_layer")
class Lazy(layers.Layer):
    """A layer of a user without `build`: its parts are built in the call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(5)
        self.parts = [layers.BatchNormalization(), layers.Dense(3)]

    def call(self, x, shift=None, scale=1.0):
        x = self.dense(x)
        for part in self.parts:
            x = part(x)
        return x * scale if shift is None else x * scale + shift


@keras.saving.register_keras_serializable(package="test_every_layer")
class Doubled(layers.Dense):
    """A subclass of a layer of Keras."""

    def call(self, inputs):
        return 2 * super().call(inputs)


# Name -> (layer, data, what is called; by default the layer on one input).
CASES = {
    "Dense": (
        lambda: layers.Dense(
            5,
            kernel_regularizer="l2",
            bias_regularizer="l1",
            activity_regularizer="l1",
            kernel_constraint="unit_norm",
        ),
        _sequence,
    ),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d"),
        _sequence,
    ),
    "Embedding": (
        lambda: layers.Embedding(20, 5, embeddings_regularizer="l2"),
        lambda: [_tokens()],
    ),
    "Embedding, implicit mask": (
        lambda: layers.Embedding(20, 5, mask_zero=True),
        lambda: [_tokens()],
        lambda layer, x: layers.GlobalAveragePooling1D()(layer(x)),
    ),
    "Conv1D": (lambda: layers.Conv1D(6, 3, padding="causal"), _sequence),
    "Conv2D": (lambda: layers.Conv2D(6, 3, groups=2), _image),
    "Conv3D": (lambda: layers.Conv3D(4, 3, activation="relu"), _volume),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(6, 3), _sequence),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(6, 3), _image),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(4, 3), _volume),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(3), _sequence),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        _image,
    ),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(6, 3), _sequence),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(6, 3), _image),
    "SimpleRNN": (lambda: layers.SimpleRNN(5), _sequence),
    "LSTM": (lambda: layers.LSTM(5, dropout=0.3, seed=1), _sequence),
    "GRU": (
        lambda: layers.GRU(
            5, return_sequences=True, recurrent_dropout=0.3, seed=1
        ),
        _sequence,
    ),
    "LSTM, stateful": (lambda: layers.LSTM(5, stateful=True), _sequence),
    "Bidirectional, stateful": (
        lambda: layers.Bidirectional(layers.GRU(4, stateful=True)),
        _sequence,
    ),
    "GRU, initial state": (
        lambda: layers.GRU(5),
        _states,
        lambda layer, x, state: layer(x, initial_state=state),
    ),
    "LSTM, mask": (
        lambda: layers.LSTM(5),
        lambda: [_random(4, 6, 8), _tokens() > 0],
        lambda layer, x, mask: layer(x, mask=mask),
    ),
    "GRU, implicit mask": (
        lambda: layers.GRU(5),
        lambda: [_tokens()],
        lambda layer, x: layer(
            layers.Embedding(
                20, 8, mask_zero=True, embeddings_initializer="ones"
            )(x)
        ),
    ),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(3)),
        _sequence,
    ),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(layers.Dense(5)),
        _sequence,
    ),
    "ConvLSTM1D": (
        lambda: layers.ConvLSTM1D(3, 2),
        lambda: [_random(4, 3, 6, 2)],
    ),
    "ConvLSTM2D": (
        lambda: layers.ConvLSTM2D(3, 2),
        lambda: [_random(4, 3, 5, 5, 2)],
    ),
    "MultiHeadAttention": (
        lambda: layers.MultiHeadAttention(2, 4, dropout=0.2, seed=2),
        lambda: [_random(4, 6, 8), _random(4, 5, 8)],
        lambda layer, query, value: layer(query, value),
    ),
    "MultiHeadAttention, causal": (
        lambda: layers.MultiHeadAttention(2, 4),
        lambda: [_random(4, 6, 8), _random(4, 6, 8)],
        lambda layer, query, value: layer(
            query=query, value=value, use_causal_mask=True
        ),
    ),
    "GroupQueryAttention": (
        lambda: layers.GroupQueryAttention(4, 4, 2),
        lambda: [_random(4, 6, 8), _random(4, 5, 8)],
        lambda layer, query, value: layer(query=query, value=value),
    ),
    "a layer of a user": (Attend, _sequence),
    "a layer of a user, built in its call": (
        Lazy,
        lambda: [_random(4, 6, 8), _random(4, 6, 3)],
        lambda layer, x, shift: layer(x, shift=shift, scale=2.0),
    ),
    "a subclass": (lambda: Doubled(5), _sequence),
}


# In Keras 3.15 a stateful layer does not train on torch, plain or wrapped:
# its states are changed in place before the gradients are computed.
TRAINABLE = [
    name
    for name in CASES
    if keras.backend.backend() != "torch" or "stateful" not in name
]


def _call(layer, x):
    return layer(x)


def _model(layer, data, call):
    inputs = [
        keras.Input(batch_shape=array.shape, dtype=array.dtype)
        for array in data
    ]
    model = keras.Model(inputs, call(layer, *inputs))
    # A step of this size would show a wrong gradient.
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def _made(name):
    make, data, *call = CASES[name]
    return make, data(), *(call or [_call])


@pytest.mark.parametrize("name", CASES)
def test_masks_of_ones_change_nothing(name):
    make, data, call = _made(name)
    plain, inner = make(), make()
    one = _model(plain, data, call)
    other = _model(kprune.PrunableLayer(inner), data, call)
    inner.set_weights(plain.get_weights())

    def assert_equal_outputs():
        # Twice: the second call finds the states of the first.
        for _ in range(2):
            expected = numpy(one(data, training=False))
            np.testing.assert_allclose(
                numpy(other(data, training=False)), expected, atol=1e-6
            )
        assert np.ptp(expected) > 1e-2

    assert_equal_outputs()
    if name not in TRAINABLE:
        return
    y = _random(*one.outputs[0].shape)
    before = plain.get_weights()
    for _ in range(3):
        losses = [model.train_on_batch(data, y) for model in (one, other)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for weight, wrapped, start in zip(
        plain.weights, inner.weights, before, strict=True
    ):
        np.testing.assert_allclose(
            numpy(wrapped), numpy(weight), atol=1e-5, err_msg=weight.path
        )
        if weight.trainable:
            assert (numpy(weight) != start).any(), weight.path
    assert_equal_outputs()


@pytest.mark.parametrize("name", TRAINABLE)
def test_it_trains_under_masks(name):
    make, data, call = _made(name)
    wrapper = kprune.PrunableLayer(make(), granularity="unstructured")
    model = _model(wrapper, data, call)
    kprune.prune(model, 0.5)
    before = {key: numpy(kernel) for key, kernel in wrapper.kernels.items()}
    masks = {key: numpy(wrapper.masks[key]) for key in before}
    for mask in masks.values():
        assert np.count_nonzero(~mask) == mask.size // 2
    y = _random(*model.outputs[0].shape)
    for _ in range(2):
        model.train_on_batch(data, y)
    for key, kernel in wrapper.kernels.items():
        after, mask = numpy(kernel), masks[key]
        np.testing.assert_array_equal(numpy(wrapper.masks[key]), mask)
        assert (after[mask] != before[key][mask]).any(), key
    wrapper.apply_masks()
    for key, kernel in wrapper.kernels.items():
        assert (numpy(kernel)[~masks[key]] == 0).all()


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer")
@pytest.mark.parametrize("name", CASES)
def test_it_comes_back_from_a_file(tmp_path, name):
    make, data, call = _made(name)
    wrapper = kprune.PrunableLayer(make(), granularity="unstructured")
    model = _model(wrapper, data, call)
    kprune.prune(model, 0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert kprune.sparsity(loaded) == kprune.sparsity(model) > 0
    np.testing.assert_allclose(
        numpy(loaded(data)), numpy(model(data)), atol=1e-6
    )
    assert len(keras.models.clone_model(model).weights) == len(model.weights)


def test_the_table_of_layers_is_true():
    text = pathlib.Path(kprune.__file__).parents[1] / "README.md"
    rows = re.findall(r"^\| (`\w+`.*?) \| (.*?) \|$", text.read_text(), re.M)
    listed = {
        name: set(re.findall(r"`(\w+)`", weights))
        for names, weights in rows
        for name in re.findall(r"`(\w+)`", names)
        if name in CASES
    }
    assert len(listed) >= 20
    for name, names in listed.items():
        make, data, call = _made(name)
        layer = make()
        _model(layer, data, call)
        found = {key.rpartition("/")[2] for key in kernels(layer)}
        assert found == names, name
