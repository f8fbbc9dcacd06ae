"""keras.ops in functional models: what shrinks exactly, what stays and why."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import EXACT_MEAN, assert_equal_outputs, branched, shrunk, units

import kprune
from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")

VECTOR = np.linspace(0.5, 1.5, 8)


def _around(function, width=8, side=6):
    """A model with `function` between two Dense layers, and data for it."""
    inputs = keras.Input((side, 4))
    x = layers.Dense(width, name="made")(inputs)
    x = function(x)
    if len(x.shape) > 3:
        x = layers.Flatten()(x)
    x = layers.Dense(5, name="read")(x)
    outputs = layers.Dense(3)(layers.Flatten()(x))
    return keras.Model(inputs, outputs), _data(inputs)


def _data(inputs):
    return np.random.default_rng(1).normal(size=(4, *inputs.shape[1:]))


UNARY = {
    "abs": ops.abs,
    "arcsinh": ops.arcsinh,
    "cast": lambda x: ops.cast(ops.cast(x, "float32"), "float64"),
    "clip": lambda x: ops.clip(x, 0.3, 0.9),
    "cos": ops.cos,
    "elu": lambda x: ops.elu(x, alpha=0.5),
    "exp": ops.exp,
    "expm1": ops.expm1,
    "floor": ops.floor,
    "gelu": ops.gelu,
    "hard_sigmoid": ops.hard_sigmoid,
    "log_of_positive": lambda x: ops.log(ops.square(x) + 0.5),
    "log_sigmoid": ops.log_sigmoid,
    "negative": lambda x: -x,
    "power": lambda x: x**2,
    "power_of_positive": lambda x: ops.power(ops.softplus(x), -0.5),
    "reciprocal_of_positive": lambda x: ops.reciprocal(ops.exp(x)),
    "relu": ops.relu,
    "relu_with_slope": lambda x: keras.activations.relu(x, 0.1, 2.0),
    "round": lambda x: ops.round(x * 4),
    "sigmoid": ops.sigmoid,
    "sign": ops.sign,
    "silu": ops.silu,
    "sin": ops.sin,
    "softplus": ops.softplus,
    "sqrt_of_positive": lambda x: ops.sqrt(ops.square(x) + 1e-3),
    "square": ops.square,
    "stop_gradient": ops.stop_gradient,
    "tanh": ops.tanh,
}


def test_functions_of_each_element():
    model, x = branched(UNARY, (6, 4))
    small = shrunk(model, x)
    assert units(small, UNARY) == dict.fromkeys(UNARY, 4)


BINARY = {
    "scalar_left": lambda x: 2.0 * x,
    "scalar_right": lambda x: x - 0.5,
    "scalar_power": lambda x: 2.0**x,
    "keyword": lambda x: ops.add(x1=x, x2=1.5),
    "divide": lambda x: x / 3.0,
    "divide_by_positive": lambda x: 1.0 / ops.exp(x),
    "divide_both": lambda x: x / ops.softplus(x),
    "mod": lambda x: ops.mod(x, 0.7),
    "maximum": lambda x: ops.maximum(x, 0.2),
    "minimum": lambda x: ops.minimum(ops.sin(x), x),
    "gate": lambda x: x * ops.sigmoid(x),
    "logaddexp": lambda x: ops.logaddexp(x, 0.0),
    "vector_right": lambda x: x + VECTOR,
    "vector_left": lambda x: ops.multiply(VECTOR, x),
    "vector_of_rank_2": lambda x: ops.subtract(VECTOR[None], x),
    "matrix": lambda x: x * np.outer(np.arange(1, 7), VECTOR),
    "column": lambda x: x * np.arange(1.0, 7)[:, None],
    "two_vectors": lambda x: x * ops.where(VECTOR > 1, x, -VECTOR),
    "tensor": lambda x: x * ops.convert_to_tensor(VECTOR),
    "where": lambda x: ops.where(x > 0.1, x, -0.3 * x),
    "logical": lambda x: ops.where(
        ops.logical_and(x > 0, ops.logical_not(x > 1)), x, 0.5
    ),
    "broadcast_in_time": lambda x: x - x[:, :1],
    "other_rank": lambda x: x + x[:, 0][:, None],
    "lower_rank": lambda x: x * ops.sigmoid(ops.sum(x, axis=0)),
}


def test_functions_of_equal_places():
    model, x = branched(BINARY, (6, 4))
    small = shrunk(model, x)
    assert units(small, BINARY) == dict.fromkeys(BINARY, 4)


SHAPING = {
    "concatenate": lambda x: ops.concatenate([x, ops.tanh(x)], axis=-1),
    "concatenate_in_time": lambda x: ops.concatenate([x, ops.cos(x)], 1),
    "stack": lambda x: ops.stack([x, ops.cos(x)], axis=-1),
    "stack_in_front": lambda x: ops.stack([x, ops.cos(x)], axis=1),
    "split": lambda x: ops.multiply(*ops.split(x, 2, axis=-1)),
    "split_whole": lambda x: ops.split(x, 1, axis=-1)[0],
    "split_in_time": lambda x: ops.subtract(*ops.split(x, 2, axis=1)),
    "expand_dims": lambda x: ops.expand_dims(x, -1),
    "expand_dims_twice": lambda x: ops.expand_dims(x, (1, -2)),
    "squeeze": lambda x: ops.squeeze(x[:, 2:3], axis=1),
    "squeeze_all": lambda x: ops.squeeze(x[:, 2:3]),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1)),
    "transpose_from_the_right": lambda x: ops.transpose(x, (0, -1, -2)),
    "swapaxes": lambda x: ops.swapaxes(x, -1, 1),
    "moveaxis": lambda x: ops.moveaxis(x[:, None], (1, 3), (-1, 1)),
    "reshape": lambda x: ops.reshape(x, (-1, 6 * 8)),
    "reshape_with_rest": lambda x: ops.reshape(x, (-1, 3, 2, 8)),
    "flip": lambda x: ops.flip(x, axis=-1),
    "roll_in_time": lambda x: ops.roll(x, 2, axis=1),
    "pad_in_time": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 0))),
    "pad_with_ones": lambda x: ops.pad(
        x, ((0, 0), (1, 2), (0, 0)), constant_values=1.0
    ),
    "pad_by_reflection": lambda x: ops.pad(
        x, ((0, 0), (1, 2), (0, 0)), mode="reflect"
    ),
    "pad_channels": lambda x: ops.pad(x, ((0, 0), (0, 0), (1, 2))),
    "repeat": lambda x: ops.repeat(x, 2, axis=-1),
    "repeat_in_time": lambda x: ops.repeat(x, 2, axis=1),
    "tile": lambda x: ops.tile(x, (1, 1, 2)),
    "tile_more_axes": lambda x: ops.tile(x[:, None], (2, 1, 3)),
    "broadcast_to": lambda x: x + ops.broadcast_to(x[:1, :1], (4, 6, 8)),
    "slice_start": lambda x: x[..., 3:],
    "slice_stop": lambda x: x[:, 1:, :-2],
    "slice_step": lambda x: x[..., ::2] * x[..., 1::2],
    "index_time": lambda x: x[:, -1],
    "new_axis": lambda x: x[:, None, ..., None],
    "take": lambda x: ops.take(x, [7, 0, 0, -2, 3, 5, 1, 4, 2], axis=-1),
    "take_in_time": lambda x: ops.take(x, np.array([0, 4]), axis=1),
    "unstack": lambda x: ops.add(*ops.unstack(x, 6, axis=1)[2:4]),
}


def test_shapes_and_places():
    model, x = branched(SHAPING, (6, 4))
    small = shrunk(model, x)
    assert units(small, SHAPING) == dict.fromkeys(SHAPING, 4)


ALONG = {
    "sum": lambda x: ops.sum(x, axis=1),
    "sum_of_channels": lambda x: ops.sum(x, axis=-1, keepdims=True),
    "mean": lambda x: ops.mean(x, axis=1),
    "mean_with_axis": lambda x: x * ops.mean(x, axis=1, keepdims=True),
    "max": lambda x: ops.max(x, axis=(1,)),
    "min": lambda x: ops.amin(x, axis=-2),
    "var": lambda x: ops.var(x, axis=1),
    "prod": lambda x: ops.prod(x, axis=1),
    "argmax": lambda x: ops.cast(ops.argmax(x, axis=1), "float64"),
    "logsumexp": lambda x: ops.logsumexp(x, axis=1),
    "softmax": lambda x: ops.softmax(x, axis=1),
    "log_softmax": lambda x: ops.log_softmax(x, axis=-2),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "sort": lambda x: ops.sort(x, axis=1),
}


def test_functions_along_other_axes():
    model, x = branched(ALONG, (6, 4))
    small = shrunk(model, x, tolerance=EXACT_MEAN)
    assert units(small, ALONG) == dict.fromkeys(ALONG, 4)


FROZEN = {
    "log": (ops.log, "may not be finite"),
    "sqrt": (lambda x: ops.sqrt(ops.abs(x)), "may not be finite"),
    "rsqrt": (ops.rsqrt, "may not be finite"),
    "divide": (lambda x: 1 / x, "may not be finite"),
    "power": (lambda x: ops.abs(x) ** 0.5, "may not be finite"),
    "power_of_negative": (lambda x: (-2.0) ** x, "base that is not above 0"),
    "clip": (lambda x: ops.clip(x, -VECTOR, VECTOR), "for each channel"),
    "broadcast": (lambda x: x[..., :1] * np.ones(5), "broadcasts it"),
    "variable": (lambda x: x * keras.Variable(VECTOR), "cannot be cut"),
    "int_index": (lambda x: x[..., 2], "picks this channel"),
    "step_backwards": (lambda x: x[..., ::-2], "from the end, in steps"),
    "roll": (lambda x: ops.roll(x, 2, axis=-1), "rolls channels"),
    "roll_all": (lambda x: ops.roll(x, 2), "rolls channels"),
    "reflect": (
        lambda x: ops.pad(x, [(0, 0), (0, 0), (1, 1)], mode="reflect"),
        "pads with other channels",
    ),
    "repeat": (lambda x: ops.repeat(x, range(1, 9), axis=-1), "differently"),
    "unstack": (
        lambda x: ops.add(*ops.unstack(x, 8, axis=2)[:2]),
        "a tensor of each channel",
    ),
    "mean": (lambda x: ops.mean(x, axis=-1), "(Mean) mixes channels"),
    "max": (lambda x: ops.max(x, axis=2), "(Max) mixes channels"),
    "var": (
        lambda x: ops.var(x, axis=(1, 2), keepdims=True),
        "(Var) mixes channels",
    ),
    "softmax": (ops.softmax, "(Softmax) mixes channels"),
    "sum_of_ones": (
        lambda x: ops.sum(ops.cos(x), axis=-1),
        "sums over it, and masked it is not 0",
    ),
    "argmax": (
        lambda x: ops.cast(ops.argmax(x, axis=-1), "float64"),
        "(Argmax) mixes channels",
    ),
    "normalize": (ops.normalize, "(Normalize) has no rule"),
    "unknown_size": (
        lambda x: ops.reshape(x[:, :, :4], (-1, 4 * 2)),
        "leaves no axis of a known size",
    ),
    "constant_matrix": (
        lambda x: ops.matmul(x, np.eye(8)[:, :7] + 1),
        "multiplies it with a tensor that cannot be cut",
    ),
    "first": (
        lambda x: ops.tensordot(x, ops.transpose(x[0]), axes=1),
        "puts it in the batch's place",
    ),
    "diagonal": (lambda x: ops.einsum("bii->bi", x[:, :, :6]), "a diagonal"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_stays_and_why(name):
    function, reason = FROZEN[name]
    model, _ = _around(function)
    made = model.get_layer("made")
    assert reason in "; ".join(channel_graph(model).frozen_reasons(made))


def test_one_channel_stays_of_each_part():
    model, x = _around(
        lambda x: ops.concatenate(ops.split(x, [3, 4], axis=2), axis=-1)
    )
    assert shrunk(model, x, 0.9).get_layer("made").units == 3


@pytest.mark.parametrize(
    ("key", "units"), [(slice(2, 7, 3), 6), (slice(1, None, 5), 5)]
)
def test_slices_in_steps_cut_whole_blocks(key, units):
    model, x = _around(lambda x: x[..., key])
    # The last block, of two and of three channels, is the weakest.
    model.get_layer("made").kernel.assign(np.ones((4, 8)) / VECTOR)
    assert shrunk(model, x).get_layer("made").units == units


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch has no negative steps"
)
@pytest.mark.parametrize("key", [slice(None, None, -1), slice(6, 1, -1)])
def test_slices_backwards(key):
    model, x = _around(lambda x: x[..., key])
    assert shrunk(model, x).get_layer("made").units == 4
    assert shrunk(model, x, 0.9).get_layer("made").units == 1


def test_a_single_channel_that_is_picked_stays_and_others_go():
    model, x = _around(lambda x: x * x[..., 5][..., None])
    model.get_layer("made").kernel.assign(np.ones((4, 8)) * VECTOR)
    small = shrunk(model, x, 0.9)
    assert small.get_layer("made").units == 2


CONTRACTIONS = {
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
    "vectors": lambda x: ops.matmul(x, x[:, 0, :, None]),
    "tensordot": lambda x: ops.tensordot(x, x[0], axes=[[2], [1]]),
    "implicit": lambda x: ops.einsum("bij,bkj", x, ops.sin(x)),
    "trace_of_channels": lambda x: ops.einsum("btc->bt", x),
    "kept": lambda x: ops.einsum("btc,btc->btc", x, ops.cos(x)),
    "layer": lambda x: layers.Dot(axes=2)([x, ops.sin(x)]),
    "layer_in_time": lambda x: layers.Dot(axes=(1, 1))([x, ops.sin(x)]),
    "layer_normalized": lambda x: layers.Dot(-1, normalize=True)([x, x]),
}


# Of `keras.ops.tensordot`, which looks for -1 among sizes.
@pytest.mark.filterwarnings(
    "ignore:NotImplemented should not be used in a boolean"
)
def test_sums_over_products():
    model, x = branched(CONTRACTIONS, (6, 4))
    small = shrunk(model, x)
    assert units(small, CONTRACTIONS) == dict.fromkeys(CONTRACTIONS, 4)


def test_sums_over_what_is_not_zero_stay_in_compact_too():
    """`compact` looks at the values: biases that are not 0 are summed."""
    model, x = _around(lambda x: ops.sum(x, axis=-1, keepdims=True))
    made = model.get_layer("made")
    kernel = np.ones((4, 8))
    kernel[:, [1, 4, 6]] = 0
    made.set_weights([kernel, np.array([1, 0, 1, 1, 0, 1, 0.5, 1])])
    small = kprune.compact(model)
    assert small.get_layer("made").units == 6
    assert_equal_outputs(model, small, x)


def test_constants_through_operations_are_folded():
    model, x = _around(
        lambda x: ops.maximum(ops.exp(-x) * VECTOR, 0.2) / (1 + ops.abs(x))
    )
    made = model.get_layer("made")
    kernel = np.ones((4, 8))
    kernel[:, [1, 4]] = 0
    made.set_weights([kernel, np.arange(8.0) / 8])
    small = kprune.compact(model)
    assert small.get_layer("made").units == 6
    assert_equal_outputs(model, small, x)


def test_a_slice_of_constants_keeps_one_and_what_makes_it():
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="sigmoid", name="made")(inputs)
    x = layers.Dense(6, use_bias=False, name="middle")(x)
    x = ops.concatenate([x[:, :3] * 2.0, x[:, 3:]], axis=-1)
    model = keras.Model(inputs, layers.Dense(2)(x))
    made, middle = model.get_layer("made"), model.get_layer("middle")
    kernel, bias = made.get_weights()
    kernel[:, :4] = 0
    made.set_weights([kernel, bias + 0.3])
    (kernel,) = middle.get_weights()
    kernel[4:, :3] = 0  # the first half is constant
    middle.set_weights([kernel])
    small = kprune.compact(model)
    assert small.get_layer("middle").units == 4
    assert_equal_outputs(model, small, _data(inputs))


def test_a_config_that_keras_does_not_write_freezes():
    model, _ = _around(lambda x: ops.reshape(x, (-1, np.int64(6), 2, 4)))
    (reason,) = channel_graph(model).frozen_reasons(model.get_layer("made"))
    assert "no config that can be changed" in reason
