"""Every way to train: the masks grow, freeze and hold in all of them."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from models import Untraceable, numpy

import kprune
from kprune.prunable import prunable_layers
from kprune.weights import masked_value

BACKEND = keras.backend.backend()
SAMPLES, BATCH = 64, 16


def _data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(SAMPLES, 20)).astype("float32")
    return x, generator.integers(0, 3, SAMPLES)


def _net(rate=0.1):
    """690 weights, of which 0.6 are 414."""
    return keras.Sequential(
        [
            keras.Input((20,)),
            kprune.PrunableDense(30, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(rate),
            kprune.PrunableDense(3),
        ]
    )


def _compiled(model, optimizer=None, run_eagerly=True, **kwargs):
    """For training step by step, where the way to train is another matter."""
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
        **kwargs,
    )
    return model


def _assert_pruned(model, history):
    """The sparsity is the final one, in the stored weights as well."""
    assert history.history["sparsity"][-1] == pytest.approx(0.6)
    assert history.history["sparsity"][0] < 0.6
    assert np.isfinite(history.history["loss"]).all()
    prunable = prunable_layers(model)
    assert len(prunable) == 2
    zeros = 0
    for layer in prunable:
        for name, variable in layer.maskable.items():
            mask = numpy(layer.masks[name])
            assert (numpy(variable)[~mask] == 0).all()
            zeros += np.count_nonzero(~mask)
    assert zeros == 414
    plain = kprune.strip(model)
    assert not prunable_layers(plain)
    x, _ = _data()
    np.testing.assert_allclose(
        numpy(plain(x)), numpy(model(x)), rtol=0.03, atol=1e-5
    )


class Batches(keras.utils.PyDataset):
    """Data by index."""

    def __len__(self):
        return SAMPLES // BATCH

    def __getitem__(self, index):
        x, y = _data()
        chosen = slice(index * BATCH, (index + 1) * BATCH)
        return x[chosen], y[chosen]


def _endless():
    while True:
        yield from (Batches()[index] for index in range(len(Batches())))


def _dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(_data()).batch(BATCH)


def _of_unknown_length():
    import tensorflow as tf

    return _dataset().filter(lambda x, y: tf.constant(True))


SOURCES = {
    "arrays": lambda: {"x": _data()[0], "y": _data()[1], "batch_size": BATCH},
    "PyDataset": lambda: {"x": Batches()},
    "generator": lambda: {"x": _endless(), "steps_per_epoch": 4},
    "tf.data": lambda: {"x": _dataset()},
    "unknown length": lambda: {"x": _of_unknown_length()},
}


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("update_freq", ["epoch", 3])
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_of_data(source, update_freq):
    model = _compiled(_net())
    scheduler = kprune.PruningScheduler(0.6, update_freq=update_freq)
    history = model.fit(
        **SOURCES[source](), epochs=4, verbose=0, callbacks=[scheduler]
    )
    _assert_pruned(model, history)


def _not_on(backend, **options):
    return pytest.param(
        options,
        id=", ".join(options),
        marks=pytest.mark.skipif(
            BACKEND == backend, reason=f"Keras has it not on {backend}"
        ),
    )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="auto"),
        pytest.param({"run_eagerly": True}, id="run_eagerly"),
        _not_on("torch", jit_compile=True),
        _not_on("torch", steps_per_execution=2),
    ],
)
def test_every_way_to_compile(options):
    optimizer = keras.optimizers.Adam(1e-2)
    model = _compiled(_net(), optimizer, **{"run_eagerly": False, **options})
    scheduler = kprune.PruningScheduler(0.6, update_freq=2)
    history = model.fit(
        **SOURCES["arrays"](), epochs=4, verbose=0, callbacks=[scheduler]
    )
    _assert_pruned(model, history)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        optimizer = keras.optimizers.Adam(1e-2)
        model = _compiled(_net(), optimizer, run_eagerly=False)
    finally:
        keras.config.set_dtype_policy(before)
    history = model.fit(
        **SOURCES["arrays"](),
        epochs=4,
        verbose=0,
        callbacks=[kprune.PruningScheduler(0.6)],
    )
    _assert_pruned(model, history)


OPTIMIZERS = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "average": {"use_ema": True, "ema_momentum": 0.9},
    "average, overwriting": {
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 3,
    },
    "decay": {"weight_decay": 0.1},
    "clipping": {"global_clipnorm": 0.1},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_kind_of_optimizer(name):
    optimizer = keras.optimizers.AdamW(1e-2, **OPTIMIZERS[name])
    model = _compiled(_net(), optimizer, run_eagerly=False)
    scheduler = kprune.PruningScheduler(0.6)
    history = model.fit(
        **SOURCES["arrays"](), epochs=4, verbose=0, callbacks=[scheduler]
    )
    _assert_pruned(model, history)
    if BACKEND == "jax" and "average" in name:
        return  # A second `fit` fails there in Keras 3.15, on plain models too.
    # What the optimizer remembers revives nothing.
    masks = [numpy(layer.masks["kernel"]) for layer in prunable_layers(model)]
    model.fit(**SOURCES["arrays"](), epochs=4, verbose=0, callbacks=[scheduler])
    for layer, mask in zip(prunable_layers(model), masks, strict=True):
        np.testing.assert_array_equal(numpy(layer.masks["kernel"]), mask)


@pytest.mark.parametrize("first", ["scheduler", "averages"])
def test_averaged_weights_are_swapped_in(first):
    optimizer = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9)
    model = _compiled(_net(), optimizer)
    callbacks = [
        kprune.PruningScheduler(0.6),
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
    ]
    if first == "averages":
        callbacks.reverse()
    history = model.fit(
        **SOURCES["arrays"](),
        epochs=4,
        verbose=0,
        validation_data=_data(),
        callbacks=callbacks,
    )
    _assert_pruned(model, history)


@keras.saving.register_keras_serializable(package="test_ways_to_train")
class OwnStep(keras.Model):
    """A model of a user with a training step of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = kprune.PrunableDense(30, activation="relu")
        self.logits = kprune.PrunableDense(3)
        self.steps = 0

    def call(self, x):
        return self.logits(self.hidden(x))

    def train_step(self, *args, **kwargs):
        self.steps += 1
        return super().train_step(*args, **kwargs)


