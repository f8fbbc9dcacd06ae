import keras
import numpy as np
import pytest

import kprune
from kprune import allocations


def dense_layers(*kernels):
    """Prunable Dense layers with these kernels and no bias."""
    layers = []
    for kernel in kernels:
        kernel = np.array(kernel, np.float32)
        layer = kprune.PrunableDense(kernel.shape[1], use_bias=False)
        layer(keras.Input((kernel.shape[0],)))
        layer.layer.set_weights([kernel])
        layers.append(layer)
    return layers


def removed(layers, shares):
    sizes = [np.prod(tuple(layer.layer.kernel.shape)) for layer in layers]
    return [round(float(size * share), 6) for size, share in zip(sizes, shares)]


def test_uniform():
    assert allocations.uniform([None] * 3, 0.8) == [0.8, 0.8, 0.8]
    assert allocations.uniform([None], 0.0) == [0.0]
    assert allocations.uniform([], 0.5) == []


def test_global_has_one_threshold():
    layers = dense_layers(
        [[1.0, -2.0], [3.0, -4.0]],
        [[5.0, 0.5, -0.1, 6.0]],
        [[7.0], [-0.2], [8.0], [9.0], [2.5], [0.3]],
    )
    # In order: 0.1 0.2 0.3 0.5 1 2 2.5 | 3 4 5 6 7 8 9
    shares = allocations.Global()(layers, 0.5)
    assert shares == [2 / 4, 2 / 4, 3 / 6]
    assert allocations.Global()(layers, 0.29) == [0.0, 2 / 4, 2 / 6]
    assert allocations.Global()(layers, 0.0) == [0.0, 0.0, 0.0]
    # Less than one weight of 14.
    assert allocations.Global()(layers, 0.07) == [0.0, 0.0, 0.0]
    assert allocations.Global()(layers, 1 / 14) == [0.0, 1 / 4, 0.0]


def test_global_takes_the_later_of_equal_scores():
    layers = dense_layers(np.ones((2, 3)), np.ones((4, 2)), np.ones((1, 6)))
    # 20 equal weights of which each layer keeps one.
    assert removed(layers, allocations.Global()(layers, 0.5)) == [0, 5, 5]
    assert removed(layers, allocations.Global()(layers, 0.29)) == [0, 0, 5]
    assert removed(layers, allocations.Global()(layers, 0.8)) == [4, 7, 5]


def test_global_empties_no_layer_and_still_reaches_the_total():
    layers = dense_layers(np.full((2, 4), 0.01), [[1.0, 2.0], [3.0, 4.0]])
    # All 8 small weights would go; one stays and the next larger goes.
    assert removed(layers, allocations.Global()(layers, 8 / 12)) == [7, 1]
    assert removed(layers, allocations.Global()(layers, 10 / 12)) == [7, 3]
    # Two of twelve have to stay.
    assert removed(layers, allocations.Global()(layers, 0.99)) == [7, 3]


