"""Embeddings: columns go, rows stay."""

import keras
import numpy as np
import pytest
from keras import layers
from models import assert_equal_outputs, shrunk
from stacks import read_out, reasons, samples, sizes, stack

import kprune

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.filterwarnings("ignore:.* destroy the mask information")
@pytest.mark.parametrize("mask_zero", [False, True])
def test_embeddings(mask_zero):
    model = stack(
        (6,),
        layers.Embedding(7, 8, mask_zero=mask_zero, name="embedding"),
        layers.Dense(6, activation="relu", name="hidden"),
        *read_out(),
        dtype="int32",
    )
    for sparsity, left in ((0.5, 4), (0.9, 1)):
        smaller = shrunk(model, samples(model), sparsity)
        found = sizes(smaller, "embedding", "input_dim", "output_dim")
        assert found == [7, left]


def test_a_column_of_equal_embeddings_is_folded():
    model = stack(
        (6,),
        layers.Embedding(7, 5, name="embedding"),
        layers.Dense(4),
        *read_out(),
        dtype="int32",
    )
    (table,) = model.layers[0].get_weights()
    table[:, 1] = 0.7
    table[:, 2] = 0
    model.layers[0].set_weights([table])
    smaller = kprune.compact(model)
    assert sizes(smaller, "embedding", "output_dim") == [3]
    assert_equal_outputs(model, smaller, samples(model))


@pytest.mark.parametrize("tied", [True, False])
def test_reversible_embeddings(tied):
    table = layers.ReversibleEmbedding(
        7, 8, tie_weights=tied, logit_soft_cap=5.0, name="table"
    )
    inputs = keras.Input((6,), dtype="int32")
    x = table(inputs)
    y = layers.Dense(12, activation="relu", name="hidden")(x)
    x = layers.Add()([x, layers.Dense(8)(y)])
    model = keras.Model(inputs, table(x, reverse=True))
    model.get_layer("table").embeddings.assign(
        np.random.default_rng(0).normal(size=(7, 8))
    )
    for sparsity, left in ((0.5, (4, 6)), (0.9, (1, 2))):
        smaller = shrunk(model, samples(model), sparsity)
        assert sizes(smaller, "table", "output_dim") == [left[0]]
        assert sizes(smaller, "hidden", "units") == [left[1]]


@pytest.mark.parametrize("tied", [True, False])
def test_reversible_embeddings_of_what_cannot_be_cut(tied):
    table = layers.ReversibleEmbedding(7, 8, tie_weights=tied, name="table")
    words = keras.Input((6,), dtype="int32")
    vectors = keras.Input((6, 8))
    x = layers.Dense(4)(table(words))
    model = keras.Model([words, vectors], [x, table(vectors, reverse=True)])
    (reason,) = reasons(model, "table")
    assert reason == "'table' also takes what cannot be cut"
