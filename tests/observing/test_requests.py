"""Members ask for what they need by the names of keyword-only parameters."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import layers
from models import numpy

import kprune
from kprune.observing import requests


def _two_alike():
    """Two kernels of one shape, and one behind them."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            kprune.PrunableDense(8, name="first"),
            kprune.PrunableDense(8, name="second"),
            kprune.PrunableDense(2, name="third"),
        ]
    )


def _masks(model):
    return [numpy(layer.masks["kernel"]) for layer in model.layers]


def _updater(**members):
    return kprune.updating.MaskUpdater(**members)


def test_what_is_asked_for():
    def plain(kernel):
        return kernel

    def needs(kernel, *, mask, generator, power=2, progress=None, **others):
        return kernel

    assert requests.names(plain, "criterion") == ()
    assert requests.names(np.abs, "criterion") == ()
    asked = requests.names(needs, "criterion")
    assert asked == ("mask", "generator", "progress")
    # What is bound already is the user's own.
    bound = functools.partial(needs, generator=np.random.default_rng(0))
    assert requests.names(bound, "criterion") == ("mask", "progress")
    assert requests.names(kprune.allocations.Global(), "allocation") == (
        "scores",
    )


@pytest.mark.parametrize(
    ("member", "family", "known"),
    [
        (lambda kernel, *, weather: kernel, "criterion", "'sparsity'"),
        (lambda scores, s, *, weather: scores > 0, "granularity", "'score'"),
        (lambda layers, s, *, weather: [s], "allocation", "'scores'"),
    ],
)
def test_what_is_not_known_is_refused_before_any_training(
    member, family, known
):
    message = f"The {family} .* asks for `weather`, which is not known.*{known}"
    with pytest.raises(ValueError, match=message):
        kprune.PruningScheduler(0.5, **{family: member})
    with pytest.raises(ValueError, match=message):
        kprune.prune(_two_alike(), 0.5, **{family: member})


def test_a_generator_is_of_one_kernel_and_the_same_at_each_update():
    model = _two_alike()
    kprune.prune(model, 0.5, criterion="random")
    first, second, third = _masks(model)
    assert not np.array_equal(first, second)
    kprune.prune(model, 0.5, criterion="random")
    for before, after in zip((first, second, third), _masks(model)):
        np.testing.assert_array_equal(before, after)
    # What another layer is does not matter.
    model.layers[0].trainable = False
    kprune.prune(model, 0.5, criterion="random")
    np.testing.assert_array_equal(second, _masks(model)[1])


def test_a_criterion_gets_mask_sparsity_and_progress():
    model = _two_alike()
    kprune.prune(model, 0.25)
    before = _masks(model)
    seen = []

    def watching(kernel, *, mask, sparsity, progress):
        seen.append((mask, sparsity, progress))
        mask[...] = True  # the user's copy
        return np.abs(kernel)

    def rising(layers, sparsity):
        return [0.0, sparsity / 2, sparsity]

    updater = _updater(criterion=watching, allocation=rising)
    updater.update(model, 0.5, progress=0.75)
    assert [entry[1:] for entry in seen] == [
        (0.0, 0.75),
        (0.25, 0.75),
        (0.5, 0.75),
    ]
    assert [1 - numpy(m).mean() for m in before] == [0.25] * 3
    assert [1 - mask.mean() for mask in _masks(model)] == [0.0, 0.25, 0.5]


def test_an_allocation_gets_scores_when_it_reads_them():
    model = _two_alike()
    scored = []

    def criterion(kernel, *, generator):
        scored.append(kernel.shape)
        return generator.random(kernel.shape)

    def allocation(layers, sparsity, *, scores, progress):
        assert len(scores) == len(layers) == 3 and not scored
        (of_third,) = scores[2]
        assert scored == [(8, 2)] and of_third.shape == (8, 2)
        return [0.0, 0.0, sparsity]

    kprune.prune(model, 0.5, criterion=criterion, allocation=allocation)
    assert [mask.mean() for mask in _masks(model)] == [1.0, 1.0, 0.5]


def test_a_granularity_of_the_users_sees_inputs_and_outputs():
    shapes = {}

    def by_halves(scores, sparsity, *, generator, mask, progress):
        assert mask.shape == scores.shape and progress == 1.0
        shapes[scores.shape] = generator.random()
        keep = np.ones(scores.shape, bool)
        keep[..., : math.floor(scores.shape[-2] * sparsity), :] = False
        return keep

    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            kprune.PrunableLayer(layers.Conv2DTranspose(3, 2, name="up")),
        ]
    )
    kprune.prune(model, 0.5, granularity=by_halves)
    assert list(shapes) == [(2, 2, 4, 3)]
    mask = numpy(model.layers[0].masks["kernel"])
    assert mask.shape == (2, 2, 3, 4)
    assert not mask[..., :2].any() and mask[..., 2:].all()


class Halves:
    """A granularity of a user's that works on whole groups."""

    whole_groups = True

    def __init__(self):
        self.rows = []

    def __call__(self, scores, sparsity, *, mask, generator, progress):
        self.rows.append((scores.shape, mask.shape))
        keep = np.ones(scores.shape, bool)
        keep[..., : math.floor(scores.shape[-1] * sparsity)] = False
        return keep

    def pool(self, scores, axis):
        others = tuple(set(range(scores.ndim)) - {axis})
        return scores.max(axis=others)


def test_a_granularity_of_the_users_can_work_on_whole_groups():
    halves = Halves()
    model = _two_alike()
    kprune.prune(model, 0.5, granularity=halves)
    assert halves.rows == [((1, 8), (1, 8))] * 2
    first, second, third = _masks(model)
    assert not first[:, :4].any() and first[:, 4:].all()
    assert not second[:4].any() and not second[:, :4].any()
    assert not third[:4].any() and third[4:].all()
    assert kprune.strip(model).layers[0].units == 4


def test_a_granularity_that_ranks_in_pieces():
    sizes = []

    def lowest(scores, sparsity, *, score):
        if score is None:
            return kprune.granularities.Unstructured()(scores, sparsity)
        pieces = np.array_split(scores.reshape(-1), 4)
        sizes.extend(piece.size for piece in pieces)
        scored = np.concatenate([score(piece) for piece in pieces])
        return kprune.granularities.Unstructured()(
            scored.reshape(scores.shape), sparsity
        )

    model, other = _two_alike(), _two_alike()
    other.set_weights(model.get_weights())
    kprune.prune(model, 0.5, granularity=lowest)
    assert sizes == [16] * 4 + [16] * 4 + [4] * 4
    kprune.prune(other, 0.5, granularity="unstructured")
    for one, same in zip(_masks(model), _masks(other)):
        np.testing.assert_array_equal(one, same)
    # A criterion that looks at the whole kernel is never given a piece.
    sizes.clear()
    kprune.prune(
        model, 0.5, granularity=lowest, criterion=lambda k: np.abs(k - k.mean())
    )
    assert not sizes
