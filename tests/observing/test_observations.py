"""What is observed, against finite differences and slow direct sums."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.observing.observations import Observations
from kprune.observing.samples import Batch, read
from kprune.prunable import prunable_weights
from kprune.weights import to_numpy

BACKEND = keras.backend.backend()


def _data(model, batch=6):
    generator = np.random.default_rng(1)
    shape = (batch, *model.input_shape[1:])
    if model.inputs[0].dtype.startswith("int"):
        x = generator.integers(0, 5, shape)
    else:
        x = generator.normal(size=shape)
    outputs = model(x)
    structure = keras.tree.map_structure(
        lambda t: generator.normal(size=tuple(t.shape)), outputs
    )
    return x, structure


class Own(keras.Model):
    """Subclassed, with a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.first = kprune.PrunableDense(4, activation="tanh")
        self.again = kprune.PrunableDense(4, activation="tanh")
        self.last = kprune.PrunableDense(2)

    def call(self, x):
        x = self.first(x)
        return self.last(self.again(self.again(x)))


def _sequential(*stack, shape, dtype=None):
    return kprune.make_prunable(
        keras.Sequential([keras.Input(shape, dtype=dtype), *stack])
    )


def _attention():
    inputs = keras.Input((3, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    return kprune.make_prunable(keras.Model(inputs, layers.Flatten()(x)))


def _two_outputs():
    inputs = keras.Input((4,))
    x = layers.Dense(5, activation="tanh")(inputs)
    return kprune.make_prunable(
        keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(3)(x)])
    )


def _nested():
    inner = keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Conv2D(3, 3), layers.Flatten()]
    )
    inputs = keras.Input((6, 6, 2))
    return kprune.make_prunable(
        keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    )


MODELS = {
    "dense": lambda: _sequential(
        layers.Dense(5, activation="tanh"), layers.Dense(2), shape=(4,)
    ),
    "conv": lambda: _sequential(
        layers.Conv2D(4, 3, strides=2, padding="same", activation="tanh"),
        layers.BatchNormalization(),
        layers.Conv2D(4, 2, groups=2),
        layers.Flatten(),
        layers.Dense(2),
        shape=(6, 6, 2),
    ),
    "depthwise": lambda: _sequential(
        layers.DepthwiseConv2D(3, activation="tanh"),
        layers.SeparableConv2D(3, 2),
        layers.Conv2DTranspose(2, 2),
        layers.Flatten(),
        shape=(6, 6, 2),
    ),
    "embedding": lambda: _sequential(
        layers.Embedding(5, 3),
        layers.GlobalAveragePooling1D(),
        layers.Dense(2),
        shape=(4,),
        dtype="int32",
    ),
    "recurrent": lambda: _sequential(
        layers.LSTM(3, return_sequences=True),
        layers.Bidirectional(layers.GRU(2)),
        shape=(4, 3),
    ),
    "attention": _attention,
    "time_distributed": lambda: _sequential(
        layers.TimeDistributed(layers.Dense(2)), shape=(4, 3)
    ),
    "nested": _nested,
    "two_outputs": _two_outputs,
}


def _built(name):
    model = MODELS[name]()
    # Live signal in every bias and norm, and masks that are not all ones.
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(size=variable.shape) / 2)
    return kprune.prune(model, 0.3, granularity="unstructured")


def _snapshot(model):
    variables = list(model.variables)
    if model.compiled:
        variables += model.optimizer.variables
    return [to_numpy(variable).copy() for variable in variables]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_finite_differences(name):
    model = _built(name)
    model.compile("adam", "mse")
    x, y = _data(model)
    before = _snapshot(model)
    observed = Observations(model, [Batch(x, y)])
    found = {
        w.variable.path: observed.gradient(w) for w in prunable_weights(model)
    }
    for was, now in zip(before, _snapshot(model)):
        np.testing.assert_array_equal(was, now)

    # Masks of ones over zeroed weights compute the same, so that the masked
    # ones can be moved.
    for weight in prunable_weights(model):
        weight.variable.assign(weight.masked())
        weight.mask.assign(np.ones(weight.shape, bool))
    # Elsewhere Keras computes some of it in float32.
    step, rel = (1e-5, 1e-6) if BACKEND == "tensorflow" else (1e-2, 1e-2)

    def loss():
        total = model.compute_loss(x, y, model(x, training=False))
        return float(ops.stop_gradient(total))

    generator = np.random.default_rng(2)
    for weight in prunable_weights(model):
        value = weight.value().copy()
        # Along a chance direction: a wrong entry would show in the sum.
        way = generator.normal(size=value.shape)
        losses = []
        for sign in (1, -1):
            weight.variable.assign(value + sign * step * way)
            losses.append(loss())
        weight.variable.assign(value)
        slope = (losses[0] - losses[1]) / (2 * step)
        along = np.sum(found[weight.variable.path] * way)
        assert along == pytest.approx(slope, rel=rel)


