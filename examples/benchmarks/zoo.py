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
    params    parameters left; bar at a sparsity of 0.5: 0.37, and 0.56 for
              ConvNeXt, whose LayerNormalizations keep the width as it is
    MACs      multiply-accumulates left; bar at 0.5: 0.33, and 0.56
    units     what can be cut: channels that go together
    channels  channels that can be cut, in percent of all but the classes
    read, strip    seconds that it takes to find the units, and to strip
    GiB       peak memory of the process, float64
    .tflite   size of the exported file (float32, built-in operations only) in
              parts of that of the whole model, and the largest difference

An architecture is one process, TensorFlow is the backend: others compute some
operations in float32 whatever the dtype is.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import gc
import inspect
import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from keras import ops
from live import draw_vectors, enliven, scale_kernels
from measuring import print_table, verdict

import kprune
from kprune import costs
from kprune.structure import channel_graph

ARCHITECTURES = sorted(
    name
    for name, member in vars(keras.applications).items()
    if inspect.isfunction(member)
)
# Others take images of 32 pixels.
SMALLEST_IMAGE = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
DIFFERENCE_BAR = 1e-9
SMALLEST_SPREAD = 1e-3
SIZE_BARS = (0.37, 0.33)
CONVNEXT_BARS = (0.56, 0.56)


@dataclasses.dataclass(frozen=True)
class Row:
    """What came out for one architecture at one sparsity.

    Args:
        architecture: Its name in `keras.applications`.
        sparsity: Float.
        difference: Largest difference of outputs, masked and stripped, over
            the largest output.
        spread: The same between two samples.
        reloaded: The same between the stripped model and its `.keras` file.
        again: The same as `difference` for the stripped model, pruned again.
        parameters: What is left of the parameters, in parts of all.
        macs: What is left of the multiply-accumulates.
        units: How many units can be cut.
        channels: What part of the channels can be cut, classes not counted.
        read_seconds: How long it takes to find the units.
        strip_seconds: How long it takes to strip.
    """

    architecture: str
    sparsity: float
    difference: float
    spread: float
    reloaded: float
    again: float
    parameters: float
    macs: float
    units: int
    channels: float
    read_seconds: float
    strip_seconds: float

    def is_exact(self, tolerance: float = DIFFERENCE_BAR) -> bool:
        """Whether all outputs are equal, and are alive."""
        return (
            max(self.difference, self.again) <= tolerance
            and self.reloaded == 0
            and self.spread > SMALLEST_SPREAD
        )


def images(architecture: str, size: int) -> np.ndarray:
    """Two random images of that size, or of the smallest it takes."""
    size = max(size, SMALLEST_IMAGE.get(architecture, 32))
    # Some architectures divide the values of pixels by 255 or by 58.
    return np.random.default_rng(0).normal(0, 64, (2, size, size, 3))


def prunable_model(architecture: str, x: np.ndarray) -> keras.Model:
    """The architecture, prunable, its weights random."""
    build = getattr(keras.applications, architecture)
    model = build(
        weights=None, input_shape=x.shape[1:], classifier_activation=None
    )
    prunable = kprune.make_prunable(draw_vectors(model))
    del model
    gc.collect()  # a model is a cycle, and the largest takes 2.8 GB
    return prunable


def prune(prunable: keras.Model, x: np.ndarray, sparsity: float) -> None:
    """Prunes by filters and brings the signal back to life."""
    kprune.prune(prunable, sparsity, granularity="filter")
    enliven(scale_kernels(prunable), x)


def shrink(
    architecture: str, sparsities: list[float], size: int
) -> Iterator[Row]:
    """Shrinks one architecture, one sparsity after the other.

    Args:
        architecture: Its name in `keras.applications`.
        sparsities: List of floats.
        size: Height and width of the images.

    Yields:
        A `Row` for each sparsity.
    """
    x = images(architecture, size)
    prunable = prunable_model(architecture, x)
    parameters, macs = costs.parameters(prunable), costs.macs(prunable)
    started = time.perf_counter()
    graph = channel_graph(prunable)
    read_seconds = time.perf_counter() - started
    units, channels = _counts(graph, prunable.output_shape[-1])
    for sparsity in sparsities:
        prune(prunable, x, sparsity)
        started = time.perf_counter()
        stripped = kprune.strip(prunable)
        strip_seconds = time.perf_counter() - started
        expected = _outputs(prunable, x)
        outputs = _outputs(stripped, x)
        reloaded = _outputs(_reloaded(stripped), x)
        gc.collect()
        yield Row(
            architecture,
            sparsity,
            difference=_difference(expected, outputs),
            spread=_difference(expected[:1], expected[1:]),
            reloaded=_difference(outputs, reloaded),
            again=_again(stripped, x),
            parameters=costs.parameters(stripped) / parameters,
            macs=costs.macs(stripped) / macs,
            units=units,
            channels=channels,
            read_seconds=read_seconds,
            strip_seconds=strip_seconds,
        )
        del stripped
        gc.collect()


