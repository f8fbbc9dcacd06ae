"""One side of `against_tfmot.py`: a process that trains, times and exports.

    python tfmot_worker.py kprune
    python tfmot_worker.py TFMOT

It is started by `against_tfmot.py`, once in the environment of each library,
and takes commands from it. Both sides run the same code but for the classes
`Kprune` and `Tfmot`. This file imports nothing of kprune but in `Kprune`: the
other environment does not have it.
"""

import functools
import gzip
import importlib.metadata
import os
import pathlib
import pickle
import platform
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

BATCH_SIZE = 128
STEPS_A_TURN = 100
UPDATES_A_TURN = 10
UPDATE_SPARSITY = 0.8


class Kprune:
    """Pruning as README.md says, single weights as TFMOT does it."""

    def __init__(self):
        import keras

        import kprune

        self.keras = keras
        self._kprune = kprune
        self.versions = _versions("kprune", "keras", "tensorflow", "numpy")

    def prunable(self, net, sparsity, end_step, steps, frequency):
        schedule = self._kprune.schedules.Polynomial(
            sparsity, end=end_step / steps
        )
        scheduler = self._kprune.PruningScheduler(
            schedule, granularity="unstructured", update_freq=frequency
        )
        return self._kprune.make_prunable(net), [scheduler]

    def mask_update(self, net):
        model = self._kprune.make_prunable(net)
        return lambda: self._kprune.prune(
            model, UPDATE_SPARSITY, granularity="unstructured"
        )

    def sparsity(self, model) -> float:
        return self._kprune.sparsity(model)

    def export(self, model) -> tuple[bytes, bool]:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.tflite"
            result = self._kprune.export(model, path)
            return path.read_bytes(), result.is_sparse


class Tfmot:
    """Pruning as TFMOT's guide says."""

    def __init__(self):
        # As TensorFlow's own documentation says, for all that uses tf.keras.
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        import tensorflow
        import tensorflow_model_optimization
        import tf_keras

        self.keras = tf_keras
        self._tf = tensorflow
        self._sparsity = tensorflow_model_optimization.sparsity.keras
        self.versions = _versions(
            "tensorflow-model-optimization", "tf_keras", "tensorflow", "numpy"
        )

    def prunable(self, net, sparsity, end_step, steps, frequency):
        schedule = self._sparsity.PolynomialDecay(
            0.0, sparsity, begin_step=0, end_step=end_step, frequency=frequency
        )
        model = self._sparsity.prune_low_magnitude(
            net, schedule, block_size=(1, 1)
        )
        return model, [self._sparsity.UpdatePruningStep()]

    def mask_update(self, net):
        schedule = self._sparsity.ConstantSparsity(
            UPDATE_SPARSITY, begin_step=0, frequency=1
        )
        model = self._sparsity.prune_low_magnitude(net, schedule)
        wrapped = [
            layer for layer in model.layers if hasattr(layer, "pruning_obj")
        ]
        for layer in wrapped:
            layer.pruning_step.assign(0)

        # In `fit` the update is a part of the training step's graph.
        @self._tf.function
        def update():
            for layer in wrapped:
                layer.pruning_obj.conditional_mask_update()

        return update

    def sparsity(self, model) -> float:
        kernels = [
            weight.numpy()
            for weight in self._sparsity.strip_pruning(model).weights
            if "kernel" in weight.name
        ]
        zeros = sum(np.count_nonzero(kernel == 0) for kernel in kernels)
        return zeros / sum(kernel.size for kernel in kernels)

    def export(self, model) -> tuple[bytes, bool]:
        stripped = self._sparsity.strip_pruning(model)
        sparse = self._convert(
            stripped, [self._tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        )
        if self._runs(sparse):
            return sparse, True
        return self._convert(stripped, []), False

    def _convert(self, model, optimizations) -> bytes:
        converter = self._tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = optimizations
        return converter.convert()

    def _runs(self, content: bytes) -> bool:
        interpreter = self._tf.lite.Interpreter(model_content=content)
        try:
            interpreter.allocate_tensors()
            interpreter.invoke()
        except RuntimeError:
            return False
        return True


def _versions(*distributions) -> str:
    return ", ".join(
        [f"Python {platform.python_version()}"]
        + [
            f"{name} {importlib.metadata.version(name)}"
            for name in distributions
        ]
    )


def mlp(keras, width, second_width):
    """Two hidden layers; 300 and 100 wide it has 266,610 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(width, activation="relu"),
            layers.Dense(second_width, activation="relu"),
            layers.Dense(10),
        ]
    )


def lenet_5_like(keras):
    """61,706 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10),
        ]
    )


def one_million(keras):
    """One Dense layer of a million weights."""
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((1000,)), layers.Dense(1000, use_bias=False)]
    )


NETS = {
    "LeNet-300-100": functools.partial(mlp, width=300, second_width=100),
    "LeNet-5-like": lenet_5_like,
    "MLP": functools.partial(mlp, width=1024, second_width=1024),
    "1M weights": one_million,
}


