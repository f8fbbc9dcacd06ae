"""The command `kprune`: what the functions of the same names do, on files."""

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import sys

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kprune.costs import cost
from kprune.exporting import export, litert, target
from kprune.loading import load_model
from kprune.reporting import report
from kprune.sparse_inference import check_sparse_inference
from kprune.stripping import strip
from kprune.structure.graph import channel_graph
from kprune.structure.removal import compact


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: List of strings; `None` takes those of the process.

    Returns:
        Integer. The exit code: 0, or 1 if the work failed (and the reason is
        on standard error). Wrong arguments exit with 2, as is the custom.

    Example:

    ```
    kprune report pruned.keras --dense dense.keras
    kprune export pruned.keras pruned.tflite --quantize float16
    kprune cost pruned.tflite --reference dense.tflite --json
    ```
    """
    options = _parser().parse_args(arguments)
    # Modules of the user lie where he calls the command.
    sys.path.insert(0, os.getcwd())
    if not options.safe:
        keras.config.enable_unsafe_deserialization()
    try:
        for module in options.imports:
            importlib.import_module(module)
        with _Steps() as steps:
            result, text = options.run(options, steps)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"kprune: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("kprune: interrupted", file=sys.stderr)
        return 130
    finally:
        sys.path.remove(os.getcwd())
    print(json.dumps(result, indent=2) if options.json else text)
    return 0


class _Steps:
    """A progress bar on standard error, which a pipe does not show."""

    def __init__(self):
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def begin(self, description, of=1):
        """Ends the step before, if any, and begins one of so many."""
        if not self._progress.tasks:
            self._progress.add_task(description, total=of)
            return
        self._progress.update(
            self._progress.task_ids[0], description=description, advance=1
        )


def _report(options, steps):
    if options.path.suffix == ".tflite":
        if options.dense or options.data or options.files:
            raise ValueError(
                "A `.tflite` file has no masks to report on, so nothing is "
                "compared with it. Pass the pruned `.keras` file, and the "
                "`.tflite` files of both models as --files DENSE PRUNED. "
                f"Received: '{options.path}'"
            )
        return _cost(options, steps)
    steps.begin("Loading", of=2)
    model = _load(options.path)
    dense = options.dense and _load(options.dense)
    steps.begin("Comparing")
    made = report(
        model,
        dense=dense,
        data=options.data and _samples_and_classes(options.data),
        files={pair[1].name: pair for pair in options.files},
        latency=options.latency,
    )
    return made.to_dict(), str(made)


def _cost(options, steps):
    steps.begin("Measuring" if options.reference else "Counting")
    path = options.path
    found = cost(path, reference=options.reference)
    if path.suffix != ".tflite":
        return found.to_dict(), str(found)
    check = check_sparse_inference(path)
    result = {**found.to_dict(), "sparse_inference": check.to_dict()}
    return result, f"{found}\n{check}"


def _graph(options, steps):
    steps.begin("Reading the structure")
    graph = channel_graph(
        _load(options.path), pad_layer_norm=options.pad_layer_norm
    )
    return graph.to_dict(), str(graph)


def _strip(options, steps):
    def plain(model):
        return strip(model, compact=not options.keep_shapes)

    return _write(options, steps, plain, format="keras")


def _compact(options, steps):
    return _write(options, steps, compact, format="keras")


def _export(options, steps):
    sparse = {"auto": "auto", "always": True, "never": False}[options.sparse]
    data = options.representative_data
    return _write(
        options,
        steps,
        lambda model: model,
        format=options.format,
        quantize=options.quantize,
        representative_data=data and _samples(data),
        integer_io=options.integer_io,
        sparse=sparse,
    )


def _write(options, steps, change, **arguments):
    if options.output.exists() and not options.force:
        raise ValueError(
            f"'{options.output}' exists. Choose another path, or replace it "
            "with --force."
        )
    steps.begin("Loading", of=3)
    model = _load(options.path)
    steps.begin("Cutting")
    model = change(model)
    steps.begin("Writing and checking")
    result = export(model, options.output, **arguments)
    text = (
        f"{result.path}: {result.bytes:,} bytes, {result.gzip_bytes:,} "
        f"gzipped; largest difference {result.largest_difference:.3g}"
    )
    if result.is_sparse:
        text += "; zeros are left out"
    if result.note:
        text += f"\n{result.note}"
    return dataclasses.asdict(result), text


def _load(path):
    if path.suffix == ".tflite":
        raise ValueError(
            f"'{path}' is a `.tflite` file, which cannot be changed any more: "
            "pass the `.keras` file that it was made of. `kprune cost` reads "
            "both."
        )
    return load_model(path)


def _arrays(path):
    """The arrays of a `.npy` or `.npz` file, by name."""
    try:
        found = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(
            f"'{path}' is no `.npy` or `.npz` file of numbers: {error}"
        ) from error
    if isinstance(found, np.ndarray):
        return {"": found}
    with found:
        return {name: found[name] for name in found.files}


def _samples(path):
    arrays = _arrays(path)
    # Several arrays go by the names of the inputs.
    return arrays if len(arrays) > 1 else next(iter(arrays.values()), None)


def _samples_and_classes(path):
    arrays = _arrays(path)
    if not {"x", "y"} <= arrays.keys():
        raise ValueError(
            "--data takes a `.npz` file with the arrays 'x' and 'y'. "
            f"Received: '{path}' with {sorted(arrays)}"
        )
    return arrays["x"], arrays["y"]


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--json", action="store_true", help="print JSON instead of a table"
    )
    shared.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="a Python module that registers layers of your own",
    )
    shared.add_argument(
        "--no-safe-mode",
        dest="safe",
        action="store_false",
        help="load Lambda layers, which run code that the file holds: only "
        "for files that you trust",
    )
    parser = argparse.ArgumentParser(
        prog="kprune", description="Prunes Keras 3 models, and ships them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, help, read="the .keras file", write=None):
        added = commands.add_parser(
            name, parents=[shared], help=help, description=f"{help}."
        )
        added.set_defaults(run=run)
        added.add_argument("path", type=pathlib.Path, help=read)
        if write:
            added.add_argument("output", type=pathlib.Path, help=write)
            added.add_argument(
                "--force",
                action="store_true",
                help="replace what an earlier export wrote there",
            )
        return added

    either = "a .keras or .tflite file"
    added = command("report", _report, "What was pruned, and why not", either)
    added.add_argument(
        "--dense", type=pathlib.Path, help="a .keras file to compare with"
    )
    added.add_argument(
        "--data",
        type=pathlib.Path,
        help="a .npz file with 'x' and 'y', to compare the accuracy",
    )
    added.add_argument(
        "--files",
        nargs=2,
        type=pathlib.Path,
        action="append",
        default=[],
        metavar=("DENSE", "PRUNED"),
        help="two files to compare the bytes of; can be repeated",
    )
    added.add_argument(
        "--latency", action="store_true", help="time the .tflite among them"
    )
    added.set_defaults(reference=None)
    added = command("cost", _cost, "Parameters, zeros, MACs, bytes", either)
    added.add_argument(
        "--reference",
        type=pathlib.Path,
        help="a .tflite file to time another .tflite against",
    )
    added = command("graph", _graph, "Which channels go together")
    added.add_argument(
        "--pad-layer-norm",
        action="store_true",
        help="cut what a LayerNormalization normalizes over as well",
    )
    keras_file = "the .keras file to write"
    added = command(
        "strip", _strip, "Folds the masks in, cuts channels", write=keras_file
    )
    added.add_argument(
        "--keep-shapes",
        action="store_true",
        help="leave zeros where weights were pruned, and cut nothing",
    )
    command(
        "compact", _compact, "Cuts channels that do nothing", write=keras_file
    )
    added = command(
        "export",
        _export,
        "Strips, writes, loads again and compares",
        write="what to write: .tflite, .onnx, .keras, or a SavedModel folder",
    )
    added.add_argument("--format", choices=target.FORMATS)
    added.add_argument("--quantize", choices=litert.QUANTIZATIONS)
    added.add_argument(
        "--representative-data",
        type=pathlib.Path,
        metavar="FILE",
        help="for int8: samples in a .npy file, or a .npz file with an array "
        "for each input",
    )
    added.add_argument(
        "--integer-io",
        action="store_true",
        help="for int8: inputs and outputs too",
    )
    added.add_argument(
        "--sparse",
        choices=("auto", "always", "never"),
        default="auto",
        help="whether zeros are left out of a .tflite",
    )
    return parser
