"""Pruner, in loops of one's own: the schedule, the freeze, and what it says."""

import keras
import numpy as np
import pytest
from keras import layers
from models import numpy

import kprune
from kprune import schedules
from kprune.prunable import prunable_layers

SAMPLES, BATCH, STEPS = 64, 16, 4


def _net(**kwargs):
    """600 and 90 weights."""
    return keras.Sequential(
        [
            keras.Input((20,)),
            kprune.PrunableDense(30, activation="tanh", **kwargs),
            kprune.PrunableDense(3, **kwargs),
        ]
    )


def _compiled(model):
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def _data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(SAMPLES, 20))
    return x, np.tanh(x @ generator.normal(size=(20, 3)))


def _batches():
    x, y = _data()
    for start in range(0, SAMPLES, BATCH):
        yield x[start : start + BATCH], y[start : start + BATCH]


def _masks(model):
    return [
        numpy(mask).copy()
        for layer in prunable_layers(model)
        for mask in layer.masks.values()
    ]


def _kernels(model):
    return [numpy(layer.layer.kernel) for layer in prunable_layers(model)]


def _equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _trained(model, seed):
    """Moves all weights, as training does."""
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        step = generator.normal(size=variable.shape) / 10
        variable.assign(numpy(variable) + step)


SCHEDULES = {
    "polynomial": (0.8, [0.4625, 0.7, 0.7875, 0.8, 0.8, 0.8, 0.8, 0.8]),
    "linear": (
        schedules.Linear(0.8, 0.4, end=0.75),
        [7 / 15, 8 / 15, 0.6, 10 / 15, 11 / 15, 0.8, 0.8, 0.8],
    ),
    "late": (schedules.OneShot(0.6, at=0.7), [0.0] * 5 + [0.6] * 3),
    "constant": (schedules.Constant(0.5, begin=0.2), [0.0] + [0.5] * 7),
    "own": (
        lambda progress: 0.8 * progress,
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_in_numbers(name):
    schedule, expected = SCHEDULES[name]
    model, pruner = _net(), kprune.Pruner(schedule)
    end = schedules.end(pruner.schedule)
    for step, sparsity in enumerate(expected, 1):
        _trained(model, step)
        assert pruner.update(model, step / 8) == (step / 8 >= end)
        assert pruner.is_frozen == (step / 8 >= end)
        for kernel, mask in zip(
            _kernels(model), _masks(model)[::2], strict=True
        ):
            assert (~mask).sum() == int(kernel.size * sparsity + 1e-3)
            if pruner.is_frozen:
                assert not kernel[~mask].any()


def test_frozen_masks_do_not_move_and_what_momentum_moves_is_zeroed_again():
    model, pruner = _net(), kprune.Pruner(0.6)
    pruner.update(model, 0.5)
    masks = _masks(model)
    for step in range(3):
        _trained(model, step)
        assert not any((kernel == 0).any() for kernel in _kernels(model))
        assert pruner.update(model, 0.6 + step / 10)
        assert _equal(masks, _masks(model))
        for kernel, mask in zip(_kernels(model), masks[::2], strict=True):
            assert np.array_equal(kernel != 0, mask)


@pytest.mark.parametrize(
    ("epochs", "end", "frozen_at"),
    [(10, 0.1 + 0.2, 3), (10, 7 * 0.1, 7), (5, 0.6, 3), (6, 0, 0)],
)
def test_a_rounding_error_short_of_the_end_is_the_end(epochs, end, frozen_at):
    schedule = schedules.Linear(0.7, end=end)
    loop, fitted = _net(), _net()
    fitted.set_weights(loop.get_weights())
    pruner, scheduler = (
        kprune.Pruner(schedule),
        kprune.PruningScheduler(schedule),
    )
    hooks = keras.callbacks.CallbackList(
        [scheduler], model=fitted, epochs=epochs, steps=1
    )
    hooks.on_train_begin()
    pruner.update(loop, 0.0)
    for epoch in range(epochs):
        assert pruner.is_frozen == (epoch >= frozen_at)
        hooks.on_epoch_begin(epoch)
        assert scheduler.is_frozen == (epoch >= frozen_at)
        for model in (loop, fitted):
            _trained(model, epoch)
        hooks.on_epoch_end(epoch)
        pruner.update(loop, (epoch + 1) / epochs)
        assert _equal(_masks(loop), _masks(fitted))
        assert _equal(_kernels(loop), _kernels(fitted))
    # 0.7 of 600 and of 90 to the last one.
    assert [(~mask).sum() for mask in _masks(loop)[::2]] == [420, 63]


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("granularity", ["unstructured", "filter"])
@pytest.mark.parametrize(
    "schedule", [schedules.Polynomial(0.6), schedules.Constant(0.5)]
)
def test_a_loop_ends_with_the_masks_and_weights_of_fit(
    schedule, granularity, allocation, float64
):
    options = {"granularity": granularity, "allocation": allocation}
    fitted, looped = _compiled(_net()), _compiled(_net())
    looped.set_weights(fitted.get_weights())
    x, y = _data()
    fitted.fit(
        x,
        y,
        epochs=6,
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=[kprune.PruningScheduler(schedule, **options)],
    )
    pruner = kprune.Pruner(schedule, **options)
    pruner.update(looped, 0.0)
    for epoch in range(6):
        for batch in _batches():
            looped.train_on_batch(*batch)
        pruner.update(looped, (epoch + 1) / 6)
    assert kprune.sparsity(looped) > 0.4
    assert _equal(_masks(fitted), _masks(looped))
    for one, other in zip(_kernels(fitted), _kernels(looped), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stop", range(1, 7))
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_loop_goes_on_from_a_checkpoint(tmp_path, stop, allocation):
    def run(model, pruner, epochs):
        masks = []
        for epoch in epochs:
            _trained(model, epoch)
            pruner.update(model, (epoch + 1) / 8)
            masks.append(_masks(model))
        return masks

    straight = kprune.Pruner(0.6, allocation=allocation)
    model = _net()
    before = run(model, straight, range(stop))
    model.save(tmp_path / "model.keras")
    after = run(model, straight, range(stop, 8))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    resumed = kprune.Pruner(0.6, allocation=allocation)
    assert resumed.resume(loaded, stop / 8) == (stop >= 4)
    assert _equal(_masks(loaded), before[-1])
    for one, other in zip(
        run(loaded, resumed, range(stop, 8)), after, strict=True
    ):
        assert _equal(one, other)


def test_a_dense_model_resumed_behind_the_end_is_pruned_all_the_same():
    model, pruner = _net(), kprune.Pruner(0.6)
    assert pruner.resume(model, 0.75)
    assert kprune.sparsity(model) == pytest.approx(0.6)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan"), "0.5", True])
def test_what_is_no_progress_is_refused(progress):
    with pytest.raises(ValueError, match=r"`progress`.*in \[0, 1\].*Received"):
        kprune.Pruner(0.5).update(_net(), progress)


def test_a_pruner_is_for_one_training_of_one_model():
    model, pruner = _net(), kprune.Pruner(0.5)
    pruner.update(model, 1.0)
    with pytest.raises(ValueError, match="Make another one for this model"):
        pruner.update(_net(), 1.0)
    with pytest.raises(
        ValueError, match="does not fall: the last update.*at 1"
    ):
        pruner.update(model, 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 1.0}, r"\[0, 1\)"),
        ({"schedule": 0.5, "criterion": "hessian"}, "Unknown criterion"),
        ({"schedule": 0.5, "granularity": "channel"}, "Unknown granularity"),
        ({"schedule": 0.5, "allocation": "erk"}, "Unknown allocation"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kprune.Pruner(**arguments)


def test_an_update_that_fails_is_not_counted():
    model, pruner = _net(), kprune.Pruner(0.5)
    kernel = model.layers[0].layer.kernel
    before = numpy(kernel).copy()
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="nan or infinite"):
        pruner.update(model, 0.5)
    assert not pruner.is_frozen and kprune.sparsity(model) == 0
    kernel.assign(before)
    assert pruner.update(model, 0.5) and kprune.sparsity(model) == 0.5


def _prune(model, sparsity, granularity):
    kprune.prune(model, sparsity, granularity=granularity)


def _prune_in_a_loop(model, sparsity, granularity):
    pruner = kprune.Pruner(sparsity, granularity=granularity)
    for epoch in range(4):
        pruner.update(model, (epoch + 1) / 4)


def _prune_in_fit(model, sparsity, granularity):
    scheduler = kprune.PruningScheduler(sparsity, granularity=granularity)
    shape = (8, *model.input_shape[1:])
    targets = np.ones((8, *model.output_shape[1:]))
    _compiled(model).fit(
        np.ones(shape), targets, epochs=4, verbose=0, callbacks=[scheduler]
    )


WAYS = [_prune, _prune_in_a_loop, _prune_in_fit]


def _one_filter():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            kprune.PrunableConv2D(1, 3),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def _filters_that_hang_together():
    """Each filter is added to its neighbour, so all are one group."""
    inputs = keras.Input((6, 6, 1))
    x = kprune.PrunableConv2D(4, 3)(inputs)
    turned = keras.ops.concatenate([x[..., 1:], x[..., :1]], axis=-1)
    outputs = layers.Dense(2)(layers.Flatten()(x + turned))
    return keras.Model(inputs, outputs)


def _few_weights():
    return keras.Sequential(
        [keras.Input((3,)), kprune.PrunableDense(3), kprune.PrunableDense(2)]
    )


NM, Block = kprune.granularities.NM, kprune.granularities.Block
SILENT = {
    "below the pattern": (_net, 0.4, NM(2, 4), r"sparsity of its own, 0.5,"),
    "far below it": (_net, 0.7, NM(1, 4), r"NM\(n=1, m=4\).*own, 0.75,"),
    "one filter": (_one_filter, 0.5, "filter", "one group always stays"),
    "one group": (
        _filters_that_hang_together,
        0.5,
        None,
        "one group always stays",
    ),
    "less than one": (_few_weights, 0.1, "unstructured", "a whole weight"),
    "one block": (_few_weights, 0.5, Block((4, 4)), "a whole weight, block"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", SILENT)
def test_what_prunes_nothing_says_so_once(case, way):
    make, sparsity, granularity, reason = SILENT[case]
    model = make()
    with pytest.warns(UserWarning, match=reason) as recorded:
        way(model, sparsity, granularity)
    assert kprune.sparsity(model) == 0
    (warning,) = [w for w in recorded if "Nothing was" in str(w.message)]
    assert f"sparsity of {sparsity}" in str(warning.message)


def test_a_pattern_in_one_layer_that_is_not_reached_says_so():
    model = keras.Sequential(
        [
            keras.Input((20,)),
            kprune.PrunableDense(30),
            kprune.PrunableDense(3, granularity=NM(2, 4), name="pattern"),
        ]
    )
    with pytest.warns(UserWarning, match=r"layers \['pattern'\].*own, 0.5"):
        kprune.prune(model, 0.4)
    assert [layer.sparsity for layer in model.layers] == [0.4, 0.0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("sparsity", "granularity"),
    [(0.0, None), (0.5, NM(2, 4)), (0.8, NM(2, 4)), (0.2, Block((2, 2)))],
)
def test_what_prunes_as_asked_says_nothing(recwarn, way, sparsity, granularity):
    # On its way up a schedule asks for less than the pattern has.
    way(_net(), sparsity, granularity)
    assert not [w for w in recwarn if "Nothing was" in str(w.message)]


def test_layers_that_do_not_train_do_not_count(recwarn):
    model = _net()
    kprune.prune(model, 0.5)
    model.layers[0].trainable = False
    with pytest.warns(UserWarning, match="Nothing was pruned"):
        kprune.prune(model, 0.4, granularity=NM(2, 4))


def _set_back(model, values):
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)


def _trainable(model):
    return [numpy(variable).copy() for variable in model.trainable_variables]


TICKETS = (0.3, 0.5, 0.7, 0.9)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("granularity", ["unstructured", "filter"])
def test_the_masks_of_a_rewound_ticket_only_shrink(granularity, allocation):
    model = _net()
    start = _trainable(model)
    gone = [np.zeros(mask.shape, bool) for mask in _masks(model)]
    for step, sparsity in enumerate(TICKETS):
        for again in range(5):
            _trained(model, 5 * step + again)
        pruner = kprune.Pruner(
            sparsity, granularity=granularity, allocation=allocation
        )
        assert pruner.update(model, 1.0)
        masks = _masks(model)
        for before, mask in zip(gone, masks, strict=True):
            assert not mask[before].any()
        gone = [~mask for mask in masks]
        _set_back(model, start)
        # Stored again, and masked all the same.
        assert _equal(masks, _masks(model))
    if granularity == "unstructured":
        zeros = sum(lost.sum() for lost in gone[::2])
        assert zeros == pytest.approx(0.9 * 690, abs=1)


def test_prune_says_so_once_where_a_rewound_ticket_grows_back(recwarn):
    model = _net()
    start = _trainable(model)
    for step, sparsity in enumerate(TICKETS):
        _trained(model, step)
        kprune.prune(model, sparsity)
        _set_back(model, start)
    told = [w for w in recwarn if "count again" in str(w.message)]
    assert len({str(w.message) for w in told}) == 1
    assert "kprune.Pruner(sparsity).update(model, 1.0)" in str(told[0].message)
    # Python shows a warning of one line once.
    assert len({(w.filename, w.lineno) for w in told}) == 1
    assert told[0].filename == __file__


@pytest.mark.parametrize(
    "steps",
    [
        # Higher and higher on the same weights, lower, and equal but other.
        [(0.3, "magnitude"), (0.5, "magnitude"), (0.9, "magnitude")],
        [(0.5, "magnitude"), (0.3, "magnitude")],
        [(0.5, "magnitude"), (0.5, "random")],
    ],
)
def test_what_comes_back_as_it_was_asked_for_is_no_news(recwarn, steps):
    model = _net()
    for sparsity, criterion in steps:
        kprune.prune(model, sparsity, criterion=criterion)
    assert not [w for w in recwarn if "count again" in str(w.message)]