def test_a_subclassed_model_with_its_own_step():
    model = _compiled(OwnStep())
    history = model.fit(
        **SOURCES["arrays"](),
        epochs=4,
        verbose=0,
        callbacks=[kprune.PruningScheduler(0.6)],
    )
    assert model.steps > 0
    _assert_pruned(model, history)


def test_a_model_that_cannot_be_traced_trains_under_masks():
    model = Untraceable()
    model.compile("sgd", "mse", run_eagerly=True)
    if BACKEND == "jax":
        pytest.skip("on JAX Keras traces every model to train it")
    x, _ = _data()
    y = np.ones((SAMPLES, 2), "float32")
    model.fit(
        x, y, epochs=4, verbose=0, callbacks=[kprune.PruningScheduler(0.5)]
    )
    assert model.dense.sparsity == 0.5
    zeros = kprune.strip(model, compact=False)
    assert (numpy(zeros.dense.kernel) == 0).mean() == 0.5


def test_a_nested_model_with_shared_layers_and_several_inputs():
    shared = kprune.PrunableDense(8, activation="relu", name="shared")
    inner = keras.Sequential([keras.Input((5,)), shared])
    first, second = keras.Input((5,)), keras.Input((5,))
    joined = layers.Concatenate()([inner(first), inner(second)])
    outputs = {
        "class": kprune.PrunableDense(3, name="class")(joined),
        "size": kprune.PrunableDense(1, name="size")(joined),
    }
    model = keras.Model([first, second], outputs)
    model.compile("adam", {"class": "mse", "size": "mae"})
    x = np.random.default_rng(0).normal(size=(2, SAMPLES, 5))
    y = {"class": np.ones((SAMPLES, 3)), "size": np.ones((SAMPLES, 1))}
    model.fit(
        list(x), y, epochs=4, verbose=0, callbacks=[kprune.PruningScheduler()]
    )
    assert [layer.sparsity for layer in prunable_layers(model)] == [0.5] * 3


