"""How much memory an update of the masks of a large model takes.

    python examples/benchmarks/update_memory.py
    python examples/benchmarks/update_memory.py --network MobileNetV2

All masks of ConvNeXtXLarge, 350 million weights, are updated to 50 % three
times in each way. The memory is the peak of the process (the resident set, read
every 2 ms by a thread of its own) during an update, beyond what the process
held before: the model and its masks. The bar is 1.5 GB. Linux only.
"""

import argparse
import os
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import rich.table
from measuring import print_table, verdict

import kprune

BAR = 1.5
WAYS = {
    "single weights": {"granularity": "unstructured"},
    "single weights, global": {
        "granularity": "unstructured",
        "allocation": "global",
    },
    "filters": {"granularity": "filter"},
}


def resident() -> int:
    """Bytes that the process holds in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(run) -> int:
    """The most bytes that the process holds while `run` runs, beyond before."""
    before = most = resident()
    done = threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.002):
            most = max(most, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    return most - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="ConvNeXtXLarge")
    arguments = parser.parse_args()
    network = getattr(keras.applications, arguments.network)
    model = kprune.make_prunable(network(weights=None))

    table = rich.table.Table(
        title=f"An update of all masks of {arguments.network}",
        caption="The largest of three updates, and the fastest.",
    )
    for header in ("", "million weights", "GB beyond", "bar", "seconds"):
        table.add_column(header, justify="right" if header else "left")
    weights = kprune.report(model).weights / 1e6
    for name, way in WAYS.items():
        peaks, seconds = [], []
        for _ in range(3):
            started = time.perf_counter()
            peaks.append(peak(lambda way=way: kprune.prune(model, 0.5, **way)))
            seconds.append(time.perf_counter() - started)
        most = max(peaks) / 1e9
        table.add_row(
            name,
            f"{weights:.0f}",
            f"{most:.2f}",
            f"{BAR}: {verdict(most <= BAR)}",
            f"{min(seconds):.1f}",
        )
    print_table(table)


if __name__ == "__main__":
    main()
