"""What pruning is worth in a file, and in LiteRT's interpreter.

    python examples/benchmarks/export_sizes.py
    python examples/benchmarks/export_sizes.py --nets cnn --rounds 20

A plain CNN (eight convolutions of 3x3 with 32 to 256 filters, images of 64
pixels) and MobileNetV2 (128 pixels) are pruned by filters and by single
weights, and written in every format. Weights are random: sizes and times do not
depend on what a net has learned. Of filters a multiple of 16 is kept, which
`--multiple-of` changes: int8 kernels compute 16 channels at once, and so do, or
32, those of float32 on CPUs with AVX-512. (On ARM's 8 suits float32.)

    raw, gzip   bytes, in parts of the dense net's file in the same format
    sparse      the `.tflite` that `sparse="auto"` writes, in parts of the
                dense plain one
    int8 gz/f32 gzip of the int8 file in parts of gzip of the dense float32 one
    MACs        multiply-accumulates left
    latency     of the `.tflite` in LiteRT's interpreter on one thread, against
                the dense one: the median of paired ratios of CPU time, with
                quartiles. The control is the dense file, loaded twice.

LiteRT multiplies zeros like any other number on this kind of machine: files
of pruned single weights are smaller, not faster. What they gain in MACs and
latency are channels of which no weight is left, which are cut out.
"""

import argparse
import functools
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.console
import rich.progress
import rich.table
from keras import layers
from live import enliven
from measuring import paired_times, ratio, two_lines, verdict, versions

import kprune
from kprune.measuring import costs

FILTERS = {f"filters {share}": share for share in (0.25, 0.5, 0.75)}
WEIGHTS = {f"weights {share}": share for share in (0.8, 0.95)}
# In one run of an interpreter the caches of the one before are cold.
RUNS = 10


def cnn() -> keras.Model:
    """Eight convolutions, each with a norm and an activation."""
    net = [keras.Input((64, 64, 3))]
    for index, filters in enumerate((32, 32, 64, 64, 128, 128, 256, 256)):
        net += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
        if index % 2:
            net.append(layers.MaxPooling2D())
    net += [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential(net)


def mobilenet() -> keras.Model:
    """MobileNetV2 for images of 128 pixels, 1000 classes."""
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(128, 128, 3)
    )


NETS = {"cnn": cnn, "mobilenetv2": mobilenet}


def pruned(net: keras.Model, sparsity: float, granularity) -> keras.Model:
    """The net, pruned and stripped."""
    prunable = kprune.make_prunable(net)
    kprune.prune(prunable, sparsity, granularity=granularity)
    return kprune.strip(prunable)


def write(model, folder: pathlib.Path, samples) -> dict:
    """Exports a model in every format.

    Returns:
        Dict from the name of a format to `kprune.ExportResult`.
    """
    int8 = {"quantize": "int8", "representative_data": samples}
    arguments = {
        ".keras": ("m.keras", {}),
        "SavedModel": ("m", {}),
        ".onnx": ("m.onnx", {}),
        "float32": ("f32.tflite", {"sparse": False}),
        "sparse": ("sparse.tflite", {}),
        "float16": ("f16.tflite", {"quantize": "float16"}),
        "dynamic": ("dynamic.tflite", {"quantize": "dynamic"}),
        "int8": ("int8.tflite", int8),
    }
    return {
        name: kprune.export(model, folder / file, **rest)
        for name, (file, rest) in arguments.items()
    }


