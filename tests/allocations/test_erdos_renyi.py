"""Densities by the shapes of kernels."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.allocations import ErdosRenyi


def _with_kernels(*shapes):
    """Prunable layers with kernels of these shapes."""
    found = []
    for *space, inputs, outputs in shapes:
        if space:
            layer = kprune.PrunableLayer(layers.Conv1D(outputs, space[0]))
        else:
            layer = kprune.PrunableDense(outputs)
        layer(keras.Input((*[8] * len(space), inputs)))
        assert tuple(layer.layer.kernel.shape) == (*space, inputs, outputs)
        found.append(layer)
    return found


@pytest.mark.parametrize(
    ("shapes", "sparsity", "options", "published"),
    [
        ([(2, 4)], 0.5, {}, [0.5]),
        ([(2, 4), (3, 6, 7), (7, 4)], 0.5, {}, [0.0, 0.64, 0.0]),
        ([(2, 4), (3, 6, 7)], 0.5, {}, [0.0, 0.53]),
        ([(2, 4), (3, 6), (2, 4, 6)], 0.5, {}, [0.0, 0.31, 0.655]),
        (
            [(2, 4), (3, 6), (2, 4, 6)],
            0.5,
            {"kernel": False},
            [0.21, 0.47, 0.56],
        ),
        ([(2, 4), (3, 6), (2, 4, 6)], 0.8, {}, [0.556, 0.70, 0.85]),
        (
            [(2, 4), (3, 6), (2, 4, 6)],
            0.5,
            {"power_scale": 2.0},
            [0.0, 0.033, 0.758],
        ),
    ],
)
def test_the_numbers_of_jaxpruners_tests(shapes, sparsity, options, published):
    """Of github.com/google-research/jaxpruner, sparsity_distributions_test."""
    found = ErdosRenyi(**options)(_with_kernels(*shapes), sparsity)
    np.testing.assert_allclose(found, published, atol=0.005)


@pytest.mark.parametrize(
    ("first", "second", "sparsity"),
    [
        ((2, 3), (2, 3), 0.5),
        ((8, 6), (4, 3), 0.7),
        ((80, 4), (20, 20), 0.8),
        ((2, 6), (2, 3), 0.8),
    ],
)
def test_the_proportions_of_rigls_tests(first, second, sparsity):
    """Of github.com/google-research/rigl, sparse_utils_test."""
    shares = ErdosRenyi(kernel=False)(_with_kernels(first, second), sparsity)
    ratios = [(i + o) / (i * o) for i, o in (first, second)]
    one, other = [(1 - s) / ratio for s, ratio in zip(shares, ratios)]
    assert one == pytest.approx(other)


@pytest.mark.parametrize("sparsity", [0.0, 1e-9, 0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("power_scale", [0.5, 1, 3])
def test_as_many_go_as_under_uniform_shares(sparsity, kernel, power_scale):
    shapes = [(3, 3, 8), (3, 8, 16), (1, 16, 64), (64, 100), (100, 10)]
    sizes = np.array([np.prod(shape) for shape in shapes])
    allocation = ErdosRenyi(kernel, power_scale)
    shares = np.array(allocation(_with_kernels(*shapes), sparsity))
    assert ((shares >= 0) & (shares < 1)).all()
    removed = sum(kprune.ranking.removed_count(n, sparsity) for n in sizes)
    assert sizes @ shares == pytest.approx(removed, abs=1e-9)


def test_layers_of_every_kind_by_their_inputs_and_outputs():
    some = [
        layers.Conv2DTranspose(5, 3),
        layers.DepthwiseConv2D(3),
        layers.SeparableConv2D(5, 3),
    ]
    wrapped = [kprune.PrunableLayer(layer) for layer in some]
    for layer in wrapped:
        layer(keras.Input((8, 8, 4)))
    rnn = kprune.PrunableLayer(layers.LSTM(2))
    rnn(keras.Input((3, 6)))
    # Of weights: 3*3*4*5, 3*3*4, 3*3*4 and 1*1*4*5, 6*8 and 2*8.
    ratios = np.array(
        [
            (3 + 3 + 4 + 5) / 180,
            (3 + 3 + 1 + 4) / 36,
            (3 + 3 + 1 + 4 + 1 + 1 + 4 + 5) / 56,
            (6 + 8 + 2 + 8) / 64,
        ]
    )
    shares = ErdosRenyi()([*wrapped, rnn], 0.9)
    densities = 1 - np.array(shares)
    np.testing.assert_allclose(densities / densities[0], ratios / ratios[0])


def test_prune_by_name():
    model = keras.Sequential(
        [
            keras.Input((784,)),
            kprune.PrunableDense(300),
            kprune.PrunableDense(100),
            kprune.PrunableDense(10),
        ]
    )
    kprune.prune(model, 0.9, allocation="erdos_renyi")
    zeros = [
        np.sum(~keras.ops.convert_to_numpy(layer.masks["kernel"]))
        for layer in model.layers
    ]
    # The last one is dense, and the others have 300 + 784 and 100 + 300 parts.
    assert zeros[2] == 0
    assert 266200 * 0.9 - 2 < sum(zeros) <= 266200 * 0.9
    kept = 235200 - zeros[0], 30000 - zeros[1]
    assert kept[0] / 1084 == pytest.approx(kept[1] / 400, rel=1e-3)
    kprune.testing.check_allocation("erdos_renyi")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 1}, "`kernel` must be True or False.*kernel=1"),
        ({"power_scale": 0}, "`power_scale` must be a positive.*power_scale=0"),
        ({"power_scale": "1"}, "power_scale='1'"),
        ({"power_scale": float("inf")}, "power_scale=inf"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ErdosRenyi(**options)