class Worker:
    """The commands, by the names of its methods.

    Args:
        side: A `Kprune` or a `Tfmot`.
        channel: A `Channel` to the process that gives the commands.
    """

    def __init__(self, side, channel):
        self._side = side
        self._channel = channel
        self._data = None

    def versions(self) -> str:
        return self._side.versions

    def load(self, data: dict) -> None:
        """Takes the images and labels: x_train, y_train, x_test, y_test."""
        self._data = data

    def train_dense(self, net: str, epochs: int, seed: int) -> tuple:
        """Returns the trained weights, and the test accuracy in percent."""
        self._side.keras.utils.set_random_seed(seed)
        model = NETS[net](self._side.keras)
        accuracy = self._train(model, epochs, [])
        return model.get_weights(), accuracy

    def train_pruned(
        self, net: str, weights: list, sparsity: float, epochs: int, seed: int
    ) -> dict:
        """Prunes trained weights while they train on, and exports them."""
        self._side.keras.utils.set_random_seed(seed)
        model = NETS[net](self._side.keras)
        model.set_weights(weights)
        steps = epochs * -(-len(self._data["x_train"]) // BATCH_SIZE)
        # Every 100 steps, the default of TFMOT, unless so few steps train
        # that hardly an update would be among them.
        frequency = min(100, max(steps // 20, 1))
        # TFMOT misses the final sparsity unless an update falls on the end.
        end_step = steps // 2 // frequency * frequency
        model, callbacks = self._side.prunable(
            model, sparsity, end_step, steps, frequency
        )
        accuracy = self._train(model, epochs, callbacks)
        reached = self._side.sparsity(model)
        if abs(reached - sparsity) > 0.001:
            raise RuntimeError(
                f"The sparsity is {reached:.4f}, not {sparsity:.4f}."
            )
        content, is_sparse = self._side.export(model)
        return {
            "accuracy": accuracy,
            "raw": len(content),
            "gzip": len(gzip.compress(content, mtime=0)),
            "is_sparse": is_sparse,
        }

    def time_steps(
        self, net: str, turns: int, is_pruned: bool, compilation: dict
    ) -> None:
        """Trains while masks grow; every turn is an epoch of `fit`."""
        model, callbacks = NETS[net](self._side.keras), []
        if is_pruned:
            steps = turns * STEPS_A_TURN
            model, callbacks = self._side.prunable(
                model, 0.8, steps, steps, 100
            )
        generator = np.random.default_rng(0)
        size = STEPS_A_TURN * BATCH_SIZE
        x = generator.random((size, 28, 28, 1), dtype=np.float32)
        y = generator.integers(10, size=size)
        self._compile(model, **compilation)
        model.fit(
            x,
            y,
            batch_size=BATCH_SIZE,
            epochs=turns,
            callbacks=[*callbacks, self._turns()],
            verbose=0,
        )

    def time_mask_updates(self, net: str, turns: int) -> None:
        """Every turn updates all masks of the net a few times."""
        self._side.keras.utils.set_random_seed(0)
        update = self._side.mask_update(NETS[net](self._side.keras))
        for _ in range(turns):
            self._channel.receive()
            started = time.perf_counter()
            for _ in range(UPDATES_A_TURN):
                update()
            self._channel.send(time.perf_counter() - started)

    def _turns(self):
        channel = self._channel

        class Turns(self._side.keras.callbacks.Callback):
            """Waits between epochs until it is this side's turn."""

            def on_train_begin(self, logs=None):
                self._wait()

            def on_epoch_end(self, epoch, logs=None):
                channel.send(time.perf_counter() - self._started)
                if epoch + 1 < self.params["epochs"]:
                    self._wait()

            def _wait(self):
                channel.receive()
                self._started = time.perf_counter()

        return Turns()

    def _compile(self, model, **compilation) -> None:
        losses = self._side.keras.losses
        model.compile(
            "adam",
            losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **compilation,
        )

    def _train(self, model, epochs, callbacks) -> float:
        # With XLA a CPU takes twice as long for convolutions.
        self._compile(model, jit_compile=False)
        data = self._data
        model.fit(
            data["x_train"],
            data["y_train"],
            batch_size=BATCH_SIZE,
            epochs=epochs,
            callbacks=callbacks,
            verbose=0,
        )
        results = model.evaluate(
            data["x_test"],
            data["y_test"],
            batch_size=1000,
            verbose=0,
            return_dict=True,
        )
        return 100 * results["accuracy"]


class Channel:
    """Objects over two pipes.

    Args:
        incoming: A binary file that is read from.
        outgoing: A binary file that is written to.
    """

    def __init__(self, incoming, outgoing):
        self._incoming = incoming
        self._outgoing = outgoing

    def send(self, message) -> None:
        pickle.dump(message, self._outgoing)
        self._outgoing.flush()

    def receive(self):
        return pickle.load(self._incoming)


def main() -> None:
    channel = Channel(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"))
    # What libraries print must not get between the answers.
    os.dup2(2, 1)
    side = {"kprune": Kprune, "TFMOT": Tfmot}[sys.argv[1]]()
    worker = Worker(side, channel)
    while True:
        try:
            command, arguments = channel.receive()
        except EOFError:
            return
        channel.send(getattr(worker, command)(**arguments))


if __name__ == "__main__":
    main()