def _what_counts(model):
    return [
        masked_value(variable, layer.masks[name])
        for layer in prunable_layers(model)
        for name, variable in layer.maskable.items()
    ]


class Scores(keras.callbacks.Callback):
    """Puts scores into the logs: the dense epochs look best."""

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = [9, 8, 1, 3, 2, 1][epoch]


@pytest.mark.parametrize("order", ["scheduler first", "scheduler last"])
def test_the_best_epoch_is_one_under_final_masks(tmp_path, order):
    model = _compiled(_net())
    scheduler = kprune.PruningScheduler(0.6)
    path = tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, monitor="score", mode="max", save_best_only=True
    )
    stopping = keras.callbacks.EarlyStopping(
        monitor="score", mode="max", patience=2, restore_best_weights=True
    )
    callbacks = [
        scheduler,
        kprune.OnceFrozen(checkpoint, scheduler),
        kprune.OnceFrozen(stopping, scheduler),
    ]
    if order == "scheduler last":
        callbacks.reverse()
    seen = []

    class Recorder(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(_what_counts(self.model))

    model.fit(
        **SOURCES["arrays"](),
        epochs=6,
        verbose=0,
        callbacks=[Scores(), *callbacks, Recorder()],
    )
    # Frozen at the end of the third epoch, so the fourth is the best.
    assert scheduler.is_frozen and len(seen) == 6
    best = keras.saving.load_model(path)
    for kept in (best, model):
        assert kprune.sparsity(kept) == pytest.approx(0.6)
        for one, other in zip(_what_counts(kept), seen[3], strict=True):
            np.testing.assert_array_equal(one, other)


def test_weights_of_an_earlier_epoch_are_noticed():
    model = _compiled(_net())
    stopping = keras.callbacks.EarlyStopping(
        monitor="score", mode="max", patience=5, restore_best_weights=True
    )
    # The scheduler sees it from the last place in the list.
    callbacks = [Scores(), stopping, kprune.PruningScheduler(0.6)]
    with pytest.warns(UserWarning, match="earlier epoch.*OnceFrozen"):
        model.fit(
            **SOURCES["arrays"](), epochs=6, verbose=0, callbacks=callbacks
        )
    assert kprune.sparsity(model) < 0.6


def test_whatever_is_saved_whenever_strips_to_true_zeros(tmp_path):
    model = _compiled(_net())
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "before-{epoch}.keras"),
        kprune.PruningScheduler(0.6),
        keras.callbacks.ModelCheckpoint(tmp_path / "after-{epoch}.keras"),
    ]
    model.fit(**SOURCES["arrays"](), epochs=4, verbose=0, callbacks=callbacks)
    found = {}
    for path in tmp_path.iterdir():
        loaded = keras.saving.load_model(path)
        sparsity = kprune.sparsity(loaded)
        plain = kprune.strip(loaded, compact=False)
        zeros = [
            np.count_nonzero(numpy(layer.kernel) == 0)
            for layer in plain.layers
            if isinstance(layer, layers.Dense)
        ]
        assert sum(zeros) == round(690 * sparsity)
        found[path.stem] = sparsity
    assert found["before-1"] == 0 and found["after-4"] == pytest.approx(0.6)
    # One epoch later, as the masks change at the end of an epoch.
    for epoch in (1, 2, 3):
        assert found[f"after-{epoch}"] == found[f"before-{epoch + 1}"]


