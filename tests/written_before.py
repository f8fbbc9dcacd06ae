"""Files of the version whose wrappers were called `prunable_<name>`.

`tests/fixtures/written_before.zip` holds them; `test_written_before.py` loads
them. They were written by this file, with kprune at commit 7c90396 on
`PYTHONPATH`, Keras 3.15 and TensorFlow 2.21:

    python tests/written_before.py tests/fixtures/written_before
"""

import pathlib
import shutil
import sys
import tempfile

import keras
import numpy as np
from keras import layers

import kprune

SPARSITY = 0.6
EPOCHS = 4
INTERRUPTED_AFTER = 2
# Keras leaves layers in a list of a subclassed model out of a checkpoint.
WITH_CHECKPOINT = ("sequential", "functional")


def sequential() -> keras.Model:
    return kprune.make_prunable(
        keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                layers.Conv2D(4, 3, activation="relu", name="conv"),
                layers.BatchNormalization(name="norm"),
                layers.Flatten(),
                layers.Dense(3, name="logits"),
            ],
            name="sequential",
        )
    )


def functional() -> keras.Model:
    """A shared layer, a nested model, layers of several inputs, two outputs."""
    inputs = keras.Input((6, 8), name="sequence")
    shared = layers.Dense(8, activation="relu", name="shared")
    inner = keras.Sequential(
        [keras.Input((6, 8)), layers.LSTM(4, name="lstm")], name="inner"
    )
    attended = layers.MultiHeadAttention(2, 4, name="attention")(
        shared(inputs), shared(shared(inputs))
    )
    x = inner(attended)
    outputs = {
        "age": layers.Dense(1, name="age")(x),
        "sex": layers.Dense(2, name="sex")(x),
    }
    return kprune.make_prunable(keras.Model(inputs, outputs, name="two"))


@keras.saving.register_keras_serializable(package="written_before")
class Subclassed(keras.Model):
    """A model that makes its own wrappers, one with a name of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = kprune.PrunableDense(8, activation="relu", name="hidden")
        self.blocks = [
            kprune.PrunableLayer(layers.Dense(8, name="block"), name="first")
        ]
        self.logits = kprune.PrunableDense(3)

    def call(self, x):
        x = self.hidden(x)
        for block in self.blocks:
            x = block(x)
        return self.logits(x)


def subclassed() -> keras.Model:
    model = Subclassed(name="subclassed")
    model(np.zeros((1, 8), "float32"))
    return model


MODELS = {
    "sequential": (sequential, (6, 6, 2)),
    "functional": (functional, (6, 8)),
    "subclassed": (subclassed, (8,)),
}


def inputs(name: str, size: int = 16) -> np.ndarray:
    generator = np.random.default_rng(0)
    shape = MODELS[name][1]
    return generator.normal(size=(size, *shape)).astype("float32")


def recorded(model, x) -> dict:
    """The model's outputs and masks, as arrays with names."""
    outputs = keras.tree.flatten(model(x))
    masks = [v for v in model.weights if v.name.endswith("_mask")]
    arrays = [keras.ops.convert_to_numpy(array) for array in [*outputs, *masks]]
    return {f"{index:03}": array for index, array in enumerate(arrays)}


def train(model, x, callbacks, epochs=EPOCHS) -> None:
    """Trains towards the first features; the same on every machine."""
    first = x.reshape(len(x), -1)[:, :3]
    targets = {"age": first[:, :1], "sex": first[:, :2]}
    if model.name != "two":
        targets = first
    if not model.compiled:
        model.compile(keras.optimizers.Adam(1e-2), "mse")
    scheduler = kprune.PruningScheduler(
        kprune.schedules.Polynomial(SPARSITY), granularity="unstructured"
    )
    model.fit(
        x,
        targets,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[scheduler, *callbacks],
    )


class Interrupt(keras.callbacks.Callback):
    """Ends a training as a lost machine would, after an epoch's backup."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == INTERRUPTED_AFTER:
            raise KeyboardInterrupt


def backup(folder) -> keras.callbacks.Callback:
    return keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)


def write(folder: pathlib.Path) -> None:
    import tensorflow as tf

    for name, (make, _) in MODELS.items():
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        x = inputs(name)
        model = make()
        train(model, x, [])
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        if name in WITH_CHECKPOINT:
            tf.train.Checkpoint(model=model).write(str(folder / f"{name}.tf"))
        np.savez_compressed(folder / f"{name}.npz", **recorded(model, x))
        keras.utils.set_random_seed(0)
        interrupted = make()
        try:
            train(interrupted, x, [backup(folder / name), Interrupt()])
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as written:
        write(pathlib.Path(written))
        shutil.make_archive(sys.argv[1], "zip", written)
