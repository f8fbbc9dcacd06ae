"""Criteria that see data, in pruning and in training."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.prunable import prunable_weights
from kprune.weights import to_numpy


def _model():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 3, strides=2, groups=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    model = kprune.make_prunable(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # What is called once or twice is not worth compiling.
    model.compile("adam", loss, run_eagerly=True)
    return model


def _data(count=32):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 8, 8, 2)).astype("float32")
    return x, generator.integers(0, 4, count)


WEIGHTS = ["taylor", "fisher", "snip", "wanda", "obs", "alps"]
FILTERS = ["taylor", "fpgm", "activation", "obs", "wanda"]


def mixed(kernel, *, gradient, input_norm):
    """A criterion of a user's own that asks for two names."""
    return np.abs(kernel) * input_norm + np.abs(gradient)


@pytest.mark.parametrize("criterion", [*WEIGHTS, mixed])
def test_counts_are_exact_in_every_shape(criterion):
    model, data = _model(), _data()

    def prune(granularity):
        kprune.prune(
            model, 0.5, criterion=criterion, granularity=granularity, data=data
        )
        return [
            (weight, weight.outputs_last(to_numpy(weight.mask)))
            for weight in prunable_weights(model)
        ]

    for weight, mask in prune("unstructured"):
        assert np.count_nonzero(~mask) == weight.size // 2
    for _, mask in prune(kprune.granularities.Unstructured(per_output=True)):
        of_outputs = np.count_nonzero(~mask.reshape(-1, mask.shape[-1]), axis=0)
        assert (of_outputs == mask.size // mask.shape[-1] // 2).all()
    for _, mask in prune(kprune.granularities.NM(1, 2)):
        pairs = mask.reshape(*mask.shape[:-2], -1, 2, mask.shape[-1])
        assert (pairs.sum(axis=-2) == 1).all()
    for weight, mask in prune(kprune.granularities.Block((1, 4))):
        blocks = mask.reshape(-1, 4)
        assert (blocks.all(axis=1) | ~blocks.any(axis=1)).all()
        assert np.count_nonzero(~mask) == weight.size // 8 * 4


@pytest.mark.parametrize("criterion", FILTERS)
def test_filters_go_whole(criterion):
    model = _model()
    kprune.prune(
        model, 0.5, criterion=criterion, granularity="filter", data=_data()
    )
    first, second, _ = prunable_weights(model)
    for weight in (first, second):
        kept = to_numpy(weight.mask).any(axis=(0, 1, 2))
        assert kept.sum() == 4
    assert kprune.strip(model).layers[0].filters == 4


def test_scores_are_those_of_the_values_that_were_asked_for():
    seen = {}

    def look(kernel, *, gram, mask, gradient):
        seen.setdefault(kernel.shape, []).append(gram.shape)
        assert mask.shape == gradient.shape == kernel.shape
        return np.abs(kernel)

    kprune.prune(_model(), 0.5, criterion=look, granularity="nm", data=_data())
    # The second convolution has two groups.
    assert seen == {
        (1, 18, 8): [(1, 18, 18)],
        (2, 36, 4): [(2, 36, 36)],
        (1, 32, 4): [(1, 32, 32)],
    }


@pytest.mark.parametrize("criterion", ["taylor", "wanda"])
def test_masks_grow_by_what_is_seen_while_a_model_trains(criterion):
    model, (x, y) = _model(), _data()
    asked = []
    base = kprune.criteria.get(criterion)

    def watched(kernel, **offered):
        asked.append(next(iter(offered.values())).copy())
        return base(kernel, **offered)

    watched.__signature__ = inspect.signature(base)
    scheduler = kprune.PruningScheduler(
        0.5, criterion=watched, granularity="unstructured", data=(x, y)
    )
    history = model.fit(
        x, y, epochs=3, batch_size=32, verbose=0, callbacks=[scheduler]
    )
    assert history.history["sparsity"][-1] == pytest.approx(0.5, abs=0.01)
    # Observed anew at each update, here of the last layer.
    assert not np.array_equal(asked[2], asked[5])
    pruner = kprune.Pruner(0.5, criterion=criterion, data=(x, y))
    pruner.update(model, 0.5)


def test_a_generator_is_read_once():
    model, (x, y) = _model(), _data()

    def batches():
        for start in range(0, 32, 16):
            yield x[start : start + 16], y[start : start + 16]

    scheduler = kprune.PruningScheduler(0.5, criterion="taylor", data=batches())
    for _ in range(2):
        model.fit(x, y, epochs=2, verbose=0, callbacks=[scheduler])
    assert kprune.sparsity(model) > 0.3


def test_what_is_missing_is_said_before_any_training():
    with pytest.raises(ValueError, match=r"'taylor' asks for `gradient`.*data"):
        kprune.PruningScheduler(0.5, criterion="taylor")
    with pytest.raises(ValueError, match="as many targets as samples"):
        kprune.PruningScheduler(
            0.5, criterion="taylor", data=(np.zeros((4, 2)), np.zeros(3))
        )
    model, (x, _) = _model(), _data()
    before = [to_numpy(v).copy() for v in model.variables]
    with pytest.raises(ValueError, match="need targets"):
        kprune.prune(model, 0.5, criterion="taylor", data=x)
    for was, now in zip(before, model.variables):
        np.testing.assert_array_equal(was, to_numpy(now))