@pytest.mark.parametrize("name", ["dense", "two_outputs"])
def test_squared_gradients_are_means_over_batches(name):
    model = _built(name)
    model.compile("sgd", "mse")
    batches = [Batch(*_data(model, size)) for size in (4, 6)]
    both = Observations(model, batches)
    alone = [Observations(model, [batch]) for batch in batches]
    for weight in prunable_weights(model):
        each = [one.gradient(weight) for one in alone]
        np.testing.assert_allclose(
            both.gradient(weight), np.mean(each, axis=0), rtol=1e-6
        )
        np.testing.assert_allclose(
            both.squared_gradient(weight),
            np.mean(np.square(each), axis=0),
            rtol=1e-6,
        )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [n for n in MODELS if n != "two_outputs"])
def test_norms_are_the_diagonals_of_grams(name):
    model = _built(name)
    x, _ = _data(model)
    before = _snapshot(model)
    observed = Observations(model, [Batch(x[:4]), Batch(x[4:])])
    for weight in prunable_weights(model):
        gram, norm = observed.gram(weight), observed.input_norm(weight)
        assert norm.shape == weight.shape
        assert norm.max() > 0
        of_kernel = observed.map_of(weight)
        np.testing.assert_allclose(
            of_kernel.matrices(norm),
            np.sqrt(np.einsum("gii->gi", gram))[..., None]
            * np.ones(of_kernel.shape[2]),
            rtol=1e-12,
        )
    for was, now in zip(before, _snapshot(model)):
        np.testing.assert_array_equal(was, now)


@pytest.mark.usefixtures("float64")
def test_a_layer_sees_what_the_masked_layers_before_it_give():
    model = _built("dense")
    x, _ = _data(model)
    first, second = prunable_weights(model)
    observed = Observations(model, [Batch(x)])
    np.testing.assert_allclose(observed.gram(first)[0], x.T @ x / 6)
    bias = to_numpy(first.bias)
    hidden = np.tanh(x @ first.masked() + bias)
    atol = 1e-12 if BACKEND == "tensorflow" else 1e-6
    np.testing.assert_allclose(
        observed.gram(second)[0], hidden.T @ hidden / 6, atol=atol
    )


@pytest.mark.usefixtures("float64")
def test_all_calls_of_a_shared_layer_count():
    model = Own()
    x = np.random.default_rng(0).normal(size=(5, 3))
    model(x)
    weight = next(w for w in prunable_weights(model) if w.layer is model.again)
    once = ops.convert_to_numpy(model.first(x))
    twice = ops.convert_to_numpy(model.again(model.first(x)))
    expected = (once.T @ once + twice.T @ twice) / 10
    observed = Observations(model, [Batch(x)])
    np.testing.assert_allclose(observed.gram(weight)[0], expected, atol=1e-6)


@pytest.mark.parametrize("backwards", [False, True])
def test_steps_that_are_masked_do_not_count(backwards):
    model = _sequential(
        layers.Embedding(5, 3, mask_zero=True),
        layers.RNN(
            [layers.SimpleRNNCell(4), layers.SimpleRNNCell(2)],
            return_sequences=True,
            go_backwards=backwards,
        ),
        layers.Dense(2),
        shape=(4,),
        dtype="int32",
    )
    # No sample has all, some step is of none, and one within is left out.
    indices = np.array([[1, 0, 2, 0], [3, 0, 4, 0], [0, 0, 1, 0]])
    embedding, first, state, second, _, dense = prunable_weights(model)
    read, of_state, of_second = [], [], []
    rnn = model.layers[1].layer.cell.cells
    for sample in indices[:, ::-1] if backwards else indices:
        states = np.zeros(4), np.zeros(2)
        for index in sample[sample > 0]:
            x = embedding.value()[index]
            read.append(x)
            of_state.append(states[0])
            one = np.tanh(x @ first.value() + states[0] @ state.value())
            of_second.append(one)
            two = one @ second.value()
            two = two + states[1] @ to_numpy(rnn[1].recurrent_kernel)
            states = one, np.tanh(two)
    observed = Observations(model, [Batch(indices)])
    for weight, rows in ((first, read), (state, of_state), (second, of_second)):
        expected = np.transpose(rows) @ rows / 5
        found = observed.gram(weight)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    # Elsewhere all steps are computed, and count: 12.
    outputs = model.layers[1](model.layers[0](indices))
    outputs = ops.convert_to_numpy(outputs).reshape(12, 2)
    expected = outputs.T @ outputs / 12
    found = observed.gram(dense)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_index_reads_one_row():
    model = _built("embedding")
    observed = Observations(model, [Batch(np.array([[0, 0, 1, 4]]))])
    weight = prunable_weights(model)[0]
    expected = np.sqrt([0.5, 0.25, 0, 0, 0.25])
    np.testing.assert_allclose(
        observed.input_norm(weight), np.repeat(expected[:, None], 3, 1)
    )
    np.testing.assert_allclose(observed.gram(weight)[0], np.diag(expected**2))