def invoking(path: str):
    """A callable that runs a `.tflite` on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()

    def run():
        for _ in range(RUNS):
            interpreter.invoke()

    return run


def latencies(results: dict, format: str, rounds: int) -> dict:
    """Dict from a variant, and the control, to its median ratio and text."""
    paths = {name: found[format].path for name, found in results.items()}
    paths["control"] = paths["dense"]
    cpu, _ = paired_times({n: invoking(p) for n, p in paths.items()}, rounds)
    return {name: ratio(cpu[name], cpu["dense"]) for name in cpu}


def variants(multiple_of: int) -> dict:
    """Dict from a name to a sparsity and a granularity."""
    filters = kprune.granularities.Filter(multiple_of=multiple_of)
    return {name: (share, filters) for name, share in FILTERS.items()} | {
        name: (share, "unstructured") for name, share in WEIGHTS.items()
    }


def measure(name: str, multiple_of: int, rounds: int, progress) -> tuple:
    """A net's table, and its bars as rows of label, value and bar."""
    net = NETS[name]()
    samples = np.random.default_rng(0).normal(size=(16, *net.input_shape[1:]))
    samples = samples.astype("float32")
    enliven(net, samples)
    models = {"dense": lambda: net} | {
        variant: functools.partial(pruned, net, *how)
        for variant, how in variants(multiple_of).items()
    }
    task = progress.add_task(name, total=len(models) + 2)
    results, macs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for variant, make in models.items():
            model = make()
            place = pathlib.Path(folder) / variant
            results[variant] = write(model, place, samples)
            macs[variant] = costs.macs(model)
            progress.advance(task)
        times = {}
        for format in ("sparse", "int8"):
            times[format] = latencies(results, format, rounds)
            progress.advance(task)
    return (
        _table(name, results, macs, times),
        _bars(name, results, macs, times),
    )


def _table(name, results, macs, times) -> rich.table.Table:
    formats = list(results["dense"])
    table = rich.table.Table(title=f"{name}: raw and gzip bytes, to dense")
    table.add_column("pruned")
    for header in (*formats, "int8 gz/f32", "MACs", "latency f32", "int8"):
        table.add_column(header, justify="right")
    dense = results["dense"]
    table.add_row(
        "dense, kB",
        *(
            f"{dense[f].bytes / 1e3:,.0f}\n{dense[f].gzip_bytes / 1e3:,.0f}"
            for f in formats
        ),
        f"\n{_int8_gzip(dense, dense):.3f}",
        f"{macs['dense'] / 1e6:,.0f}M",
        "1",
        "1",
    )
    for variant, found in results.items():
        if variant != "dense":
            table.add_row(
                variant,
                *(
                    f"{found[f].bytes / dense[f].bytes:.3f}\n"
                    f"{found[f].gzip_bytes / dense[f].gzip_bytes:.3f}"
                    for f in formats
                ),
                f"\n{_int8_gzip(found, dense):.3f}",
                f"{macs[variant] / macs['dense']:.3f}",
                *(two_lines(times[f][variant][1]) for f in times),
            )
    table.add_row(
        "control",
        *("" for _ in formats),
        "",
        "",
        *(two_lines(times[f]["control"][1]) for f in times),
    )
    return table


def _int8_gzip(found, dense) -> float:
    return found["int8"].gzip_bytes / dense["float32"].gzip_bytes


def _bars(name, results, macs, times) -> list:
    dense = results["dense"]

    def raw(variant, format):
        return results[variant][format].bytes / dense[format].bytes

    bars = [
        ("weights 0.8: sparse, raw", raw("weights 0.8", "sparse"), 0.32),
        (
            "weights 0.8: gzip of int8 to float32 dense",
            _int8_gzip(results["weights 0.8"], dense),
            0.10,
        ),
    ]
    if name == "cnn":
        half = "filters 0.5"
        latency = {name: times["sparse"][name][0] for name in FILTERS}
        bars += [
            (f"{half}: float32 file", raw(half, "float32"), 0.27),
            (f"{half}: float32 latency", latency[half], 0.30),
            (f"{half}: int8 file", raw(half, "int8"), 0.35),
            (f"{half}: int8 latency", times["int8"][half][0], 0.35),
        ]
        bars += [
            (
                f"{name}: float32 latency to MACs",
                latency[name] * macs["dense"] / macs[name],
                1.25,
            )
            for name in FILTERS
        ]
    return [(f"{name}, {label}", value, bar) for label, value, bar in bars]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--multiple-of", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()

    console = rich.console.Console(width=150, highlight=False)
    verdicts = rich.table.Table(title="Bars")
    for header in ("what", "measured", "bar", ""):
        verdicts.add_column(header)
    tables = []
    with rich.progress.Progress(
        console=rich.console.Console(stderr=True)
    ) as progress:
        for name in arguments.nets:
            table, bars = measure(
                name, arguments.multiple_of, arguments.rounds, progress
            )
            tables.append(table)
            for label, value, bar in bars:
                verdicts.add_row(
                    label, f"{value:.3f}", f"{bar}", verdict(value <= bar)
                )
    for table in (*tables, verdicts):
        console.print(table)
    console.print(versions())


if __name__ == "__main__":
    main()
