"""PruningScheduler: when masks grow, freeze, and go on after a stop."""

import functools
import shutil

import keras
import numpy as np
import pytest
from keras import layers
from models import compiled, convnet, numpy

import kprune
from kprune.prunable import prunable_layers


def _net():
    model = keras.Sequential(
        [
            keras.Input((20,)),
            kprune.PrunableDense(30, activation="relu"),
            kprune.PrunableDense(3),
        ]
    )
    # Compiling it takes longer than the few steps; `test_ways_to_train.py`
    # does that.
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    return model


def _data(samples=64):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(samples, 20)).astype("float32")
    return x, generator.integers(0, 3, samples)


def _fit(model, scheduler, epochs=4, callbacks=(), **kwargs):
    x, y = _data()
    return model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=16,
        verbose=0,
        shuffle=False,
        callbacks=[scheduler, *callbacks],
        **kwargs,
    )


def _masks(model):
    return [
        numpy(mask)
        for layer in prunable_layers(model)
        for mask in layer.masks.values()
    ]


def _kernels(model):
    return [numpy(layer.layer.kernel) for layer in prunable_layers(model)]


class Recorder(keras.callbacks.Callback):
    """Keeps the masks and kernels at the begin and end of each epoch."""

    def on_train_begin(self, logs=None):
        self.begins, self.ends, self.stored = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append(_masks(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(_masks(self.model))
        self.stored.append(_kernels(self.model))


def _equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_schedule_in_numbers():
    schedule = kprune.schedules.Linear(0.8, end=0.75)
    history = _fit(_net(), kprune.PruningScheduler(schedule), epochs=4)
    # 600 and 90 weights: all counts are whole.
    expected = [0.8 / 3, 1.6 / 3, 0.8, 0.8]
    assert history.history["sparsity"] == pytest.approx(expected, abs=1e-3)


def test_default_reaches_half_and_ends_in_the_middle():
    history = _fit(_net(), kprune.PruningScheduler(), epochs=4)
    # Cubic: 1 - (1 - 0.25 / 0.5) ** 3 = 7 / 8 of the way after one epoch.
    assert history.history["sparsity"] == pytest.approx(
        [0.4375, 0.5, 0.5, 0.5], abs=2e-3
    )


def test_frozen_masks_do_not_move_and_zeros_stay():
    recorder = Recorder()
    _fit(_net(), kprune.PruningScheduler(0.7), 6, [recorder])
    assert not _equal(recorder.ends[0], recorder.ends[1])
    for epoch in (3, 4, 5):
        assert _equal(recorder.ends[2], recorder.ends[epoch])
        for kernel, mask in zip(
            recorder.stored[epoch], recorder.ends[epoch][::2], strict=True
        ):
            assert (kernel[~mask] == 0).all()
            assert (kernel[mask] != 0).all()
    # Before the freeze masked weights keep their stored values.
    assert (recorder.stored[0][0] != 0).all()


@pytest.mark.parametrize("epochs", [2, 3, 5])
@pytest.mark.parametrize(
    "schedule",
    [
        kprune.schedules.Linear(0.6, end=1.0),
        kprune.schedules.OneShot(0.6, at=0.9),
        lambda progress: 0.6 * progress,
    ],
)
def test_the_last_epoch_trains_under_the_final_mask(schedule, epochs):
    recorder = Recorder()
    history = _fit(
        _net(), kprune.PruningScheduler(schedule), epochs, [recorder]
    )
    assert _equal(recorder.begins[-1], recorder.ends[-1])
    assert history.history["sparsity"][-2:] == pytest.approx(
        [0.6, 0.6], abs=1e-3
    )


def test_one_epoch_reaches_the_sparsity_and_says_that_it_never_trained():
    with pytest.warns(UserWarning, match="never trained.*0.6 are.*0.6 by.*two"):
        history = _fit(_net(), kprune.PruningScheduler(0.6), epochs=1)
    assert history.history["sparsity"] == pytest.approx([0.6], abs=1e-3)


def _never_trained(recorded):
    return [w for w in recorded if "never trained" in str(w.message)]


@pytest.mark.parametrize("reuse", ["one scheduler", "new ones"])
@pytest.mark.parametrize("plan", ["epochs=1", "initial_epoch"])
def test_a_training_in_calls_of_one_epoch_says_so_once(recwarn, plan, reuse):
    model, scheduler = _net(), kprune.PruningScheduler(0.6)
    for epoch in range(3):
        if reuse == "new ones":
            scheduler = kprune.PruningScheduler(0.6)
        if plan == "epochs=1":
            _fit(model, scheduler, epochs=1)
        else:
            _fit(model, scheduler, epochs=epoch + 1, initial_epoch=epoch)
        assert len(_never_trained(recwarn)) == 1


def test_a_training_that_stops_at_the_freeze_says_so():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    with pytest.warns(UserWarning, match="never trained"):
        _fit(_net(), kprune.PruningScheduler(0.6), 4, [Stop()])


@pytest.mark.parametrize(
    "scheduler",
    [
        # In one epoch of 4 steps: frozen before the third.
        kprune.PruningScheduler(0.6, update_freq=1),
        kprune.PruningScheduler(kprune.schedules.OneShot(0.6, at=0.0)),
        kprune.PruningScheduler(kprune.schedules.Constant(0.6)),
    ],
)
def test_masks_that_trained_within_one_epoch_are_no_news(recwarn, scheduler):
    history = _fit(_net(), scheduler, epochs=1)
    assert history.history["sparsity"] == pytest.approx([0.6], abs=1e-3)
    assert not _never_trained(recwarn)


@pytest.mark.parametrize("update_freq", ["epoch", 2])
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (kprune.schedules.OneShot(0.6, at=0.0), [0.6, 0.6, 0.6, 0.6]),
        (kprune.schedules.Constant(0.6, begin=0.0), [0.6, 0.6, 0.6, 0.6]),
        (kprune.schedules.Linear(0.6, 0.2), [0.2, 0.4, 0.6, 0.6]),
        (kprune.schedules.Linear(0.6, 0.2, end=0.0), [0.6, 0.6, 0.6, 0.6]),
        (kprune.schedules.Linear(0.6), [0.0, 0.3, 0.6, 0.6]),
    ],
)
def test_the_schedule_at_0_is_heard_before_the_first_step(
    schedule, expected, update_freq
):
    seen, frozen = [], []
    scheduler = kprune.PruningScheduler(schedule, update_freq=update_freq)

    class Spy(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                seen.append(kprune.sparsity(self.model))
                frozen.append(scheduler.is_frozen)

    _fit(_net(), scheduler, 4, [Spy()])
    assert seen == pytest.approx(expected, abs=2e-3)
    end = kprune.schedules.end(schedule)
    assert frozen == [epoch / 4 >= end for epoch in range(4)]


def test_pruned_at_initialization_the_masks_are_those_of_the_start():
    model = _net()
    start = _kernels(model)
    _fit(model, kprune.PruningScheduler(kprune.schedules.OneShot(0.6, at=0)))
    for before, mask, after in zip(
        start, _masks(model)[::2], _kernels(model), strict=True
    ):
        gone = np.sort(np.abs(before), axis=None)[: int(0.6 * before.size)]
        assert np.array_equal(mask, np.abs(before) > gone[-1])
        assert not after[~mask].any()


@pytest.mark.parametrize("initial_epoch", [0, 1, 3])
def test_a_resumed_training_does_not_hear_the_schedule_at_0(initial_epoch):
    asked = []

    def schedule(progress):
        asked.append(progress)
        return 0.2 + 0.4 * min(2 * progress, 1)

    schedule.end = 0.5

    class Forget(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            asked.clear()  # The whole schedule was checked.

    scheduler = kprune.PruningScheduler(schedule)
    history = _fit(
        _net(), scheduler, 4, [Forget()], initial_epoch=initial_epoch
    )
    assert (0.0 in asked) == (initial_epoch == 0)
    assert history.history["sparsity"][-1] == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize("first", ["scheduler", "once frozen"])
def test_epochs_under_masks_of_the_start_count_for_once_frozen(first):
    seen = []

    class Seer(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(epoch)

        def on_epoch_end(self, epoch, logs=None):
            assert seen[-1] == epoch
            seen.append(epoch)

    schedule = kprune.schedules.OneShot(0.6, at=0.0)
    scheduler = kprune.PruningScheduler(schedule)
    callbacks = [scheduler, kprune.OnceFrozen(Seer(), scheduler)]
    if first == "once frozen":
        callbacks.reverse()
    _fit(_net(), callbacks[0], 2, callbacks[1:])
    assert seen == [0, 0, 1, 1]


def test_updates_at_steps():
    updates = []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            updates.append(round(kprune.sparsity(self.model), 3))

    schedule = kprune.schedules.Linear(0.8, end=0.5)
    # 4 steps an epoch, 16 in all.
    scheduler = kprune.PruningScheduler(schedule, update_freq=3)
    _fit(_net(), scheduler, 4, [Spy()])
    assert updates[:9] == pytest.approx(
        [0, 0, 0, 0.3, 0.4, 0.4, 0.6, 0.6, 0.8], abs=2e-3
    )
    assert set(updates[8:]) == {updates[8]}


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_steps_of_a_dataset_of_unknown_length():
    import tensorflow as tf

    x, y = _data()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    data = data.filter(lambda x, y: True)  # its length is unknown now
    updates = Recorder()
    schedule = kprune.schedules.Linear(0.8, end=0.5)
    history = _net().fit(
        data,
        epochs=4,
        verbose=0,
        callbacks=[kprune.PruningScheduler(schedule, update_freq=1), updates],
    )
    assert history.history["sparsity"] == pytest.approx(
        [0.4, 0.8, 0.8, 0.8], abs=2e-3
    )


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="Keras has one step an execution on torch",
)
def test_several_steps_in_one_execution():
    model = _net()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.steps_per_execution = 2
    scheduler = kprune.PruningScheduler(0.6, update_freq=1)
    history = _fit(model, scheduler, 4)
    assert history.history["sparsity"][-1] == pytest.approx(0.6, abs=1e-3)


def test_initial_epoch_continues_a_saved_model(tmp_path):
    straight = Recorder()
    first = _net()
    _fit(first, kprune.PruningScheduler(0.7), 6, [straight])

    keras.utils.set_random_seed(0)
    second = _net()

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.save(tmp_path / "stopped.keras")
                self.model.stop_training = True

    with pytest.warns(UserWarning, match="Training ended"):
        _fit(second, kprune.PruningScheduler(0.7), 6, [Stop()])
    loaded = keras.saving.load_model(tmp_path / "stopped.keras")
    resumed = Recorder()
    _fit(loaded, kprune.PruningScheduler(0.7), 6, [resumed], initial_epoch=2)
    for ahead, epoch in enumerate(range(2, 6)):
        assert _equal(resumed.ends[ahead], straight.ends[epoch])
    for one, other in zip(_kernels(first), _kernels(loaded), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@functools.cache
def _straight(update_freq):
    """The masks and kernels of a training without backups."""
    keras.utils.set_random_seed(0)
    recorder, model = Recorder(), _net()
    scheduler = kprune.PruningScheduler(0.7, update_freq=update_freq)
    _fit(model, scheduler, 6, [recorder])
    return recorder.ends, _kernels(model)


class Stops(keras.callbacks.Callback):
    """Keeps each backup as a crash at the begin of that epoch leaves it."""

    def __init__(self, backup):
        super().__init__()
        self.backup = backup

    def on_epoch_begin(self, epoch, logs=None):
        if epoch:
            shutil.copytree(self.backup, self.backup.with_name(str(epoch)))


@pytest.mark.parametrize("update_freq", ["epoch", 3])
@pytest.mark.parametrize("first_called", ["scheduler", "backup"])
def test_backup_and_restore_continues(tmp_path, first_called, update_freq):
    ends, kernels = _straight(update_freq)

    def fit(folder, *callbacks):
        keras.utils.set_random_seed(0)
        model, recorder = _net(), Recorder()
        backup = keras.callbacks.BackupAndRestore(folder)
        scheduler = kprune.PruningScheduler(0.7, update_freq=update_freq)
        both = [scheduler, backup]
        if first_called == "backup":
            both.reverse()
        _fit(model, both[0], 6, [both[1], recorder, *callbacks])
        return model, recorder

    fit(tmp_path / "backup", Stops(tmp_path / "backup"))
    for stop in (1, 3, 4):
        model, resumed = fit(tmp_path / str(stop))
        for one, other in zip(resumed.ends, ends[stop:], strict=True):
            assert _equal(one, other)
        for one, other in zip(kernels, _kernels(model), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_resumed_training_counts_steps_of_unknown_length(tmp_path):
    import tensorflow as tf

    def fit(folder, *callbacks):
        keras.utils.set_random_seed(0)
        recorder = Recorder()
        data = tf.data.Dataset.from_tensor_slices(_data()).batch(16)
        schedule = kprune.schedules.Linear(0.6, end=0.55)
        scheduler = kprune.PruningScheduler(schedule, update_freq=3)
        backup = keras.callbacks.BackupAndRestore(folder)
        _net().fit(
            data.filter(lambda x, y: True),  # its length is unknown now
            epochs=6,
            verbose=0,
            callbacks=[scheduler, backup, recorder, *callbacks],
        )
        return recorder.ends

    straight = fit(tmp_path / "backup", Stops(tmp_path / "backup"))
    for stop in (1, 2, 3, 4):
        resumed = fit(tmp_path / str(stop))
        for one, other in zip(resumed, straight[stop:], strict=True):
            assert _equal(one, other)


def test_zeros_that_are_not_masked_are_no_final_masks():
    model = keras.Sequential(
        [
            keras.Input((20,)),
            kprune.PrunableDense(30, kernel_constraint="non_neg"),
            kprune.PrunableDense(3, kernel_constraint="non_neg"),
        ]
    )
    for layer in model.layers:
        kernel = np.random.default_rng(0).normal(size=layer.layer.kernel.shape)
        layer.layer.kernel.assign(np.maximum(kernel, 0))
    assert kprune.sparsity(model) > 0.4
    compiled(model, learning_rate=1e-2)
    _fit(model, kprune.PruningScheduler(0.4), 8, initial_epoch=5)
    for mask, kernel in zip(_masks(model)[::2], _kernels(model), strict=True):
        assert np.count_nonzero(~mask) == int(0.4 * kernel.size)


def test_zeros_that_train_later_are_no_earlier_weights(recwarn):
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            kprune.PrunableLayer(
                layers.Embedding(40, 8, embeddings_initializer="zeros")
            ),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    compiled(model, learning_rate=1e-2)

    def batches():
        # Half of the rows come when the masks are final.
        for step in range(32):
            rows = np.arange(64).reshape(16, 4) % (20 if step < 24 else 40)
            yield rows.astype("int32"), np.arange(16) % 3

    scheduler = kprune.PruningScheduler(0.3)
    history = model.fit(
        batches(), epochs=4, steps_per_epoch=8, verbose=0, callbacks=[scheduler]
    )
    sparsity = history.history["sparsity"]
    assert sparsity[-1] < sparsity[-2] - 0.05
    assert not [w for w in recwarn if "earlier epoch" in str(w.message)]


def test_a_dense_model_resumed_behind_the_end_is_pruned_all_the_same():
    model = _net()
    history = _fit(model, kprune.PruningScheduler(0.6), 6, initial_epoch=4)
    assert history.history["sparsity"] == pytest.approx([0.6] * 2, abs=1e-3)


def test_a_second_training_never_revives_a_frozen_mask():
    model = _net()
    _fit(model, kprune.PruningScheduler(0.6), 4)
    frozen = _masks(model)
    compiled(model, learning_rate=0.1)
    _fit(model, kprune.PruningScheduler(0.3, criterion="random"), 4)
    for before, after in zip(frozen, _masks(model), strict=True):
        assert not after[~before].any()


@pytest.mark.parametrize("granularity", ["unstructured", "nm"])
def test_biases_of_frozen_filters_stay_away(granularity):
    model = keras.Sequential(
        [
            keras.Input((20,)),
            kprune.PrunableDense(8, granularity="filter"),
            kprune.PrunableDense(3),
        ]
    )
    compiled(model, learning_rate=1e-2)
    _fit(model, kprune.PruningScheduler(0.5), 4)
    first = model.layers[0]
    gone = ~numpy(first.masks["bias"])
    assert gone.sum() == 4
    _fit(model, kprune.PruningScheduler(0.7, granularity=granularity), 4)
    np.testing.assert_array_equal(~numpy(first.masks["bias"]), gone)
    assert not numpy(first(_data()[0]))[:, gone].any()


def test_biases_of_neurons_that_single_weights_left_stay():
    model = keras.Sequential(
        [keras.Input((20,)), kprune.PrunableDense(8), kprune.PrunableDense(3)]
    )
    kernel = np.ones((20, 8), "float32")
    kernel[:, :4] = 1e-6
    model.layers[0].layer.set_weights([kernel, np.ones(8, "float32")])
    compiled(model, learning_rate=1e-6)
    for _ in range(2):
        _fit(model, kprune.PruningScheduler(0.5), 4)
    assert not numpy(model.layers[0].masks["kernel"])[:, :4].any()
    assert numpy(model.layers[0].masks["bias"]).all()


@pytest.mark.parametrize("through", ["memory", "a file", "no scheduler"])
def test_momentum_revives_nothing_in_a_second_training(tmp_path, through):
    model = _net()
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
    )
    _fit(model, kprune.PruningScheduler(0.6), 4)
    frozen = _masks(model)
    if through == "a file":
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    if through == "no scheduler":
        model.fit(*_data(), epochs=2, verbose=0)
        assert not all((kernel == 0).any() for kernel in _kernels(model))
    recorder = Recorder()
    history = _fit(model, kprune.PruningScheduler(0.8), 4, [recorder])
    assert history.history["sparsity"][-1] == pytest.approx(0.8, abs=2e-3)
    for masks in recorder.ends:
        for before, after in zip(frozen, masks, strict=True):
            assert not after[~before].any()


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_resumed_training_keeps_final_masks(tmp_path, allocation):
    def scheduler():
        return kprune.PruningScheduler(0.6, allocation=allocation)

    model = _net()
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
    )
    _fit(model, scheduler(), 4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    path = tmp_path / "best.keras"
    best = keras.callbacks.ModelCheckpoint(
        path, monitor="loss", save_best_only=True
    )
    resumed = scheduler()
    recorder = Recorder()
    others = [kprune.OnceFrozen(best, resumed), recorder]
    _fit(loaded, resumed, 8, others, initial_epoch=5)
    assert len(recorder.ends) == 3
    for masks in recorder.ends:
        assert _equal(masks, _masks(model))
    assert path.exists()


def _by_hand(model, scheduler, epochs, steps=None):
    """Calls the hooks as a loop of one's own does; returns the sparsities."""
    hooks = keras.callbacks.CallbackList(
        [scheduler], model=model, epochs=epochs, steps=steps
    )
    sparsities = []
    hooks.on_train_begin()
    for epoch in range(epochs):
        hooks.on_epoch_begin(epoch)
        for step in range(4):
            hooks.on_train_batch_begin(step)
            sparsities.append(round(kprune.sparsity(model), 2))
            hooks.on_train_batch_end(step)
        hooks.on_epoch_end(epoch)
    hooks.on_train_end()
    return sparsities


@pytest.mark.parametrize("steps", [4, None])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_hooks_called_by_hand(is_compiled, steps):
    model = _net()
    if not is_compiled:
        model = keras.models.clone_model(model)
    schedule = kprune.schedules.Linear(0.8, end=0.5)
    at_epochs = kprune.PruningScheduler(schedule)
    assert (
        _by_hand(model, at_epochs, 3, steps)
        == [0.0] * 4 + [0.53] * 4 + [0.8] * 4
    )
    assert at_epochs.is_frozen
    model = keras.models.clone_model(model)
    at_steps = kprune.PruningScheduler(schedule, update_freq=1)
    # 0.8 / 6 a step; steps that are not known are counted in the first epoch.
    first = [0.0, 0.13, 0.27, 0.4] if steps else [0.0] * 4
    later = [0.53, 0.67, *[0.8] * 6]
    assert _by_hand(model, at_steps, 3, steps) == first + later
    assert at_steps.is_frozen


def test_hooks_called_by_hand_need_the_number_of_epochs():
    model = keras.models.clone_model(_net())
    hooks = keras.callbacks.CallbackList(
        [kprune.PruningScheduler(0.5)], model=model
    )
    with pytest.raises(ValueError, match="how many epochs.*epochs=8"):
        hooks.on_train_begin()


def test_what_once_frozen_takes():
    stopping = keras.callbacks.EarlyStopping()
    with pytest.raises(ValueError, match="takes a Keras callback and"):
        kprune.OnceFrozen(kprune.PruningScheduler(), stopping)
    saving = keras.callbacks.ModelCheckpoint("best.keras", save_freq=2)
    with pytest.raises(ValueError, match="ModelCheckpoint would never save"):
        kprune.OnceFrozen(saving, kprune.PruningScheduler())
    scheduler = kprune.PruningScheduler()
    with pytest.warns(UserWarning, match="EarlyStopping no epoch"):
        _fit(_net(), kprune.OnceFrozen(stopping, scheduler))


def test_training_that_ends_too_early_warns_with_numbers():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    with pytest.warns(
        UserWarning,
        match=r"ended at 0.2 of the planned 10 epochs.*ended at 0.5.*"
        r"0.6\d+ of the prunable weights.*ends at 0.8",
    ):
        _fit(_net(), kprune.PruningScheduler(0.8), 10, [Stop()])


def test_training_that_ends_in_time_does_not_warn(recwarn):
    _fit(_net(), kprune.PruningScheduler(0.8), 4)
    assert not [w for w in recwarn if "pruning" in str(w.message)]


def test_sparsity_is_in_the_progress_bar(capsys):
    x, y = _data()
    _net().fit(
        x, y, epochs=2, verbose=2, callbacks=[kprune.PruningScheduler(0.6)]
    )
    assert "sparsity: 0.6" in capsys.readouterr().out


def test_real_digits(digits):
    x, y = digits
    model = compiled(convnet(), learning_rate=3e-3)
    history = model.fit(
        x[:400],
        y[:400],
        validation_data=(x[400:], y[400:]),
        epochs=15,
        batch_size=32,
        verbose=0,
        callbacks=[kprune.PruningScheduler(0.5)],
    ).history
    assert history["val_accuracy"][-1] > 0.75
    assert kprune.sparsity(model) > 0.5
    assert numpy(model.layers[0].masks["bias"]).sum() == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 1.0}, r"\[0, 1\)"),
        ({"schedule": float("nan")}, r"\[0, 1\)"),
        ({"schedule": "exponential"}, "Unknown schedule.*'polynomial'"),
        ({"criterion": "hessian"}, "Unknown criterion"),
        ({"granularity": "channel"}, "Unknown granularity"),
        ({"allocation": "erk"}, "Unknown allocation"),
        ({"update_freq": 0}, "positive number of steps"),
        ({"update_freq": "batch"}, "'epoch' or a positive number"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kprune.PruningScheduler(**arguments)


def test_a_schedule_is_checked_before_the_model_trains():
    model = _net()
    before = _kernels(model)
    scheduler = kprune.PruningScheduler(lambda progress: progress)
    with pytest.raises(ValueError, match=r"schedule at progress 1.*=1.0"):
        _fit(model, scheduler)
    assert _equal(before, _kernels(model))


def test_a_number_of_numpy_is_a_number_of_steps():
    assert kprune.PruningScheduler(update_freq=np.int64(3)).update_freq == 3


def test_a_model_without_prunable_layers_is_refused_before_it_trains():
    model = keras.Sequential([keras.Input((20,)), layers.Dense(3)])
    compiled(model)
    before = model.get_weights()
    with pytest.raises(
        ValueError, match=r"model = kprune.make_prunable\(model\)"
    ):
        _fit(model, kprune.PruningScheduler())
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