class WithLoss(layers.Layer):
    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return x


@pytest.mark.usefixtures("float64")
def test_losses_of_layers_weights_and_samples_count():
    inputs = keras.Input((3,))
    x = layers.Dense(
        2, kernel_regularizer=keras.regularizers.L2(0.1), use_bias=False
    )(inputs)
    model = kprune.make_prunable(keras.Model(inputs, WithLoss()(x)))
    model.compile("sgd", "mse")
    (weight,) = prunable_weights(model)
    x = np.random.default_rng(0).normal(size=(4, 3))
    y, sample_weight = np.zeros((4, 2)), np.array([0.0, 1.0, 2.0, 1.0])
    kernel = weight.value()
    outputs = x @ kernel
    own = 2 * x.T @ outputs / outputs.size
    # Keras divides by the number of samples, not by the sum of weights.
    of_loss = x.T @ (sample_weight[:, None] * outputs) * 2 / outputs.size
    observed = Observations(model, [Batch(x, y, sample_weight)])
    np.testing.assert_allclose(
        observed.gradient(weight), of_loss + own + 0.2 * kernel, atol=1e-6
    )
    # `loss=` stands in for the one of `compile`.
    plain = Observations(model, [Batch(x, y)], loss="mse")
    np.testing.assert_allclose(
        plain.gradient(weight), 2 * own + 0.2 * kernel, atol=1e-6
    )


def test_what_data_can_be():
    x, y = np.arange(80.0).reshape(40, 2), np.arange(40)

    def generator():
        for start in range(0, 40, 10):
            yield x[start : start + 10], y[start : start + 10]

    class Sequence(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return x[10 * index :][:10], y[10 * index :][:10]

    import tensorflow as tf

    given = [
        (x, y),
        generator(),
        list(generator()),
        Sequence(),
        tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
        tf.data.Dataset.from_tensor_slices((x, y)).batch(16).repeat().take(3),
    ]
    if BACKEND == "torch":
        import torch

        pairs = torch.utils.data.TensorDataset(
            torch.as_tensor(x), torch.as_tensor(y)
        )
        given.append(torch.utils.data.DataLoader(pairs, batch_size=16))
    for data in given:
        batches = read(data)
        np.testing.assert_array_equal(
            np.concatenate([b.x for b in batches])[:40], x
        )
        np.testing.assert_array_equal(
            np.concatenate([b.y for b in batches])[:40], y
        )
    for samples in (x, [x], {"a": x}, (x,)):
        (first, *_) = read(samples)
        assert first.y is None and len(first) == 32
    # Of many samples some are taken all over the array.
    many = read(np.arange(10_000.0))
    taken = np.concatenate([batch.x for batch in many])
    assert taken.size == 2048 and taken[0] == 0 and taken[-1] > 9_990


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((0, 3)), "is empty"),
        (iter([]), "is empty"),
        (np.array([[np.nan, 1.0]]), "nan or infinite"),
        ((np.zeros((3, 1)), np.zeros(4)), "as many targets as samples"),
        ("x.npz", "Received: str"),
        (5, "Received: int"),
        (iter([(1, 2, 3, 4)]), "tuple of length 4"),
        (np.float32(3), "a number"),
    ],
)
def test_bad_data(data, words):
    with pytest.raises(ValueError, match=words):
        read(data)


def test_what_is_missing_is_said():
    model = _built("dense")
    (weight, _) = prunable_weights(model)
    x, y = _data(model)
    with pytest.raises(
        ValueError, match="is not compiled. Compile it, or pass"
    ):
        Observations(model, [Batch(x, y)]).gradient(weight)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="need targets"):
        Observations(model, [Batch(x)]).gradient(weight)
    with pytest.raises(ValueError, match=r"cannot compute on the samples"):
        Observations(model, [Batch(x[:, :2])]).gram(weight)

    @keras.saving.register_keras_serializable()
    class Own(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 2), name="w")

        def call(self, x):
            return ops.matmul(x, self.w)

    @keras.saving.register_keras_serializable()
    class Doubled(layers.Dense):
        def call(self, x):
            return super().call(2 * x)

    for layer in (Own(name="mine"), Doubled(2, name="mine")):
        model = kprune.make_prunable(
            keras.Sequential([keras.Input((4,)), layer])
        )
        observed = Observations(model, [Batch(x)])
        with pytest.raises(ValueError, match="layer 'mine'.*is not known"):
            observed.input_norm(prunable_weights(model)[0])
