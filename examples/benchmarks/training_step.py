"""What a wrapper costs in a training step.

    python examples/benchmarks/training_step.py
    KERAS_BACKEND=jax python examples/benchmarks/training_step.py
    KERAS_BACKEND=torch python examples/benchmarks/training_step.py

Two networks, plain and with every kernel masked to 50 % by `kprune.prune`, take
training steps (`fit`, Adam, batches of 128 random images) in one process. A
round runs a few steps of each variant, in turns; the table shows the medians of
the paired ratios, with quartiles: of the time on the wall, which is what a user
waits and what the bar is for, and of the CPU time of all threads together,
which counts work too that a core did beside the others. The plain network runs
twice under two names: the ratio of the second to the first is the control,
which shows how far from 1 a ratio can be by chance. Masks are not updated while
the clock runs; `mask_update.py` measures that. On TensorFlow there are two rows
a network: XLA is what `jit_compile="auto"`, the default of `compile`, amounts
to.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from keras import layers
from measuring import paired_times, print_table, ratio, two_lines, verdict

import kprune

BATCH_SIZE = 128
BAR = 1.02


def mlp() -> keras.Model:
    """784-1024-1024-10."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(1024, activation="relu"),
            layers.Dense(1024, activation="relu"),
            layers.Dense(10),
        ]
    )


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


def training(model, steps, jit_compile):
    """A function that trains `model` for a number of steps."""
    generator = np.random.default_rng(0)
    size = steps * BATCH_SIZE
    x = generator.random((size, 28, 28, 1), dtype=np.float32)
    y = generator.integers(10, size=size)
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return lambda: model.fit(x, y, batch_size=BATCH_SIZE, verbose=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--mlp-steps", type=int, default=20, help="a round")
    parser.add_argument("--cnn-steps", type=int, default=5, help="a round")
    arguments = parser.parse_args()
    compilations = {
        "tensorflow": {"": False, ", XLA": True},
        "jax": {"": True},
        "torch": {"": False},
    }[keras.backend.backend()]

    table = rich.table.Table(
        title=f"A training step, batch {BATCH_SIZE}, masks at 50 %",
        caption=f"Median of {arguments.rounds} paired ratios, with quartiles.",
        show_lines=True,
    )
    table.add_column("network")
    for header in (
        "plain\nms",
        "wrapped / plain\nwall",
        "control\nwall",
        "wrapped / plain\nCPU",
        f"bar\n{BAR}",
    ):
        table.add_column(header, justify="right")
    networks = {
        "MLP": (mlp, arguments.mlp_steps),
        "CNN": (cnn, arguments.cnn_steps),
    }
    for name, (build, steps) in networks.items():
        for suffix, jit_compile in compilations.items():
            wrapped = kprune.make_prunable(build())
            kprune.prune(wrapped, 0.5, granularity="unstructured")
            models = {"plain": build(), "wrapped": wrapped, "control": build()}
            cpu, wall = paired_times(
                {
                    variant: training(model, steps, jit_compile)
                    for variant, model in models.items()
                },
                arguments.rounds,
            )
            median, text = ratio(wall["wrapped"], wall["plain"])
            table.add_row(
                name + suffix,
                f"{1000 * np.median(wall['plain']) / steps:.2f}",
                two_lines(text),
                two_lines(ratio(wall["control"], wall["plain"])[1]),
                two_lines(ratio(cpu["wrapped"], cpu["plain"])[1]),
                verdict(median <= BAR),
            )
    print_table(table)


if __name__ == "__main__":
    main()
