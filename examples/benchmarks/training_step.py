"""What a wrapper costs in a training step.

    python examples/benchmarks/training_step.py
    KERAS_BACKEND=jax python examples/benchmarks/training_step.py
    KERAS_BACKEND=torch python examples/benchmarks/training_step.py --nets MLP

Networks, plain and with every kernel masked to 50 % by `kprune.prune`, take
training steps (`fit`, Adam, random data) in one process. The masks are set
after the first steps, as masks grow in a training: of a weight that never had a
gradient Adam's velocity is 0, and the square root of 0 takes torch (MKL's, on a
CPU) far longer than another. A round runs some steps of each variant, in turns;
the table shows the medians of the paired ratios, with quartiles. The plain
network runs twice under two names: the ratio of the second to the first is the
control, which shows how far from 1 a ratio can be by chance. On TensorFlow
there are two rows a network: XLA is what `jit_compile="auto"`, the default of
`compile`, amounts to.

    wall        of the time on the wall, which is what a user waits and what
                the bar is for
    by hand     wall, of the MLP with the same product, `kernel * mask`,
                written into the call of a Dense, without kprune: what masks
                cost by themselves
    CPU         of the CPU time of all threads together, which counts work too
                that a core did beside the others
    updated     wall, with one update of all masks (`kprune.prune`, timed in
                turns with the steps) added to every 100 steps; bar: 1.05
    first step  wall of the very first step, in which Keras traces and
                compiles, of models built anew, in turns; bar: 1.3
"""

import argparse
import math
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from keras import layers, ops
from measuring import paired_times, print_table, ratio, two_lines, verdict

import kprune

BARS = {"tensorflow": 1.02, "jax": 1.02, "torch": 1.10}
UPDATED_BAR = 1.05
FIRST_STEP_BAR = 1.3
STEPS_PER_UPDATE = 100
# A round lasts long enough for the overhead of `fit` not to count.
SECONDS_PER_ROUND = 0.15


def mlp(dense=layers.Dense) -> keras.Model:
    """784-1024-1024-10."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            dense(1024, activation="relu"),
            dense(1024, activation="relu"),
            dense(10),
        ]
    )


class MaskedDense(layers.Dense):
    """A Dense that multiplies its kernel by a mask."""

    def build(self, input_shape):
        super().build(input_shape)
        self.mask = self.add_weight(
            shape=self.kernel.shape,
            dtype="bool",
            initializer="ones",
            trainable=False,
        )

    def call(self, inputs):
        kernel = ops.convert_to_tensor(self.kernel)
        kernel = kernel * ops.cast(self.mask, kernel.dtype)
        return self.activation(ops.matmul(inputs, kernel) + self.bias)


def cnn() -> keras.Model:
    """Convolutions of 32 and 64 filters, pooling, and a Dense."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def mobilenet() -> keras.Model:
    """MobileNetV2 for images of 64 pixels and 10 classes."""
    return keras.applications.MobileNetV2(
        weights=None,
        input_shape=(64, 64, 3),
        classes=10,
        classifier_activation=None,
    )


def lstm() -> keras.Model:
    """Two LSTM layers of 128 units on sequences of 32."""
    return keras.Sequential(
        [
            keras.Input((32, 64)),
            layers.LSTM(128, return_sequences=True),
            layers.LSTM(128),
            layers.Dense(10),
        ]
    )


