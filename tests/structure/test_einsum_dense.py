"""EinsumDense: axes that are read, made, shared and passed."""

import numpy as np
import pytest
from keras import layers
from models import assert_equal_outputs, randomized, shrunk
from stacks import read_out, reasons, samples, sizes, stack

import kprune

pytestmark = pytest.mark.usefixtures("float64")


def _einsum(shape, equation, output_shape, bias_axes, dots="bcd"):
    # What reads all axes at once, as `Flatten` would not let two be cut.
    read = equation.partition("->")[2].replace("...", dots[: len(shape) - 1])
    read = read if read[0] == "a" else f"a{read}"
    return stack(
        shape,
        layers.Dense(shape[-1], activation="sigmoid", name="first"),
        layers.EinsumDense(
            equation,
            output_shape,
            bias_axes=bias_axes,
            activation="relu",
            name="einsum",
        ),
        layers.EinsumDense(f"{read},{read[1:]}z->az", 3),
    )


@pytest.mark.parametrize(
    ("shape", "arguments", "left", "kernel"),
    [
        ((8,), ("ab,bc->ac", 6, "c"), (3,), (4, 3)),
        ((5, 8), ("...k,kl->...l", 6, None), (3,), (4, 3)),
        ((5, 5, 8), ("...k,kl->...l", 6, "l"), (3,), (4, 3)),
        ((5, 8), ("abc,cd->abd", (5, 6), "bd"), (5, 3), (4, 3)),
        ((5, 8), ("abc,cd->adb", (6, 5), "d"), (3, 5), (4, 3)),
        # Several axes are made, or read.
        ((5, 8), ("abc,cde->abde", (5, 4, 6), "de"), (5, 2, 3), (4, 2, 3)),
        ((5, 8), ("abc,cde->abde", (5, 4, 6), "e"), (5, 2, 3), (4, 2, 3)),
        ((5, 8), ("abc,cde->abde", (5, 4, 6), None), (5, 2, 3), (4, 2, 3)),
        ((5, 8), ("abc,bcd->ad", 6, "d"), (3,), (5, 4, 3)),
        # Axes that input, kernel and output share.
        ((5, 8), ("abc,cbd->acd", (8, 6), "cd"), (4, 3), (4, 5, 3)),
        ((5, 8), ("abc,cd->abcd", (5, 8, 6), "cd"), (5, 4, 3), (4, 3)),
        ((5, 8), ("abc,cd->abcd", (5, 8, 6), None), (5, 4, 3), (4, 3)),
        ((5, 8), ("abc,c->abc", (5, 8), "c"), (5, 4), (4,)),
        # An axis that passes.
        ((5, 8), ("abc,bd->adc", (6, 8), "d"), (3, 4), (5, 3)),
        ((5, 8), ("abc,bd->adc", (6, 8), "dc"), (3, 4), (5, 3)),
    ],
)  # fmt: skip
def test_einsum_dense(shape, arguments, left, kernel):
    model = _einsum(shape, *arguments)
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "einsum", "output_shape") == [left]
    assert tuple(smaller.get_layer("einsum").kernel.shape) == kernel
    assert sizes(smaller, "first", "units") == [4]


def test_an_einsum_of_unknown_length():
    model = stack(
        (None, 6),
        layers.Dense(8, name="first"),
        layers.EinsumDense(
            "abc,cd->abd", (None, 6), bias_axes="d", name="einsum"
        ),
        layers.GlobalMaxPooling1D(),
        layers.Dense(3),
    )
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    smaller = shrunk(model, x)
    assert sizes(smaller, "einsum", "output_shape") == [(None, 3)]


def test_an_einsum_with_dots_on_the_right():
    model = stack(
        (4, 6),
        layers.Dense(8, name="first"),
        layers.Permute((2, 1)),
        layers.EinsumDense("ab...,bc->ac...", 6, bias_axes="c", name="einsum"),
        *read_out(),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "einsum", "output_shape") == [(3,)]
    assert tuple(smaller.get_layer("einsum").kernel.shape) == (4, 3)


def test_an_einsum_of_several_axes_that_were_made():
    model = stack(
        (5, 6),
        layers.EinsumDense(
            "abc,cde->abde", (5, 4, 6), bias_axes="de", name="apart"
        ),
        layers.EinsumDense(
            "abde,dec->abc", (5, 8), bias_axes="c", name="together"
        ),
        *read_out(),
    )
    for sparsity, left in ((0.5, (2, 3, 4)), (0.9, (1, 1, 1))):
        smaller = shrunk(model, samples(model), sparsity)
        assert smaller.get_layer("apart").kernel.shape[1:] == left[:2]
        assert tuple(smaller.get_layer("together").kernel.shape) == left


def test_an_einsum_that_makes_no_channels():
    model = stack(
        (5, 6),
        layers.Dense(8, name="first"),
        layers.EinsumDense("abc,c->ab", (5,), name="einsum"),
        layers.Dense(3),
    )
    smaller = shrunk(model, samples(model))
    assert sizes(smaller, "first", "units") == [4]
    assert tuple(smaller.get_layer("einsum").kernel.shape) == (4,)


def test_an_einsum_that_sums_without_weights():
    def model(activation):
        return stack(
            (6,),
            layers.Dense(8, activation=activation, name="first"),
            layers.Reshape((2, 4)),
            layers.EinsumDense("abc,bd->ad", 6, name="einsum"),
            layers.Dense(3),
        )

    smaller = shrunk(model("relu"), samples(model("relu")))
    assert sizes(smaller, "first", "units") == [4]
    (reason,) = reasons(model("sigmoid"), "first")
    assert "'einsum' sums over it" in reason


def test_zeros_in_an_einsum():
    model = _einsum((5, 8), "abc,cd->abcd", (5, 8, 6), "d")
    randomized(model)
    first, einsum = model.layers[:2]
    kernel, bias = einsum.get_weights()
    kernel[1] = 0
    kernel[:, 2] = 0  # the bias stays
    einsum.set_weights([kernel, bias])
    (kernel,) = model.layers[-1].get_weights()
    kernel[:, 1] = 0
    kernel[:, :, 3] = 0
    model.layers[-1].set_weights([kernel])
    smaller = kprune.compact(model)
    assert sizes(smaller, "einsum", "output_shape") == [(5, 7, 5)]
    assert sizes(smaller, "first", "units") == [7]
    assert_equal_outputs(model, smaller, samples(model))


def test_a_diagonal_stays():
    model = stack(
        (5,),
        layers.Dense(6, name="first"),
        layers.EinsumDense("ab,bb->ab", 6, name="einsum"),
        layers.Dense(3),
    )
    (reason,) = reasons(model, "first")
    assert reason == "'einsum' takes a diagonal of it"