def _counts(graph, classes: int) -> tuple[int, float]:
    """How many units can be cut, and what part of the channels."""
    made = np.concatenate(
        [
            graph.units.of_slot[binding.slots]
            for binding in graph.bindings
            if binding.role == "out"
        ]
    )
    free = made[~graph.units.frozen[made]]
    return len(np.unique(free)), len(free) / (len(made) - classes)


def _outputs(model, x) -> np.ndarray:
    with _grouped_convolutions_without_xla():
        return ops.convert_to_numpy(model(x, training=False))


def _grouped_convolutions_without_xla():
    """TensorFlow's own convolution in groups, for the time of a call.

    Keras compiles each with XLA, whose convolutions in groups take seconds
    in float64 on a CPU: those of ConvNeXt took minutes a call.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    of_keras = keras.layers.Conv2D.convolution_op

    def convolution_op(layer, inputs, kernel):
        if layer.groups == 1:
            return of_keras(layer, inputs, kernel)
        padding = layer.padding.upper()
        return tf.nn.convolution(inputs, kernel, layer.strides, padding)

    return mock.patch.object(
        keras.layers.Conv2D, "convolution_op", convolution_op
    )


def _difference(one, other) -> float:
    if not np.isfinite(one).all():
        return np.inf
    return float(np.abs(one - other).max() / np.abs(one).max())


def _reloaded(model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        gc.collect()
        return keras.saving.load_model(f"{folder}/model.keras")


def _again(stripped, x) -> float:
    """The difference when what is left is pruned and stripped once more."""
    prunable = kprune.make_prunable(stripped)
    prune(prunable, x, 0.5)
    expected = _outputs(prunable, x)
    return _difference(expected, _outputs(kprune.strip(prunable), x))


@dataclasses.dataclass(frozen=True)
class Export:
    """The `.tflite` file of a stripped model.

    Args:
        bytes: What is left of the size of the whole model's file.
        difference: Largest difference of outputs over the largest output.
        seconds: How long it took to write and check both files.
    """

    bytes: float
    difference: float
    seconds: float


def export(architecture: str, sparsity: float, size: int) -> Export:
    """Writes `.tflite` files of an architecture, whole and stripped.

    `kprune.export` lets built-in operations pass only, and checks the
    outputs.

    Args:
        architecture: Its name in `keras.applications`.
        sparsity: Float.
        size: Height and width of the images.

    Returns:
        An `Export`.

    Raises:
        ValueError: If an operation is not built in.
        RuntimeError: If the outputs differ.
    """
    x = images(architecture, size).astype(keras.config.floatx())
    prunable = prunable_model(architecture, x)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        whole = kprune.export(prunable, path)
        prune(prunable, x, sparsity)
        stripped = kprune.export(prunable, path)
    scale = np.abs(_outputs(prunable, x)).max()
    return Export(
        stripped.bytes / whole.bytes,
        stripped.largest_difference / scale,
        time.perf_counter() - started,
    )


def _shrink_in_float64(architecture, sparsities, size) -> tuple:
    """What runs in a process of its own: rows and the peak of its memory."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    rows = list(shrink(architecture, sparsities, size))
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
        "params",
        "MACs",
        "at 0.5",
        "units",
        "channels",
        "read, s",
        "strip, s",
        "GiB",
    ]
    for header in [*headers, ".tflite"] if has_exports else headers:
        table.add_column(header, justify="right")
    return table


def _cells(row: Row) -> list[str]:
    is_convnext = row.architecture.startswith("ConvNeXt")
    bars = CONVNEXT_BARS if is_convnext else SIZE_BARS
    is_met = row.parameters <= bars[0] and row.macs <= bars[1]
    return [
        row.architecture,
        f"{row.sparsity:g}",
        f"{max(row.difference, row.again):.0e}",
        f"{row.spread:.2f}",
        f"{row.parameters:.3f}",
        f"{row.macs:.3f}",
        verdict(is_met) if row.sparsity == 0.5 else "",
        f"{row.units:,}",
        f"{row.channels:.1%}",
        f"{row.read_seconds:.2f}",
        f"{row.strip_seconds:.1f}",
    ]


def _export_cell(exported: Export) -> str:
    return f"{exported.bytes:.3f}, {exported.difference:.0e}"


if __name__ == "__main__":
    sys.exit(main())