def test_no_epochs_are_no_training():
    model = _compiled(_net())
    scheduler = kprune.PruningScheduler(0.6)
    model.fit(**SOURCES["arrays"](), epochs=0, verbose=0, callbacks=[scheduler])
    assert kprune.sparsity(model) == 0 and not scheduler.is_frozen


def test_one_scheduler_on_two_models():
    scheduler = kprune.PruningScheduler(0.6)
    first, second = _compiled(_net()), _compiled(_net())
    for model in (first, second, first):
        history = model.fit(
            **SOURCES["arrays"](), epochs=4, verbose=0, callbacks=[scheduler]
        )
        assert history.history["sparsity"][-1] == pytest.approx(0.6)
    masks = [
        numpy(model.layers[0].masks["kernel"]) for model in (first, second)
    ]
    assert (masks[0] != masks[1]).any()


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_dataset_that_ends_early():
    model = _compiled(_net())
    # 6 steps are promised, 4 are there.
    history = model.fit(
        _dataset(),
        steps_per_epoch=6,
        epochs=4,
        verbose=0,
        callbacks=[kprune.PruningScheduler(0.6, update_freq=2)],
    )
    assert history.history["sparsity"][-1] == pytest.approx(0.6)
    assert kprune.sparsity(model) == pytest.approx(0.6)


def test_nan_ends_the_training_and_leaves_the_last_good_masks():
    model = _compiled(_net())
    kept = []

    class Diverge(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                kept.extend(
                    numpy(mask)
                    for layer in prunable_layers(self.model)
                    for mask in layer.masks.values()
                )
                kernel = self.model.layers[-1].layer.kernel
                kernel.assign(np.full(kernel.shape, np.nan))

    name = model.layers[-1].name
    with pytest.raises(ValueError, match=f"'{name}'.*nan or infinite"):
        model.fit(
            **SOURCES["arrays"](),
            epochs=8,
            verbose=0,
            callbacks=[Diverge(), kprune.PruningScheduler(0.6)],
        )
    masks = [
        m for layer in prunable_layers(model) for m in layer.masks.values()
    ]
    for before, mask in zip(kept, masks, strict=True):
        np.testing.assert_array_equal(numpy(mask), before)
    assert 0 < model.layers[0].sparsity < 0.6


class Kill(keras.callbacks.Callback):
    """Ends the process in the middle of an epoch, as `kill -9` does."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 3 and batch == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def _train_with_backup(folder, *callbacks):
    keras.utils.set_random_seed(1)
    # Keras does not keep the random state of Dropout in a backup.
    model = _compiled(_net(rate=0))
    model.fit(
        **SOURCES["arrays"](),
        shuffle=False,
        epochs=6,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(os.path.join(folder, "backup")),
            kprune.PruningScheduler(0.6, update_freq=3),
            *callbacks,
        ],
    )
    return model


SCRIPT = """
import os, sys
import test_ways_to_train as ways

folder, callbacks = sys.argv[1], [ways.Kill()] if "kill" in sys.argv else []
model = ways._train_with_backup(folder, *callbacks)
model.save(os.path.join(folder, "model.keras"))
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is of POSIX")
def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, str(script), str(tmp_path), *arguments],
            capture_output=True,
            timeout=300,
            env=environment,
        )

    killed = run("kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "model.keras").exists()
    resumed = run()
    assert resumed.returncode == 0, resumed.stderr.decode()
    one = _train_with_backup(tmp_path / "straight")
    other = keras.saving.load_model(tmp_path / "model.keras")
    assert kprune.sparsity(one) == pytest.approx(0.6)
    for first, second in zip(
        prunable_layers(one), prunable_layers(other), strict=True
    ):
        for name, mask in first.masks.items():
            np.testing.assert_array_equal(
                numpy(second.masks[name]), numpy(mask)
            )
    for first, second in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(
            numpy(second).astype("float32"),
            numpy(first).astype("float32"),
            atol=1e-6,
            err_msg=first.path,
        )
