"""Every architecture of `keras.applications`, made smaller filter by filter.

    python examples/benchmarks/zoo.py
    python examples/benchmarks/zoo.py ResNet50 VGG16 --sparsity 0.25 0.5 0.9
    python examples/benchmarks/zoo.py --tflite

Each architecture is built with random weights (nothing is downloaded), made
prunable, pruned by filters and stripped. In float64 the outputs of the
stripped model are compared with those of the masked one; so are those of its
`.keras` file, loaded again, and those of the stripped model pruned and
stripped once more. Signal is kept alive: all scales, shifts and biases are
random, normalizations have the statistics of data that went through, and the
table says how far the outputs of two samples are apart.

    diff      largest difference between the outputs, masked and stripped, in
              parts of the largest output; bar: 1e-9
    spread    the same between two samples, which must be far above it
    1 ulp     the same for the masked model alone when its input moves by one
              rounding: what its own arithmetic cannot tell apart
    params    parameters left; bar at a sparsity of 0.5: 0.37, and 0.56 for
              ConvNeXt, whose LayerNormalizations keep the width as it is
    MACs      multiply-accumulates left; bar at 0.5: 0.33, and 0.56
    groups    what can be cut: channels that go together
    channels  channels that can be cut, in percent of all but the classes
    read, strip    seconds that it takes to find the groups, and to strip
    GiB       peak memory of the process, float64
    .tflite   size of the exported file (float32, built-in operations only) in
              parts of that of the whole model, and the largest difference

An architecture is one process, TensorFlow is the backend: others compute some
operations in float32 whatever the dtype is.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import resource
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import rich.table
from architectures import ARCHITECTURES, Export, Row, export, shrink
from measuring import print_table, verdict


def _shrink_in_float64(architecture, sparsities, size) -> tuple:
    """What runs in a process of its own: rows and the peak of its memory."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    rows = list(shrink(architecture, sparsities, size, sparsities))
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return rows, peak / 2**30


def _in_a_process(function, *arguments):
    """Runs a function in a new process, whose memory is free afterwards."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "architectures", nargs="*", metavar="ARCHITECTURE", help="default: all"
    )
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5])
    parser.add_argument("--size", type=int, default=96, help="of the images")
    parser.add_argument(
        "--tflite", action="store_true", help="write .tflite files as well"
    )
    arguments = parser.parse_args()
    architectures = arguments.architectures or ARCHITECTURES
    if unknown := set(architectures) - set(ARCHITECTURES):
        parser.error(f"keras.applications has no {', '.join(sorted(unknown))}")

    table = _table(arguments.tflite)
    failures = []
    for architecture in architectures:
        started = time.perf_counter()
        try:
            rows, peak = _in_a_process(
                _shrink_in_float64,
                architecture,
                arguments.sparsity,
                arguments.size,
            )
            exports = [
                _in_a_process(export, architecture, sparsity, arguments.size)
                for sparsity in arguments.sparsity
                if arguments.tflite
            ]
        except Exception as error:  # also a process without memory that died
            failures.append(f"{architecture}: {type(error).__name__}: {error}")
            print(failures[-1], file=sys.stderr)
            continue
        for index, row in enumerate(rows):
            print(row, file=sys.stderr)  # it takes long: nothing is lost
            if not row.is_exact():
                failures.append(f"not equal: {row}")
            cells = [] if not exports else [_export_cell(exports[index])]
            table.add_row(*_cells(row), f"{peak:.1f}", *cells)
        seconds = time.perf_counter() - started
        print(f"{architecture}: {seconds:.0f} s", file=sys.stderr)
    print_table(table, width=140)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _table(has_exports: bool) -> rich.table.Table:
    table = rich.table.Table(
        title="keras.applications, random weights, pruned by filters, stripped",
        caption="What is left, against the whole model; see the docstring.",
    )
    table.add_column("architecture", no_wrap=True)
    headers = [
        "sparsity",
        "diff",
        "spread",
        "1 ulp",
        "params",
        "MACs",
        "at 0.5",
        "groups",
        "channels",
        "read, s",
        "strip, s",
        "GiB",
    ]
    for header in [*headers, ".tflite"] if has_exports else headers:
        table.add_column(header, justify="right")
    return table


def _cells(row: Row) -> list[str]:
    return [
        row.architecture,
        f"{row.sparsity:g}",
        f"{row.largest_difference:.0e}",
        f"{row.spread:.2f}",
        f"{row.nudged:.0e}",
        f"{row.parameters:.3f}",
        f"{row.macs:.3f}",
        verdict(row.is_small) if row.sparsity == 0.5 else "",
        f"{row.groups:,}",
        f"{row.channels:.1%}",
        f"{row.read_seconds:.2f}",
        f"{row.strip_seconds:.1f}",
    ]


def _export_cell(exported: Export) -> str:
    return f"{exported.bytes:.3f}, {exported.difference:.0e}"


if __name__ == "__main__":
    sys.exit(main())
