"""Criteria that score slices of kernels as a whole."""

import functools

import keras
import numpy as np
import pytest
from keras import layers
from models import numpy

import kprune
from kprune.criteria import FPGM, BNScale, taylor_slices


def _kept(layer):
    mask = numpy(layer.masks["kernel"])
    return mask.any(axis=tuple(range(mask.ndim - 1))).tolist()


def _prune(model, criterion, sparsity=0.5, **options):
    return kprune.prune(
        model, sparsity, criterion=criterion, granularity="filter", **options
    )


def _three_layers():
    """Dense layers of 4, 4 and 2 units on 2 inputs."""
    return keras.Sequential(
        [
            keras.Input((2,)),
            kprune.PrunableDense(4, name="first"),
            kprune.PrunableDense(4, name="second"),
            kprune.PrunableDense(2, name="last"),
        ]
    )


def test_fpgm_in_numbers():
    # (0, 0), (3, 4) and (6, 8) lie 5 and 10 apart.
    filters = np.array([[0.0, 3.0, 6.0], [0.0, 4.0, 8.0]])
    scores = FPGM().of_slices(filters, 1, role="out")
    np.testing.assert_allclose(scores, [15, 10, 15])
    np.testing.assert_allclose(
        FPGM().of_slices(filters.T.reshape(3, 1, 2, 1), 0, role="out"),
        [15, 10, 15],
    )
    assert FPGM().of_slices(filters, 0, role="in") is None
    assert FPGM().of_slices(filters, 1, role="through") is None


def test_fpgm_against_a_slow_sum():
    kernel = np.random.default_rng(0).normal(100, 1, size=(3, 3, 5, 7))
    filters = kernel.reshape(-1, 7).T
    slow = [sum(np.linalg.norm(f - g) for g in filters) for f in filters]
    scores = FPGM().of_slices(kernel.astype(np.float32), 3, role="out")
    np.testing.assert_allclose(scores, slow, rtol=1e-4)
    alike = np.repeat(kernel[..., :1], 4, axis=3)
    np.testing.assert_allclose(
        FPGM().of_slices(alike, 3, role="out"), 0, atol=1e-6
    )


def test_fpgm_cuts_what_is_redundant_and_not_what_is_small():
    model = _three_layers()
    first = model.get_layer("first")
    # The second and third are nearly alike, and the largest of all.
    kernel = [[0.1, 5.0, 5.1, -2.0], [0.0, 5.0, 5.0, 3.0]]
    first.layer.kernel.assign(kernel)
    _prune(model, FPGM(), 0.25)
    assert _kept(first) == [True, False, True, True]
    model.get_layer("second").layer.kernel.assign(np.ones((4, 4)))
    # Readers have no say, whatever they are.
    _prune(model, "magnitude", 0.25)
    assert _kept(first) == [False, True, True, True]


def test_fpgm_of_transposed_convolutions_and_of_tied_layers():
    inputs = keras.Input((4, 4, 2))
    up = layers.Conv2DTranspose(3, 1, name="up", use_bias=False)(inputs)
    side = layers.Conv2D(3, 1, name="side", use_bias=False)(inputs)
    out = layers.Conv2D(2, 1)(layers.Add()([up, side]))
    model = kprune.make_prunable(keras.Model(inputs, out))
    # Filters of one place: (out, in), and (in, out).
    by_up = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    by_side = np.array([[0.0, 100.0, 101.0], [0.0, 0.0, 0.0]])
    model.get_layer("up").layer.kernel.assign(by_up[None, None])
    model.get_layer("side").layer.kernel.assign(by_side[None, None])
    # 15 10 15 and 201 101 102: the means are 108, 55.5, 58.5.
    _prune(model, FPGM(), 0.34)
    assert _kept(model.get_layer("side")) == [True, False, True]


def _normed():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.BatchNormalization(name="later"),
            layers.Conv2D(6, 1, name="second"),
            layers.BatchNormalization(name="last_norm"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ]
    )
    return kprune.make_prunable(model)


@pytest.mark.filterwarnings("ignore:More weights are masked now")
def test_bn_scale_in_numbers():
    model = _normed()
    model.get_layer("norm").gamma.assign([1.0, -3.0, 0.5, 2.0])
    model.get_layer("later").gamma.assign([1.0, 1.0, 1.0, -0.1])
    model.get_layer("last_norm").gamma.assign([6.0, 5.0, -4.0, 3.0, 2.0, 1.0])
    # Means over the two behind: 1, 2, 0.75 and 1.05.
    _prune(model, BNScale())
    assert _kept(model.get_layer("first")) == [False, True, False, True]
    assert _kept(model.get_layer("second")) == [True] * 3 + [False] * 3
    # One threshold over all gammas, as the paper has it: 0.75 1 1 1.05 2 | 2.
    slimming = kprune.allocations.Global(normalize=None)
    _prune(model, BNScale(), allocation=slimming)
    assert _kept(model.get_layer("first")) == [False, True, False, False]
    assert sum(_kept(model.get_layer("second"))) == 4


