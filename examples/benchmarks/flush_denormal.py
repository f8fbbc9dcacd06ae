"""What tiny momenta of masked weights cost on torch, and what avoids it.

    KERAS_BACKEND=torch python examples/benchmarks/flush_denormal.py

A masked weight gets no gradient, so Adam's first moment of it shrinks by a
tenth at every step. After some 800 steps it is *denormal*, less than 1.2e-38,
and stays so. CPUs compute with such numbers many times slower. TensorFlow and
XLA take them for zero; torch does after `torch.set_flush_denormal(True)`.

An MLP trains (`fit`, Adam, handwritten digits) for 100 steps, then `prune`
masks 80 % of its weights, and it trains on, beside a plain one, both with the
setting and without. They take turns of 100 steps in one process, on one thread,
since the setting is that of a thread. The table shows the medians of the paired
ratios of CPU time to the plain network's without the setting, with quartiles,
over the turns before the momenta are denormal and after. The plain network has
such momenta too once its loss is close to 0.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import rich.table
import torch
from measuring import paired_times, print_table, ratio, two_lines
from mnist import Data
from training_step import mlp, training

import kprune

BATCH_SIZE = 128
STEPS_A_TURN = 100
SPARSITY = 0.8
TURNS = 15
# The turns start 100 steps after the masks. 0.9 ** 500 is 1e-23, and 0.9 **
# 1000 times any momentum is denormal.
COLUMNS = {"to 500 steps": slice(0, 4), "from 1,000 steps": slice(9, None)}


def flushing(step):
    """The same step while torch takes denormal numbers for zero."""

    def run():
        torch.set_flush_denormal(True)
        try:
            step()
        finally:
            torch.set_flush_denormal(False)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="MNIST as an .npz file")
    arguments = parser.parse_args()
    if keras.backend.backend() != "torch":
        parser.error("this is about torch: set KERAS_BACKEND=torch")
    torch.set_num_threads(1)
    data = Data(arguments.data)
    chosen = np.arange(STEPS_A_TURN * BATCH_SIZE) % len(data.x_train)
    x, y = data.x_train[chosen], data.y_train[chosen]
    models = {
        "plain": mlp(),
        "control": mlp(),
        "plain, flush_denormal": mlp(),
        "masked": kprune.make_prunable(mlp()),
        "masked, flush_denormal": kprune.make_prunable(mlp()),
    }
    steps = {}
    for name, model in models.items():
        step = training(model, x, y, BATCH_SIZE)
        steps[name] = flushing(step) if "flush" in name else step
    for name, step in steps.items():
        step()
        if name.startswith("masked"):
            kprune.prune(models[name], SPARSITY)
    times, _ = paired_times(steps, TURNS)

    table = rich.table.Table(
        title=f"Training steps on torch, masks at {SPARSITY:.0%}, to plain",
        caption="Steps after the masks were set. Medians, with quartiles.",
        show_lines=True,
    )
    table.add_column("network")
    for header in COLUMNS:
        table.add_column(header, justify="right")
    for name in list(models)[1:]:
        cells = (
            two_lines(ratio(times[name][turns], times["plain"][turns])[1])
            for turns in COLUMNS.values()
        )
        table.add_row(name, *cells)
    print_table(table)


if __name__ == "__main__":
    main()
