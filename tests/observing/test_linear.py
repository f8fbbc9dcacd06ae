"""Each kernel computes `rows @ matrix`, whatever the kind of its layer."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.observing import kernels, linear
from kprune.observing.steps import step_by_step
from kprune.observing.watching import to_numpy, watching

pytestmark = pytest.mark.usefixtures("float64")

BACKEND = keras.backend.backend()
SAME = {"padding": "same"}
KINDS = {
    "dense": (lambda: layers.Dense(3), (5,)),
    "dense_3d": (lambda: layers.Dense(3), (4, 5)),
    "conv1d": (lambda: layers.Conv1D(3, 3, strides=2), (8, 2)),
    "conv1d_causal": (
        lambda: layers.Conv1D(3, 3, padding="causal", dilation_rate=2),
        (8, 2),
    ),
    "conv2d": (lambda: layers.Conv2D(3, (3, 2), **SAME), (5, 6, 2)),
    "conv2d_strides": (
        lambda: layers.Conv2D(3, 3, strides=(2, 3), **SAME),
        (7, 8, 2),
    ),
    "conv2d_dilation": (
        lambda: layers.Conv2D(3, (3, 2), dilation_rate=2, **SAME),
        (7, 8, 2),
    ),
    "conv2d_groups": (lambda: layers.Conv2D(6, 3, groups=2), (5, 5, 4)),
    "conv3d": (lambda: layers.Conv3D(2, 2, strides=2), (4, 4, 4, 2)),
    "transposed1d": (lambda: layers.Conv1DTranspose(3, 4, 2), (5, 2)),
    "transposed2d": (
        lambda: layers.Conv2DTranspose(3, (3, 2), 2, **SAME),
        (4, 3, 2),
    ),
    "transposed2d_short": (
        lambda: layers.Conv2DTranspose(3, 2, strides=3),
        (3, 3, 2),
    ),
    "transposed2d_dilated": (
        lambda: layers.Conv2DTranspose(3, 3, dilation_rate=2),
        (4, 4, 2),
    ),
    "transposed3d": (lambda: layers.Conv3DTranspose(2, 2, 2), (2, 3, 2, 2)),
    "depthwise1d": (
        lambda: layers.DepthwiseConv1D(3, depth_multiplier=2),
        (6, 3),
    ),
    "depthwise2d": (
        lambda: layers.DepthwiseConv2D(3, strides=2, **SAME),
        (6, 6, 3),
    ),
    "einsum": (lambda: layers.EinsumDense("abc,cd->abd", (4, 3)), (4, 5)),
    "einsum_heads": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (4, 5),
    ),
    "einsum_merged": (
        lambda: layers.EinsumDense("abde,dec->abc", (None, 4)),
        (4, 2, 3),
    ),
    "einsum_dots": (lambda: layers.EinsumDense("...x,xy->...y", 3), (4, 5)),
    "einsum_shared": (
        lambda: layers.EinsumDense("abc,bcd->abd", (4, 3)),
        (4, 5),
    ),
    "einsum_summed": (lambda: layers.EinsumDense("abc,cd->ad", 3), (4, 5)),
    "embedding": (lambda: layers.Embedding(7, 3), (4,)),
}


def _samples(name, shape):
    generator = np.random.default_rng(0)
    if name == "embedding":
        return generator.integers(0, 7, (2, *shape))
    return generator.integers(-4, 5, (2, *shape)).astype("float64")


def _round(layer):
    """Weights of few bits: sums of them are exact in float32 too.

    On torch Keras multiplies matrices of float64 in float32.
    """
    for variable in layer.weights:
        variable.assign(np.round(8 * to_numpy(variable)) / 8)


@pytest.mark.parametrize("name", KINDS)
def test_rows_times_matrix_is_what_a_layer_computes(name):
    if name == "transposed2d_dilated" and BACKEND == "tensorflow":
        pytest.skip("TensorFlow has no such CPU kernel")
    make, shape = KINDS[name]
    layer, x = make(), _samples(name, shape)
    layer.build(x.shape)
    _round(layer)
    outputs = to_numpy(layer(x))  # Biases start as zeros.
    (one,) = kernels.maps_of(layer)
    kernel = to_numpy(one.variable)
    rows = one.read({"inputs": x}, linear.every)
    matrices = one.matrices(kernel)
    np.testing.assert_array_equal(one.kernel(matrices), kernel)
    found = rows @ matrices
    # Side by side: those of groups, and of a kernel that axes share.
    assert found.size == outputs.size
    if name == "einsum_shared":
        found = found.transpose(1, 0, 2)
        found = found.reshape(2, 4, 3)
    else:
        found = found.transpose(1, 0, 2).reshape(outputs.shape)
    np.testing.assert_allclose(found, outputs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["conv2d", "transposed2d", "depthwise2d"])
def test_chosen_rows_are_those_of_all(name):
    make, shape = KINDS[name]
    layer, x = make(), _samples(name, shape)
    layer(x)
    (one,) = kernels.maps_of(layer)
    chosen = np.array([3, 0, 7])
    every = one.read({"inputs": x}, linear.every)
    some = one.read({"inputs": x}, lambda count: chosen)
    np.testing.assert_array_equal(some, every[:, chosen])


@pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow has no such CPU kernel"
)
def test_channels_first():
    layer = layers.Conv2D(3, 3, data_format="channels_first", **SAME)
    x = np.random.default_rng(0).normal(size=(2, 2, 5, 6))
    outputs = np.moveaxis(to_numpy(layer(x)), 1, -1)
    (one,) = kernels.maps_of(layer)
    rows = one.read({"inputs": x}, linear.every)
    found = (rows @ one.matrices(to_numpy(one.variable)))[0]
    np.testing.assert_allclose(
        found, outputs.reshape(found.shape), rtol=0, atol=1e-12
    )


def _read_of(layer, x):
    """The maps of the layer's owners, and the rows at each of their calls."""
    found = {}

    def heard(owner, call, *args, **kwargs):
        arguments = linear.arguments_of(owner, args, kwargs)
        for one in kernels.maps_of(owner):
            rows = one.read(arguments, linear.every)
            found.setdefault(one.variable.path, (one, []))[1].append(rows)
        return call(*args, **kwargs)

    owners = [part for part in layer._flatten_layers() if kernels.maps_of(part)]
    with watching(owners, heard), step_by_step(layer):
        layer(x)
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.SimpleRNN(3, return_sequences=True, activation=None),
        lambda: layers.GRU(3, return_sequences=True),
        lambda: layers.GRU(3, return_sequences=True, reset_after=False),
        lambda: layers.LSTM(3, return_sequences=True),
        lambda: layers.ConvLSTM2D(3, 2, return_sequences=True),
    ],
    ids=["simple", "gru", "gru_reset_before", "lstm", "conv_lstm"],
)
def test_what_recurrent_kernels_read_over_time(make):
    layer = make()
    conv = isinstance(layer, layers.ConvLSTM2D)
    shape = (2, 4, 5, 5, 2) if conv else (2, 4, 5)
    x = np.random.default_rng(0).integers(-2, 3, shape).astype("float64")
    layer(x)
    _round(layer)
    states = to_numpy(layer(x))
    read = {path.split("/")[-1]: of for path, of in _read_of(layer, x).items()}
    (of_input, inputs), (of_state, seen) = (
        read["kernel"],
        read["recurrent_kernel"],
    )
    assert len(inputs) == len(seen) == 4
    if not conv:
        for step in range(4):
            np.testing.assert_array_equal(inputs[step][0], x[:, step])
            before = states[:, step - 1] if step else 0 * states[:, 0]
            # Keras on torch computes some of it in float32.
            np.testing.assert_allclose(seen[step][0], before, atol=1e-6)
    matrices = of_input.matrices(to_numpy(of_input.variable))
    gates = [rows @ matrices for rows in inputs]
    matrices = of_state.matrices(to_numpy(of_state.variable))
    recurrent = [rows @ matrices for rows in seen]
    if isinstance(layer, layers.SimpleRNN):
        for step in range(4):
            np.testing.assert_allclose(
                gates[step][0] + recurrent[step][0], states[:, step], atol=1e-12
            )
    if isinstance(layer, layers.GRU) and not layer.reset_after:
        bias = to_numpy(layer.cell.bias)
        for step in range(4):
            z, r, h = (
                gates[step][0].reshape(2, 3, 3).swapaxes(0, 1)
                + recurrent[step]
                + bias.reshape(3, 1, 3)
            )
            z = 1 / (1 + np.exp(-z))
            expected = z * seen[step][0] + (1 - z) * np.tanh(h)
            # Functions of float32 on torch and JAX.
            np.testing.assert_allclose(expected, states[:, step], atol=1e-6)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_both_kernels_of_a_separable_convolution(multiplier):
    layer = layers.SeparableConv2D(
        4, 3, depth_multiplier=multiplier, **SAME, strides=2
    )
    x = np.random.default_rng(0).integers(-2, 3, (2, 5, 5, 3)).astype("float64")
    layer(x)
    _round(layer)
    outputs = to_numpy(layer(x))
    depthwise, pointwise = kernels.maps_of(layer)
    middle = depthwise.read({"inputs": x}, linear.every) @ depthwise.matrices(
        to_numpy(depthwise.variable)
    )
    middle = middle.transpose(1, 0, 2).reshape(-1, 3 * multiplier)
    rows = pointwise.read({"inputs": x}, linear.every)[0]
    np.testing.assert_allclose(rows, middle, atol=1e-12)
    found = rows @ pointwise.matrices(to_numpy(pointwise.variable))[0]
    np.testing.assert_allclose(
        found.reshape(outputs.shape), outputs, atol=1e-12
    )


