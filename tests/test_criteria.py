import keras
import numpy as np
import pytest

import kprune
from kprune import criteria


def test_magnitude_is_the_absolute_value():
    kernel = np.array([[-2.0, 0.5], [0.0, 3.0]], np.float32)
    scores = criteria.magnitude(kernel)
    np.testing.assert_array_equal(scores, [[2.0, 0.5], [0.0, 3.0]])
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(kernel, [[-2.0, 0.5], [0.0, 3.0]])


def test_random_depends_on_seed_and_shape_only():
    kernel = np.zeros((4, 5), np.float32)
    scores = criteria.Random(seed=3)(kernel)
    assert scores.shape == (4, 5)
    assert scores.min() >= 0 and scores.max() < 1
    assert np.unique(scores).size == 20
    np.testing.assert_array_equal(scores, criteria.Random(3)(kernel + 1))
    assert not np.array_equal(scores, criteria.Random(4)(kernel))


def test_random_leaves_the_global_random_state_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    criteria.Random()(np.zeros((3, 3)))
    assert np.random.random() == expected


def test_random_is_a_floor_that_magnitude_beats():
    kernel = np.random.default_rng(0).normal(size=(64, 64))
    keep = kprune.granularities.Unstructured()
    lost = {
        name: np.abs(kernel[~keep(criteria.get(name)(kernel), 0.5)]).sum()
        for name in ("magnitude", "random")
    }
    assert lost["magnitude"] < 0.6 * lost["random"]


def test_get():
    assert criteria.get("magnitude") is criteria.magnitude
    assert criteria.get("Magnitude") is criteria.magnitude
    assert criteria.get("random") == criteria.Random(seed=0)
    assert criteria.get(criteria.Random(7)) == criteria.Random(7)
    assert criteria.get(np.square) is np.square


@pytest.mark.parametrize("identifier", ["l1", "", None, 0.5, criteria.Random])
def test_get_lists_the_names_when_it_knows_none(identifier):
    with pytest.raises(ValueError, match="Unknown criterion") as error:
        criteria.get(identifier)
    assert "'magnitude', 'obs', 'random'" in str(error.value)
    received = repr(identifier)
    if isinstance(identifier, type):
        name = identifier.__name__
        received = f"the class {name}; call it: `{name}()`"
    assert f"Received: {received}" in str(error.value)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None, True])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="`seed` must be .*seed="):
        criteria.Random(seed)


def test_prune_follows_a_criterion_of_the_users():
    layer = kprune.PrunableDense(2, use_bias=False)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.layer.set_weights([np.array([[1.0, -2.0], [-3.0, 4.0]])])
    # Positive weights first: -3 and -2 go, though they are not the smallest.
    kprune.prune(model, 0.5, criterion=lambda kernel: kernel)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer.masks["kernel"]),
        [[True, False], [False, True]],
    )


def test_prune_names_the_criterion_that_returns_another_shape():
    model = keras.Sequential([keras.Input((2,)), kprune.PrunableDense(3)])
    with pytest.raises(ValueError, match=r"kernel's shape \(2, 3\).*\(3,\)"):
        kprune.prune(model, 0.5, criterion=lambda kernel: kernel.sum(axis=0))
