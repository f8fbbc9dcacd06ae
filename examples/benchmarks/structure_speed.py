"""How long it takes to read the structure of a model, and to cut it.

    python examples/benchmarks/structure_speed.py

* Finding the groups (`kprune.structure.channel_graph`) of the largest
  architectures of `keras.applications`; bar: 2 seconds.
* One update of all masks of ResNet50 by groups against an unstructured update
  of the same weights; bar: twice as long.
* `kprune.strip` of ResNet50, half of its filters masked, against building the
  smaller model without any analysis (`clone_model` of the stripped model and
  `set_weights`); bar: twice as long.
* Growth: residual nets of 50, 200 and 800 blocks. What a block costs must
  stay what it is in the smallest net; bar: 1.5. The copy of the stripped net,
  timed likewise, shows how Keras itself grows.

All times are CPU time. What is compared is timed in turns, in one process;
ratios are medians of paired ratios, with quartiles. The references run twice;
the ratio of the two is the control.
"""

import argparse
import functools
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from keras import layers
from measuring import paired_times, print_table, ratio, verdict

import kprune
from kprune.structure import channel_graph

LARGEST = ("EfficientNetV2L", "NASNetLarge", "ConvNeXtXLarge")
READ_BAR = 2.0
UPDATE_BAR = 2.0
STRIP_BAR = 2.0
GROWTH_BAR = 1.5


def copy(model: keras.Model) -> keras.Model:
    """An equal model, built without any analysis."""
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def residual_net(blocks: int) -> keras.Model:
    """A ResNet of that many blocks, each of two convolutions."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same")(x)
    for _ in range(blocks):
        y = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
        y = layers.BatchNormalization()(y)
        y = layers.ReLU()(y)
        y = layers.Conv2D(16, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization()(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def half_masked(model: keras.Model) -> keras.Model:
    """The model, prunable, half of its filters masked."""
    prunable = kprune.make_prunable(model)
    return kprune.prune(prunable, 0.5, granularity="filter")


def add_reading(table, rounds: int) -> None:
    """Rows: finding the groups of the largest architectures."""
    for name in LARGEST:
        model = getattr(keras.applications, name)(weights=None)
        run = functools.partial(channel_graph, model)
        times, _ = paired_times({"read": run}, rounds)
        seconds = np.median(times["read"])
        met = verdict(seconds <= READ_BAR)
        table.add_row(
            f"groups of {name}", f"{seconds:.3f}", "", f"{READ_BAR:g} s", met
        )
        del model, run  # before the next is built


def add_update(table, prunable, rounds: int) -> None:
    """Rows: an update of all masks."""

    def update(granularity):
        return lambda: kprune.prune(prunable, 0.5, granularity=granularity)

    _add_paired(
        table,
        {
            "masks, unstructured": update("unstructured"),
            "the same again (control)": update("unstructured"),
            "masks, by groups": update("filter"),
        },
        rounds,
        UPDATE_BAR,
    )


def add_strip(table, prunable, rounds: int) -> None:
    """Rows: cutting what is masked."""
    stripped = kprune.strip(prunable)
    _add_paired(
        table,
        {
            "building the smaller model": lambda: copy(stripped),
            "the same again (control)": lambda: copy(stripped),
            "strip": lambda: kprune.strip(prunable),
        },
        rounds,
        STRIP_BAR,
    )


def _add_paired(table, variants, rounds, bar) -> None:
    """Rows of a reference, its control, and what a bar is set for."""
    times, _ = paired_times(variants, rounds)
    reference, control, measured = times
    for name in (reference, control, measured):
        median, text = ratio(times[name], times[reference])
        cells = ["", ""]
        if name == measured:
            cells = [f"{bar:g}x", verdict(median <= bar)]
        seconds = f"{np.median(times[name]):.3f}"
        table.add_row(name, seconds, "1" if name == reference else text, *cells)


def add_growth(table, sizes: list[int], rounds: int) -> None:
    """Rows: what a block costs in residual nets of several sizes."""
    variants = {}
    for blocks in sizes:
        prunable = half_masked(residual_net(blocks))
        stripped = kprune.strip(prunable)
        variants |= {
            ("groups", blocks): lambda model=prunable: channel_graph(model),
            ("strip", blocks): lambda model=prunable: kprune.strip(model),
            ("copy", blocks): lambda model=stripped: copy(model),
        }
    times, _ = paired_times(dict(enumerate(variants.values())), rounds)
    a_block = {
        (name, blocks): seconds / blocks
        for (name, blocks), seconds in zip(variants, times.values())
    }
    for name in ("groups", "strip", "copy"):
        for blocks in sizes:
            seconds = a_block[name, blocks]
            median, text = ratio(seconds, a_block[name, sizes[0]])
            is_first = blocks == sizes[0]
            cells = ["", ""]
            if not is_first and name != "copy":
                cells = [f"{GROWTH_BAR:g}x", verdict(median <= GROWTH_BAR)]
            table.add_row(
                f"{name}, a block of {blocks}",
                f"{np.median(seconds):.5f}",
                "1" if is_first else text,
                *cells,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[50, 200, 800], metavar="N"
    )
    arguments = parser.parse_args()
    # Keras itself follows the graph of a new model call by call.
    sys.setrecursionlimit(100_000)

    table = rich.table.Table(
        title="Reading the structure of a model, and cutting it",
        caption=f"Medians of {arguments.rounds} paired ratios, with quartiles.",
    )
    table.add_column("what runs")
    for header in ("seconds", "ratio", "bar", ""):
        table.add_column(header, justify="right")
    add_reading(table, arguments.rounds)
    table.add_section()
    prunable = half_masked(keras.applications.ResNet50(weights=None))
    add_update(table, prunable, arguments.rounds)
    table.add_section()
    add_strip(table, prunable, arguments.rounds)
    table.add_section()
    add_growth(table, arguments.blocks, arguments.rounds)
    print_table(table)


if __name__ == "__main__":
    main()