def test_layers_within_layers_are_heard():
    attention = layers.MultiHeadAttention(2, 3)
    x = np.random.default_rng(0).normal(size=(2, 4, 5))
    attention(x, x)
    found = {}

    def heard(owner, call, *args, **kwargs):
        found[owner.name] = linear.arguments_of(owner, args, kwargs)
        return call(*args, **kwargs)

    owners = [part for part in attention._flatten_layers() if part.weights]
    owners.remove(attention)
    with watching(owners, heard):
        attention(x, x)
    assert set(found) == {"query", "key", "value", "attention_output"}
    np.testing.assert_array_equal(to_numpy(found["key"]["inputs"]), x)
    # All of it is as before.
    assert all("call" not in vars(owner) for owner in owners)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.TimeDistributed(layers.Dense(3)),
        lambda: layers.Bidirectional(layers.LSTM(3)),
    ],
    ids=["time_distributed", "bidirectional"],
)
def test_wrapped_layers_are_heard_at_each_step(make):
    layer = make()
    x = np.random.default_rng(0).normal(size=(2, 4, 5))
    layer(x)
    read = [
        (path, calls)
        for path, (_, calls) in _read_of(layer, x).items()
        if "recurrent" not in path
    ]
    assert len(read) == (2 if isinstance(layer, layers.Bidirectional) else 1)
    for index, (_, calls) in enumerate(read):
        turned = x[:, ::-1] if index else x
        for step, rows in enumerate(calls):
            np.testing.assert_array_equal(rows[0], turned[:, step])
