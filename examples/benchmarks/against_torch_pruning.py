"""kprune against Torch-Pruning: analysis, removal, what is left, exactness.

    python examples/benchmarks/against_torch_pruning.py
    python examples/benchmarks/against_torch_pruning.py --nets MobileNetV2

Torch-Pruning 1.6.1 (DepGraph) prunes torch models. It gets a virtual
environment of its own, which the first run makes with pip (`--environment` says
where; a CPU build of torch is enough), and a process of its own,
`torch_pruning_worker.py`. Its nets are torchvision's to the layer, those of
kprune are `keras.applications`, on TensorFlow. They differ a little: Keras's
ResNet50 has the strides in other convolutions, and biases. So each is compared
with itself before pruning. Weights are random, and half of all channels that
can go are chosen by magnitude, layer by layer: in kprune by
`granularity="filter"`, in Torch-Pruning by `MagnitudePruner` with
`pruning_ratio=0.5` and the classifier ignored.

    parameters  trainable ones, in parts of the dense net
    MACs        of convolutions and Dense layers, in parts of the dense net
    difference  between outputs of the masked and the slim net, in parts of the
                largest output, float64, images of 96 pixels. Scales, shifts
                and statistics of normalizations are random or of live data:
                "spread" is the difference between two samples.

What is masked differs. kprune masks filters and all weights that read them,
and `strip` removes what it masked itself: exactness is its contract.
Torch-Pruning has no masks, it removes: the masked net is what a user of torch
would make of its choice before it removes anything. The kernel, the bias and
the scale and shift of BatchNorm behind it are zeroed, so that the channel is
zero where it is read, and removal is exact in principle as well. The row
"filters alone" zeroes kernels and biases but not BatchNorm, as
`torch.nn.utils.prune` would; Torch-Pruning does not say that this is exact.
kprune masks like that only where it cannot mask the readers, and `strip` then
keeps what is not provably zero.

Times: CPU time of float32 nets for images of 224 pixels, one thread on each
side. Both processes live at once and work in turns, in an order drawn anew
every round. The ratio of kprune to Torch-Pruning is the median of paired
ratios, with quartiles; Torch-Pruning has a second turn in every round, whose
ratio to the first is the control.

    analysis    kprune: `channel_graph`; Torch-Pruning: `build_dependency`,
                which runs the net once
    removal     of channels that are chosen. kprune: `strip`, which reads the
                graph again and builds a new Keras model (`strip_time.py` says
                what a mere copy takes); Torch-Pruning: `group.prune()`, which
                cuts the model itself, its graph given
    all         from a model to a smaller one, while the first stays. kprune:
                `make_prunable`, `prune` and `strip`; Torch-Pruning: `deepcopy`,
                `MagnitudePruner` and `step`
"""

import argparse
import gc
import json
import math
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
for variable in (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
):
    os.environ[variable] = "1"  # the other process inherits it

import environments
import keras
import numpy as np
import rich.table
from architectures import DIFFERENCE_BAR, shrink
from measuring import print_table, ratio, two_lines, verdict

import kprune
from kprune.measuring import costs
from kprune.structure import channel_graph

PACKAGES = ["torch==2.13.0", "torch-pruning==1.6.1"]
WORKER = pathlib.Path(__file__).with_name("torch_pruning_worker.py")
NETS = ["ResNet50", "MobileNetV2", "DenseNet121"]
RATIO = 0.5
SIZE_OF_TIMES, SIZE_OF_DIFFERENCES = 224, 96
# How much more of the dense net may be left than Torch-Pruning leaves.
SIZE_BAR = 0.01


