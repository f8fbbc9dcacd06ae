"""How long `kprune.strip` takes, against a copy of the same model.

    python examples/benchmarks/strip_time.py

ResNet50 (random weights) with half of its filters masked is stripped: the
masks are folded in, the masked channels are cut out, and a smaller model is
built. It is timed in turns, in one process, against
`keras.models.clone_model` and `set_weights` of ResNet50, which is what a mere
copy takes. The ratios are medians of paired ratios of CPU time, with
quartiles. The copy runs twice; the ratio of the two is the control.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from measuring import paired_times, print_table, ratio, verdict

import kprune

BAR = 2.0


def copy(model) -> keras.Model:
    """An equal model of the same size."""
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    plain = keras.applications.ResNet50(weights=None)
    prunable = kprune.make_prunable(plain)
    kprune.prune(prunable, 0.5, granularity="filter")
    stripped = kprune.strip(prunable)
    times, _ = paired_times(
        {
            "copy": lambda: copy(plain),
            "strip": lambda: kprune.strip(prunable),
            "fold": lambda: kprune.strip(prunable, compact=False),
            "control": lambda: copy(plain),
        },
        arguments.rounds,
    )

    table = rich.table.Table(
        title="`strip` of ResNet50, half of its filters masked",
        caption=f"Median of {arguments.rounds} paired ratios, with quartiles.",
    )
    table.add_column("what runs")
    for header in ("parameters", "seconds", "ratio to the copy", f"bar {BAR}"):
        table.add_column(header, justify="right")
    for label, name, model in (
        ("clone_model + set_weights", "copy", plain),
        ("the same again (control)", "control", plain),
        ("strip", "strip", stripped),
        ("strip(compact=False)", "fold", plain),
    ):
        median, text = ratio(times[name], times["copy"])
        is_control = model is plain and name != "fold"
        table.add_row(
            label,
            f"{model.count_params():,}",
            f"{np.median(times[name]):.2f}",
            "1" if name == "copy" else text,
            "" if is_control else verdict(median <= BAR),
        )
    print_table(table)


if __name__ == "__main__":
    main()
