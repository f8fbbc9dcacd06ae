"""What pruning costs in accuracy: three networks on all of MNIST.

    python examples/benchmarks/mnist_accuracy.py --data mnist.npz

The file holds the arrays x_train, y_train, x_test and y_test, as the one that
`keras.datasets.mnist` downloads does.

Each network is trained densely for 10 epochs: Adam, batches of 128, the
learning rate falling from 1e-3 to 0 along a cosine. From those weights it
trains for 10 more, once per sparsity under a `PruningScheduler` that updates
the masks every 100 steps, and once without it. In this second half the
learning rate is 2e-3 while the masks grow (the first five epochs) and falls to
0 along a cosine once they are frozen: a network that is being pruned has to
move. That recipe was chosen on 10,000 held-out training images, with
LeNet-5-like at 95 % and one seed, and is the same for all. No augmentation, no
regularization. The runs of a seed see the same batches in the same order.
Every accuracy is that of the last epoch on the 10,000 test images; no epoch
is picked.

The bars are differences from the dense network after its 10 epochs. As the
pruned networks trained for twice as long, the table shows the dense network
after 20 epochs as well: the fair comparison. "untrained" is the dense network
after 10 epochs, pruned at once and not trained again: what the schedule and
the training are worth.

LeNet-5-like has one sparsity for all layers, the output layer included. The
others prune all layers by one threshold (`allocation="global"`) to a twelfth
of their weights. Biases are not pruned, nor counted.
"""

import argparse
import dataclasses
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from keras import layers
from measuring import print_table, verdict
from mnist import Data

import kprune


def lenet_300_100() -> keras.Model:
    """266,610 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )


def lenet_5_like() -> keras.Model:
    """61,706 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
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


def lenet_5_caffe() -> keras.Model:
    """431,080 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ]
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: how sparse, and the points it may cost."""

    sparsity: float
    allocation: str
    bar: float


NETWORKS = {
    "LeNet-300-100": (lenet_300_100, [Case(1 - 1 / 12, "global", 0.1)]),
    "LeNet-5-like": (
        lenet_5_like,
        [
            Case(0.8, "uniform", 0.2),
            Case(0.9, "uniform", 0.5),
            Case(0.95, "uniform", 1.0),
        ],
    ),
    "LeNet-5-Caffe": (lenet_5_caffe, [Case(1 - 1 / 12, "global", 0.1)]),
}


class HoldThenCosine(keras.optimizers.schedules.LearningRateSchedule):
    """One learning rate for a while, then down to 0 along a cosine."""

    def __init__(self, learning_rate, hold_steps, decay_steps):
        self._hold_steps = hold_steps
        self._decay = keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps
        )

    def __call__(self, step):
        return self._decay(keras.ops.maximum(step - self._hold_steps, 0))


def compile_model(model, data, epochs, second_half) -> None:
    steps = -(-len(data.x_train) // 128) * epochs
    if second_half:
        learning_rate = HoldThenCosine(2e-3, steps // 2, steps - steps // 2)
    else:
        learning_rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # On TensorFlow XLA's convolutions take twice as long on a CPU.
        jit_compile=keras.backend.backend() == "jax",
    )


def train(model, data, epochs, seed, second_half=False, callbacks=()) -> float:
    """Trains a model and returns its test accuracy in percent."""
    keras.utils.set_random_seed(seed)
    compile_model(model, data, epochs, second_half)
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=128,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )
    return evaluate(model, data)


def evaluate(model, data) -> float:
    results = model.evaluate(
        data.x_test, data.y_test, batch_size=1000, verbose=0, return_dict=True
    )
    return 100 * results["accuracy"]


def run_seed(build, cases, data, epochs, seed) -> dict:
    """Trains one network densely and pruned, from one seed.

    Returns:
        Dict of accuracies in percent: `"dense"`, `"dense, longer"`, and for
        each case the pair pruned and untrained.
    """
    keras.utils.set_random_seed(seed)
    dense = build()
    accuracies = {"dense": train(dense, data, epochs, seed)}
    for case in cases:
        pruning = {"granularity": "unstructured", "allocation": case.allocation}
        model = kprune.make_prunable(dense)
        compile_model(model, data, epochs, second_half=True)
        kprune.prune(model, case.sparsity, **pruning)
        untrained = evaluate(model, data)

        model = kprune.make_prunable(dense)
        scheduler = kprune.PruningScheduler(
            case.sparsity, update_freq=100, **pruning
        )
        pruned = train(model, data, epochs, seed + 1000, True, [scheduler])
        reached = kprune.sparsity(model)
        if abs(reached - case.sparsity) > 0.001:
            raise RuntimeError(
                f"The sparsity is {reached:.4f}, not {case.sparsity:.4f}."
            )
        accuracies[case] = (pruned, untrained)
    # Last, since this one changes the dense model.
    accuracies["dense, longer"] = train(dense, data, epochs, seed + 1000, True)
    return accuracies


def add_rows(table, name, cases, runs) -> None:
    dense = np.array([run["dense"] for run in runs])
    longer = np.array([run["dense, longer"] for run in runs])
    for case in cases:
        pruned, untrained = np.array([run[case] for run in runs]).T
        difference = (pruned - dense).mean()
        table.add_row(
            name,
            f"{100 * case.sparsity:.1f}",
            _mean(dense),
            _mean(longer),
            _mean(pruned),
            _mean(untrained),
            _points(pruned - dense),
            _points(pruned - longer),
            f"{-case.bar:.1f} {verdict(difference >= -case.bar)}",
        )


def _mean(values) -> str:
    return f"{values.mean():.2f}\n±{values.std(ddof=len(values) > 1):.2f}"


def _points(values) -> str:
    return f"{values.mean():+.2f}\n±{values.std(ddof=len(values) > 1):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="MNIST as an .npz file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--nets",
        nargs="+",
        choices=list(NETWORKS),
        default=list(NETWORKS),
        help="which networks to train",
    )
    arguments = parser.parse_args()
    data = Data(arguments.data)
    epochs = arguments.epochs

    table = rich.table.Table(
        title=f"Test accuracy on MNIST in %, {arguments.seeds} seeds "
        "(mean ± standard deviation)",
        caption=f"dense: {epochs} epochs. pruned: {epochs} more, from there. "
        f"longer: dense for {epochs} more.\nuntrained: dense, pruned, not "
        "trained again. bar: the points that may be lost.",
        padding=(0, 0),
        show_lines=True,
    )
    table.add_column("network", min_width=13)
    for header in (
        "spars-\nity %",
        "dense",
        "dense,\nlonger",
        "pruned",
        "un-\ntrained",
        "pruned\n-dense",
        "pruned\n-longer",
        "bar",
    ):
        table.add_column(header, justify="right")
    for name in arguments.nets:
        build, cases = NETWORKS[name]
        runs = []
        for seed in range(arguments.seeds):
            start = time.perf_counter()
            runs.append(run_seed(build, cases, data, epochs, seed))
            seconds = time.perf_counter() - start
            print(f"{name}, seed {seed}: {seconds:.0f} s", file=sys.stderr)
        add_rows(table, name, cases, runs)
    print_table(table)


if __name__ == "__main__":
    main()