def test_bn_scale_of_a_concatenation():
    inputs = keras.Input((4, 4, 2))
    parts = [layers.Conv2D(3, 1, name=name)(inputs) for name in ("a", "b")]
    x = layers.BatchNormalization(name="norm")(layers.Concatenate()(parts))
    model = kprune.make_prunable(
        keras.Model(inputs, layers.Conv2D(2, 1, name="c")(x))
    )
    model.get_layer("norm").gamma.assign([3.0, 1.0, 2.0, 1.0, 2.0, 3.0])
    _prune(model, BNScale(), 0.34)
    assert _kept(model.get_layer("a")) == [True, False, True]
    assert _kept(model.get_layer("b")) == [False, True, True]


def test_layers_without_a_scale_are_named():
    model = _three_layers()
    before = model.get_weights()
    message = r"no score for the filters of the layers \['first', 'second'\]"
    with pytest.raises(ValueError, match=message):
        _prune(model, BNScale())
    for array, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(array, now)
    # A layer that is left out does not matter.
    first, second, last = model.layers
    second.trainable = False
    normed = [keras.Input((2,)), first, layers.BatchNormalization(), second]
    _prune(keras.Sequential([*normed, last]), BNScale())
    assert _kept(first) == [True, True, False, False]
    assert _kept(second) == [True] * 4


@pytest.mark.parametrize("criterion", [FPGM(), BNScale()])
def test_single_weights_are_refused(criterion):
    message = "scores whole filters, no single weights. Use it with"
    with pytest.raises(ValueError, match=message):
        kprune.prune(
            _three_layers(),
            0.5,
            criterion=criterion,
            granularity="unstructured",
        )


def test_taylor_of_slices_in_numbers():
    kernel = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    gradient = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.5]])
    by_output = taylor_slices(kernel, 1, gradient=gradient)
    np.testing.assert_array_equal(by_output, [25, 9, 9])
    by_input = taylor_slices(kernel, 0, gradient=gradient)
    np.testing.assert_array_equal(by_input, [1, 144])
    # What cancels is 0, as the loss stays where it is.
    assert (taylor_slices(np.ones((2, 1)), 1, gradient=[[1], [-1]]) == 0).all()


class LargestWeight:
    """A criterion of a user's: the largest weight of each slice."""

    def __init__(self):
        self.seen = []

    def __call__(self, kernel):
        return np.abs(kernel)

    def of_slices(self, kernel, axis, *, role, mask, sparsity, progress):
        assert mask.shape == kernel.shape
        self.seen.append((kernel.shape, axis, role, sparsity, progress))
        others = tuple(set(range(kernel.ndim)) - {axis})
        return np.abs(kernel).max(axis=others)


def test_a_criterion_of_the_users():
    model = _three_layers()
    first, second = model.get_layer("first"), model.get_layer("second")
    first.layer.kernel.assign([[5.0, 2.0, 2.0, 2.0], [0.0, 2.0, 2.0, 3.0]])
    second.layer.kernel.assign(np.eye(4))
    model.get_layer("last").layer.kernel.assign(np.ones((4, 2)))
    criterion = LargestWeight()
    _prune(model, criterion)
    assert sorted(criterion.seen) == [
        ((2, 4), 1, "out", 0.5, 1.0),
        ((4, 2), 0, "in", 0.5, 1.0),
        ((4, 2), 1, "out", 0.5, 1.0),
        ((4, 4), 0, "in", 0.5, 1.0),
        ((4, 4), 1, "out", 0.5, 1.0),
    ]
    # 5 2 2 3 and 1 1 1 1: by squares the second and third would be as strong.
    assert _kept(first) == [True, False, False, True]
    # Single weights are scored one by one.
    kprune.prune(model, 0.5, criterion=criterion, granularity="unstructured")
    for layer in (first, second):
        assert numpy(layer.masks["kernel"]).mean() == 0.5
    kprune.testing.check_criterion(criterion)


def test_over_groups_gets_the_scores_as_they_are():
    seen = []

    class Watching:
        def __call__(self, layers, sparsity):
            return [sparsity] * len(layers)

        def over_groups(self, scores, sparsity):
            seen.extend(scores)
            return [sparsity] * len(scores)

    model = _normed()
    for name in ("norm", "later"):
        model.get_layer(name).gamma.assign([4.0, -9.0, 1.0, 16.0])
    _prune(model, BNScale(), allocation=Watching())
    np.testing.assert_array_equal(seen[0], [4, 9, 1, 16])
    np.testing.assert_array_equal(seen[1], np.ones(6))


class _Slices:
    def __init__(self, returned):
        self.of_slices = functools.partial(self._of_slices, returned)

    def __call__(self, kernel):
        return np.abs(kernel)

    @staticmethod
    def _of_slices(returned, kernel, axis):
        return returned


@pytest.mark.parametrize(
    "returned", [np.ones(3), np.full(4, np.nan), 1.0, np.ones((1, 4))]
)
def test_what_it_returns_is_checked(returned):
    message = (
        "must return 4 finite scores, one for each slice of 'kernel' of layer "
        "'first' along axis 1, or None. Received: "
    )
    with pytest.raises(ValueError, match=message):
        _prune(_three_layers(), _Slices(returned))


@pytest.mark.parametrize("slices_of", [None, ("gamma",)])
def test_what_it_asks_for_is_checked_before_any_training(slices_of):
    class Asking(LargestWeight):
        def of_slices(self, kernel, axis, *, weather):
            return None

    criterion = Asking()
    criterion.slices_of = slices_of
    message = "asks for `weather`, which is not known.*'role'"
    with pytest.raises(ValueError, match=message):
        kprune.PruningScheduler(0.5, criterion=criterion)
