"""What the benchmarks share: paired timing and one table at the end."""

import gc
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable

import keras
import numpy as np
import rich.console
import rich.table


def paired_times(
    variants: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Times variants side by side, so that they share what slows a machine.

    Every round runs each variant once, in an order drawn anew, so that none
    always comes after the same other. One round before the first is not
    counted, nor is the collection of garbage. The CPU time is that of the
    process, all threads together: other processes on the machine disturb it
    less than the time on the wall, which is what a user waits.

    Args:
        variants: Dict from a name to a callable without arguments.
        rounds: Integer. How often each variant is timed.

    Returns:
        Tuple of two dicts, CPU and wall, from the name to an array of
        `rounds` seconds.
    """
    cpu = {name: np.zeros(rounds) for name in variants}
    wall = {name: np.zeros(rounds) for name in variants}
    for run in variants.values():
        run()
    # What is there stays; to look through it every time would take far longer
    # than what is timed.
    gc.collect()
    gc.freeze()
    generator = np.random.default_rng(0)
    for index in range(rounds):
        for name in generator.permutation(list(variants)).tolist():
            gc.collect()
            started = time.process_time(), time.perf_counter()
            variants[name]()
            cpu[name][index] = time.process_time() - started[0]
            wall[name][index] = time.perf_counter() - started[1]
    gc.unfreeze()
    return cpu, wall


def ratio(times: np.ndarray, reference: np.ndarray) -> tuple[float, str]:
    """The median ratio of paired times, and the same with its quartiles."""
    low, median, high = np.percentile(times / reference, [25, 50, 75])
    return float(median), f"{median:.3f} ({low:.3f}-{high:.3f})"


def two_lines(ratio_text: str) -> str:
    """What `ratio` wrote, with the quartiles on a line of their own."""
    return ratio_text.replace(" (", "\n").rstrip(")")


def verdict(is_met: bool) -> str:
    """The cell of a bar that was set: met or missed."""
    return "[green]met[/]" if is_met else "[red]missed[/]"


def versions() -> str:
    """One line: what ran."""
    backend = keras.backend.backend()
    cores = len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count()
    return (
        f"Python {platform.python_version()}, Keras {keras.__version__}, "
        f"{backend} {_version(backend)}, NumPy {np.__version__}, "
        f"{cores} CPU cores"
    )


def print_table(table: rich.table.Table, width: int = 80) -> None:
    """Prints a benchmark's one table, and what ran."""
    console = rich.console.Console(width=width, highlight=False)
    console.print(table)
    console.print(versions())


def _has_affinity() -> bool:
    return hasattr(os, "sched_getaffinity")


def _version(backend: str) -> str:
    for name in (backend, f"{backend}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "(version unknown)"
