"""What a right file may differ by follows from how the model computes."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers, ops

from kprune.exporting import tolerance
from kprune.exporting.tolerance import share


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_unit_roundoffs(dtype):
    # `eps` is the distance from 1 to the next number.
    assert tolerance._ROUNDOFF[dtype] == ml_dtypes.finfo(dtype).eps / 2


def _stack(depth, dtype, last="float32"):
    """Dense layers of one dtype, and outputs of another."""
    return keras.Sequential(
        [
            keras.Input((4,), dtype="float32"),
            *(layers.Dense(4, dtype=dtype) for _ in range(depth)),
            layers.Activation("softmax", dtype=last),
        ]
    )


@pytest.mark.parametrize(
    ("dtype", "roundoff"),
    [
        ("bfloat16", 2**-8),
        ("mixed_bfloat16", 2**-8),
        ("float16", 2**-11),
        ("mixed_float16", 2**-11),
        ("float32", 2**-24),
    ],
)
@pytest.mark.parametrize("depth", [1, 4, 9])
def test_layers_add_up_whatever_the_outputs_are(dtype, roundoff, depth):
    expected = 1e-3 + 8 * depth**0.5 * roundoff
    assert share(_stack(depth, dtype)) == pytest.approx(expected, rel=1e-3)
    # One more layer that rounds.
    ratio = (share(_stack(depth, dtype, dtype)) - 1e-3) / (expected - 1e-3)
    if roundoff > 1e-6:
        assert ratio == pytest.approx((1 + 1 / depth) ** 0.5, rel=1e-3)


def test_operations_count_as_layers():
    inputs = keras.Input((4,))
    x = ops.cast(ops.cast(inputs, "bfloat16") * 2, "float32")
    model = keras.Model(inputs, x)
    expected = 1e-3 + 8 * 2**0.5 * 2**-8
    assert share(model) == pytest.approx(expected, rel=1e-3)
    outer = keras.Input((4,))
    assert share(keras.Model(outer, model(outer))) == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.parametrize(
    ("quantize", "roundings", "roundoff"),
    [
        ("float16", 1, 2**-11),
        ("dynamic", 2, 2**-6),  # the kernel, and what it multiplies
        ("int8", 4, 2**-6),  # the kernel, and three layers, the input too
    ],
)
def test_quantized_weights(quantize, roundings, roundoff):
    expected = 1e-3 + 8 * roundings**0.5 * roundoff
    found = share(_stack(1, "float32"), quantize)
    assert found == pytest.approx(expected, rel=1e-3)
    assert share(_stack(1, "bfloat16"), quantize) > found


@pytest.mark.parametrize("quantize", [None, "dynamic", "int8"])
def test_a_file_of_other_weights_never_passes(quantize):
    assert share(_stack(100, "bfloat16"), quantize) == pytest.approx(0.3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_in_fact(dtype):
    """The rule holds what rounding does, with room for another CPU."""
    for depth in (1, 5, 20):
        keras.utils.set_random_seed(depth)
        models = [_deep(depth, dtype), _deep(depth, "float32")]
        models[1].set_weights(models[0].get_weights())
        x = np.random.default_rng(0).normal(size=(16, 32)).astype("float32")
        half, exact = (
            ops.convert_to_numpy(ops.cast(model(x), "float32"))
            for model in models
        )
        difference = np.abs(half - exact).max() / np.abs(exact).max()
        assert 1e-4 < difference < share(models[0]) / 2


def _deep(depth, dtype):
    return keras.Sequential(
        [
            keras.Input((32,)),
            *(
                layers.Dense(32, activation="tanh", dtype=dtype)
                for _ in range(depth)
            ),
        ]
    )