class TorchPruning:
    """The process of Torch-Pruning, which lives until it is closed.

    Args:
        python: The interpreter of its environment.
    """

    def __init__(self, python):
        self._process = subprocess.Popen(
            [python, WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, command: str, **arguments):
        """Runs a command and returns its answer."""
        line = json.dumps([command, arguments])
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(
                "The process of Torch-Pruning has ended; its error is above."
            )
        return json.loads(answer)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class Kprune:
    """The same steps, and the same names, as those of the other process.

    Args:
        net: String. The name of an architecture of `keras.applications`.
    """

    def __init__(self, net: str):
        self._dense = getattr(keras.applications, net)(
            weights=None, input_shape=(SIZE_OF_TIMES, SIZE_OF_TIMES, 3)
        )
        self._masked = self._prune()

    def sizes(self) -> dict:
        """What is left, in parts of the dense net."""
        slim = kprune.strip(self._masked)
        return {
            "parameters": _parameters(slim) / _parameters(self._dense),
            "MACs": costs.macs(slim) / costs.macs(self._dense),
        }

    def analysis(self) -> float:
        return _seconds(lambda: channel_graph(self._dense))

    def removal(self) -> float:
        return _seconds(lambda: kprune.strip(self._masked))

    def all(self) -> float:
        return _seconds(lambda: kprune.strip(self._prune()))

    def _prune(self) -> keras.Model:
        prunable = kprune.make_prunable(self._dense)
        return kprune.prune(prunable, RATIO, granularity="filter")


def _parameters(model) -> int:
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def _seconds(run) -> float:
    gc.collect()
    started = time.process_time()
    run()
    return time.process_time() - started


def compare(net: str) -> tuple[float, float]:
    """The difference and the spread of kprune, in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        (row,) = shrink(net, [RATIO], SIZE_OF_DIFFERENCES)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    return row.difference, row.spread


def in_turns(turns: dict, rounds: int) -> dict:
    """Dict from a name to the seconds of each of its turns.

    One round before the first is not counted.

    Args:
        turns: Dict from a name to a callable that returns seconds.
        rounds: Integer.
    """
    for turn in turns.values():
        turn()
    seconds = {name: np.zeros(rounds) for name in turns}
    generator = np.random.default_rng(0)
    for index in range(rounds):
        for name in generator.permutation(list(turns)).tolist():
            seconds[name][index] = turns[name]()
    return seconds


def add_rows(table, net: str, theirs: TorchPruning, rounds: int) -> None:
    found = theirs.call("compare", net=net, size=SIZE_OF_DIFFERENCES)
    difference, spread = compare(net)
    gc.collect()
    table.add_row(
        f"{net}: difference",
        f"{found['filters and norms']:.0e}",
        f"{difference:.0e}",
        "",
        "",
        verdict(difference <= DIFFERENCE_BAR),
    )
    table.add_row("filters alone", f"{found['filters']:.0e}", "", "", "", "")
    table.add_row("spread", f"{found['spread']:.2f}", f"{spread:.2f}", "", "")
    left = theirs.call("load", net=net, size=SIZE_OF_TIMES)
    ours = Kprune(net)
    for name, value in ours.sizes().items():
        table.add_row(
            name,
            f"{left[name]:.3f}",
            f"{value:.3f}",
            f"{value / left[name]:.3f}",
            "",
            verdict(value <= left[name] + SIZE_BAR),
        )
    for step in ("analysis", "removal", "all"):
        seconds = in_turns(
            {
                "Torch-Pruning": lambda step=step: theirs.call(step),
                "kprune": getattr(ours, step),
                "control": lambda step=step: theirs.call(step),
            },
            rounds,
        )
        reference = seconds["Torch-Pruning"]
        table.add_row(
            f"{step}, s",
            f"{np.median(reference):.3f}",
            f"{np.median(seconds['kprune']):.3f}",
            two_lines(ratio(seconds["kprune"], reference)[1]),
            two_lines(ratio(seconds["control"], reference)[1]),
            "",
        )
    table.add_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--environment",
        type=pathlib.Path,
        default=environments.FOLDER / "torch-pruning",
        help="folder of the virtual environment of Torch-Pruning",
    )
    arguments = parser.parse_args()

    theirs = TorchPruning(environments.make(arguments.environment, PACKAGES))
    table = rich.table.Table(
        title="kprune against Torch-Pruning, half of the channels",
        caption=f"Times: medians of {arguments.rounds} paired ratios, with "
        f"quartiles.\n{theirs.call('versions')}",
    )
    table.add_column("")
    for header in ("Torch-Pruning", "kprune", "ratio", "control", "bar"):
        table.add_column(header, justify="right")
    for net in arguments.nets:
        add_rows(table, net, theirs, arguments.rounds)
        print(f"{net}: measured", file=sys.stderr)
    theirs.close()
    print_table(table)


if __name__ == "__main__":
    main()