@pytest.mark.parametrize("sparsity", [0.1, 0.29, 0.5, 0.7, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("ties", [False, True])
def test_global_prunes_the_exact_total(sparsity, ties):
    generator = np.random.default_rng(0)
    kernels = [
        scale * generator.normal(size=shape)
        for scale, shape in [(1, (20, 30)), (0.1, (30, 10)), (3, (10, 10))]
    ]
    if ties:
        kernels = [np.round(kernel) for kernel in kernels]
    layers = dense_layers(*kernels)
    shares = allocations.Global()(layers, sparsity)
    assert all(0 <= share < 1 for share in shares)
    counts = removed(layers, shares)
    assert sum(counts) == round(1000 * sparsity)
    assert all(np.array(counts) < (600, 300, 100))
    if not ties:
        kept = [
            kprune.ranking.keep_highest(np.abs(kernel), int(count))
            for kernel, count in zip(kernels, counts)
        ]
        # One threshold: no weight that went is larger than one that stayed,
        # but for the one that each layer keeps in any case.
        largest = max(
            np.abs(k[~m]).max(initial=0) for k, m in zip(kernels, kept)
        )
        smallest = min(
            np.abs(k[m]).min() for k, m in zip(kernels, kept) if m.sum() > 1
        )
        assert largest < smallest


def test_prune_with_global_reaches_the_sparsity():
    model = keras.Sequential(
        [
            keras.Input((10,)),
            kprune.PrunableDense(20),
            kprune.PrunableDense(10, kernel_initializer="zeros"),
        ]
    )
    kprune.prune(model, 0.29, allocation="global")
    first, second = model.layers
    assert np.sum(~keras.ops.convert_to_numpy(first.masks["kernel"])) == 0
    assert np.sum(~keras.ops.convert_to_numpy(second.masks["kernel"])) == 116


def test_global_keeps_a_weight_in_every_kernel_of_a_layer():
    layer = kprune.PrunableLayer(keras.layers.LSTM(4))
    model = keras.Sequential([keras.Input((3, 2)), layer])
    kprune.prune(model, 0.99, allocation="global")
    for name in ("kernel", "recurrent_kernel"):
        assert keras.ops.convert_to_numpy(layer.masks[name]).sum() >= 1


def test_global_ranks_by_the_criterion():
    layers = dense_layers([[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]])
    assert allocations.get("global")(layers, 0.25) == [0.5, 0.0]
    scores = [[-layer.layer.get_weights()[0]] for layer in layers]
    upside_down = allocations.Global()(layers, 0.25, scores=scores)
    assert upside_down == [0.0, 0.5]


def test_global_ranks_integer_scores():
    layers = dense_layers([[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]])
    scores = [
        [layer.layer.get_weights()[0].astype(np.int64)] for layer in layers
    ]
    shares = allocations.Global()(layers, 0.5, scores=scores)
    assert shares == [0.75, 0.25]


def test_global_with_random_scores():
    layers = dense_layers(np.ones((20, 30)), np.ones((10, 40)))
    generator = np.random.default_rng(1)
    scores = [[generator.random((20, 30))], [generator.random((10, 40))]]
    shares = allocations.Global()(layers, 0.5, scores=scores)
    assert sum(removed(layers, shares)) == 500
    # By chance every layer loses about half; by magnitude all are equal.
    np.testing.assert_allclose(shares, 0.5, atol=0.1)
    assert shares == allocations.Global()(layers, 0.5, scores=scores)


def test_global_does_not_write_into_the_weights():
    layers = dense_layers([[1.0, 2.0], [3.0, 4.0]])
    # Scores that are the kernel's own memory.
    scores = [[layers[0].layer.get_weights()[0]]]
    before = scores[0][0].copy()
    allocations.Global()(layers, 0.5, scores=scores)
    np.testing.assert_array_equal(scores[0][0], before)
    np.testing.assert_array_equal(
        layers[0].layer.get_weights()[0], [[1.0, 2.0], [3.0, 4.0]]
    )


def test_get():
    def mine(layers, sparsity):
        return [sparsity] * len(layers)

    assert allocations.get("uniform") is allocations.uniform
    assert allocations.get("Global") == allocations.Global()
    assert allocations.get(mine) is mine
    assert allocations.get(allocations.Global()) == allocations.Global()


@pytest.mark.parametrize(
    "identifier", ["local", "", None, 0.5, [0.5], allocations.Global]
)
def test_get_lists_the_names_when_it_knows_none(identifier):
    with pytest.raises(ValueError, match="Unknown allocation") as error:
        allocations.get(identifier)
    assert "['erdos_renyi', 'global', 'lamp', 'uniform']" in str(error.value)
    received = repr(identifier)
    if isinstance(identifier, type):
        name = identifier.__name__
        received = f"the class {name}; call it: `{name}()`"
    assert f"Received: {received}" in str(error.value)


def test_prune_follows_an_allocation_of_the_users():
    model = keras.Sequential(
        [keras.Input((10,)), kprune.PrunableDense(10), kprune.PrunableDense(10)]
    )
    first, second = model.layers

    def spare_the_last(layers, sparsity):
        return [0.0 if layer is second else sparsity for layer in layers]

    kprune.prune(model, 0.8, allocation=spare_the_last)
    assert first.sparsity == 0.8
    assert second.sparsity == 0.0


def test_prune_names_the_layers_when_the_number_is_wrong():
    model = keras.Sequential(
        [keras.Input((4,)), kprune.PrunableDense(4, name="hidden")]
    )
    message = r"must return 1 sparsities.*hidden.*\[0.5, 0.5\]"
    with pytest.raises(ValueError, match=message):
        kprune.prune(model, 0.5, allocation=lambda layers, s: [s, s])


def test_prune_names_the_layer_whose_share_is_no_sparsity():
    model = keras.Sequential(
        [keras.Input((4,)), kprune.PrunableDense(4, name="hidden")]
    )
    message = r"`sparsity of 'hidden'` must be in \[0, 1\)"
    with pytest.raises(ValueError, match=message):
        kprune.prune(model, 0.5, allocation=lambda layers, s: [1.0])