def transformer() -> keras.Model:
    """Two blocks of attention and FFN, 128 wide, on sequences of 32."""
    inputs = keras.Input((32, 64))
    x = layers.Dense(128)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 32)(y, y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(512, activation="gelu")(y)
        x = x + layers.Dense(128)(y)
    return keras.Model(inputs, layers.Dense(10)(ops.mean(x, axis=1)))


# Name -> (network, batch size).
NETS = {
    "MLP": (mlp, 128),
    "CNN": (cnn, 128),
    "MobileNetV2": (mobilenet, 32),
    "LSTM": (lstm, 128),
    "transformer": (transformer, 32),
}


def prune(model) -> keras.Model:
    """Masks half of the weights."""
    return kprune.prune(model, 0.5, granularity="unstructured")


def mask_by_hand(model) -> None:
    """Masks half of the weights of `MaskedDense` layers."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, MaskedDense):
            layer.mask.assign(generator.random(layer.mask.shape) < 0.5)


def training(model, x, y, batch_size, jit_compile="auto"):
    """A function that trains `model` for an epoch."""
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return lambda: model.fit(x, y, batch_size=batch_size, verbose=0)


def random_training(model, batch_size, jit_compile, steps):
    """A function that trains `model` for a number of steps."""
    generator = np.random.default_rng(0)
    shape = (steps * batch_size, *model.input_shape[1:])
    x = generator.random(shape, dtype=np.float32)
    y = generator.integers(10, size=len(x))
    return training(model, x, y, batch_size, jit_compile)


def first_steps(build, batch_size, jit_compile, rounds) -> str:
    """The ratio of the first steps, wrapped to plain, and its verdict."""
    times = {"plain": [], "wrapped": []}
    # What the process does only once comes before.
    for index in range(rounds + 1):
        for name, make in (
            ("plain", build),
            ("wrapped", lambda: prune(kprune.make_prunable(build()))),
        ):
            step = random_training(make(), batch_size, jit_compile, 1)
            started = time.perf_counter()
            step()
            if index:
                times[name].append(time.perf_counter() - started)
    median, text = ratio(*(np.array(times[n]) for n in ("wrapped", "plain")))
    return f"{two_lines(text)}\n{verdict(median <= FIRST_STEP_BAR)}"


def row(build, batch_size, jit_compile, rounds) -> list[str]:
    """The cells of one network."""
    first = first_steps(build, batch_size, jit_compile, max(rounds // 5, 1))
    models = {
        "plain": build(),
        "wrapped": kprune.make_prunable(build()),
        "control": build(),
    }
    if build is mlp:
        models["by hand"] = mlp(MaskedDense)
    step = random_training(models["plain"], batch_size, jit_compile, 1)
    step()
    started = time.perf_counter()
    step()
    steps = math.ceil(SECONDS_PER_ROUND / (time.perf_counter() - started))
    variants = {
        name: random_training(model, batch_size, jit_compile, steps)
        for name, model in models.items()
    }
    for run in variants.values():
        run()
    prune(models["wrapped"])
    if "by hand" in models:
        mask_by_hand(models["by hand"])
    to_update = kprune.make_prunable(build())
    variants["update"] = lambda: prune(to_update)
    cpu, wall = paired_times(variants, rounds)
    median, text = ratio(wall["wrapped"], wall["plain"])
    bar = BARS[keras.backend.backend()]
    share = steps / STEPS_PER_UPDATE
    updated, updated_text = ratio(
        wall["wrapped"] + share * wall["update"], wall["plain"]
    )
    return [
        f"{1000 * np.median(wall['plain']) / steps:.2f}",
        f"{two_lines(text)}\n{verdict(median <= bar)}",
        *(
            two_lines(ratio(wall[name], wall["plain"])[1])
            if name in wall
            else ""
            for name in ("by hand", "control")
        ),
        two_lines(ratio(cpu["wrapped"], cpu["plain"])[1]),
        f"{two_lines(updated_text)}\n{verdict(updated <= UPDATED_BAR)}",
        first,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    arguments = parser.parse_args()
    backend = keras.backend.backend()
    compilations = {
        "tensorflow": {"": False, ", XLA": True},
        "jax": {"": True},
        "torch": {"": False},
    }[backend]

    table = rich.table.Table(
        title="A training step, masks at 50 %",
        caption=f"Median of {arguments.rounds} paired ratios, with quartiles.",
        show_lines=True,
    )
    table.add_column("network")
    for header in (
        "plain\nms",
        f"wall\nbar: {BARS[backend]}",
        "by hand",
        "control",
        "CPU",
        f"updated\nbar: {UPDATED_BAR}",
        f"first step\nbar: {FIRST_STEP_BAR}",
    ):
        table.add_column(header, justify="right")
    for name in arguments.nets:
        for suffix, jit_compile in compilations.items():
            cells = row(*NETS[name], jit_compile, arguments.rounds)
            table.add_row(name + suffix, *cells)
    print_table(table, width=112)


if __name__ == "__main__":
    main()
