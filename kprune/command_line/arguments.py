"""The arguments of each command.

Nothing is imported here that takes time: help and wrong arguments answer at
once.
"""

import argparse
import functools
import pathlib
from importlib import metadata

from kprune.formats import COSTS, FORMATS, QUANTIZATIONS

_EITHER = "a .keras, .h5 or .tflite file"
_KERAS_FILE = "the .keras file to write"


def parser() -> argparse.ArgumentParser:
    """Makes the parser of the command.

    Returns:
        `argparse.ArgumentParser`. What it parses has `command`: the name of
        the function of `commands` that does the work.
    """
    made = argparse.ArgumentParser(
        prog="kprune", description="Prunes Keras 3 models, and ships them."
    )
    made.add_argument(
        "--version", action="version", version=f"%(prog)s {_version()}"
    )
    subparsers = made.add_subparsers(
        dest="command", required=True, metavar="COMMAND"
    )
    command = functools.partial(_command, subparsers)
    _report(command)
    _cost(command)
    _graph(command)
    _strip(command)
    _compact(command)
    _export(command)
    _prune(command)
    _sensitivity(command)
    _search(command)
    return made


def _version() -> str:
    try:
        return metadata.version("kprune")
    except metadata.PackageNotFoundError:  # run where its source lies
        return "(not installed)"


def _shared() -> argparse.ArgumentParser:
    """The options of every command."""
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
    return shared


def _command(subparsers, name, help, read="the .keras or .h5 file", write=None):
    """Adds a command, of whose arguments `read` and `write` are the help."""
    added = subparsers.add_parser(
        name, parents=[_shared()], help=help, description=f"{help}."
    )
    added.add_argument("path", type=pathlib.Path, help=read)
    if write:
        added.add_argument("output", type=pathlib.Path, help=write)
        added.add_argument(
            "--force",
            action="store_true",
            help="replace what an earlier export wrote there",
        )
    return added


def _report(command) -> None:
    added = command("report", "What was pruned, and why not", _EITHER)
    added.add_argument(
        "--dense",
        type=pathlib.Path,
        help="a .keras or .h5 file to compare with",
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


def _cost(command) -> None:
    added = command("cost", "Parameters, zeros, MACs, bytes", _EITHER)
    added.add_argument(
        "--reference",
        type=pathlib.Path,
        help="a .tflite file to time another .tflite against",
    )


def _graph(command) -> None:
    added = command("graph", "Which channels go together")
    added.add_argument(
        "--pad-layer-norm",
        action="store_true",
        help="cut what a LayerNormalization normalizes over as well",
    )


def _strip(command) -> None:
    added = command(
        "strip",
        "Folds the masks in, cuts channels",
        write=_KERAS_FILE,
    )
    added.add_argument(
        "--keep-shapes",
        action="store_true",
        help="leave zeros where weights were pruned, and cut nothing",
    )


def _compact(command) -> None:
    command(
        "compact",
        "Cuts channels that do nothing",
        write=_KERAS_FILE,
    )


_WRITTEN = "what to write: .tflite, .onnx, .keras, or a SavedModel folder"


def _export(command) -> None:
    _file_options(
        command(
            "export",
            "Strips, writes, loads again and compares",
            write=_WRITTEN,
        )
    )


def _prune(command) -> None:
    added = command(
        "prune",
        "Prunes a trained model without training, and exports it",
        write=_WRITTEN,
    )
    how_much = added.add_mutually_exclusive_group(required=True)
    how_much.add_argument(
        "--sparsity", type=float, help="the fraction that goes, in [0, 1)"
    )
    how_much.add_argument(
        "--budget",
        type=_numbers,
        metavar="KEY=NUMBER,...",
        help="how much may stay, up to 1 a share, above it absolute: of "
        "parameters, macs, bytes, gzip_bytes or latency, such as "
        "macs=0.5,bytes=200000",
    )
    _members(added)
    _allocation(added)
    added.add_argument(
        "--data",
        type=pathlib.Path,
        metavar="FILE",
        help="some hundred samples, in a .npy file or a .npz file with an "
        "array for each input, or with 'x' and 'y'; what stays is fitted to "
        "what the dense model computes on them",
    )
    added.add_argument(
        "--no-reconstruct",
        dest="reconstruct",
        action="store_false",
        help="set masks only, and fit nothing",
    )
    _file_options(added)


def _search(command) -> None:
    added = command(
        "search",
        "Exports the smallest model that is accurate enough",
        write=_WRITTEN,
    )
    added.add_argument(
        "--at-least",
        type=float,
        required=True,
        metavar="ACCURACY",
        help="the floor of the accuracy on the data, such as 0.97",
    )
    added.add_argument(
        "--data",
        type=pathlib.Path,
        required=True,
        metavar="FILE",
        help="a .npz file with 'x' and 'y': the accuracy is that on it, and "
        "what stays is fitted to what the dense model computes on 'x'",
    )
    added.add_argument(
        "--minimize", choices=COSTS, default="macs", help="default: macs"
    )
    added.add_argument(
        "--trials", type=int, default=8, help="at most so many; default: 8"
    )
    added.add_argument(
        "--folder",
        type=pathlib.Path,
        help="where finished trials are kept, and a search that was "
        "interrupted goes on",
    )
    _members(added)
    _allocation(added)
    _file_options(added)


def _sensitivity(command) -> None:
    added = command(
        "sensitivity", "The accuracy where one layer alone is pruned"
    )
    added.add_argument(
        "--data",
        type=pathlib.Path,
        metavar="FILE",
        required=True,
        help="a .npz file with 'x' and 'y', to compute the accuracy on",
    )
    added.add_argument(
        "--sparsities",
        type=float,
        nargs="+",
        metavar="NUMBER",
        default=[0.25, 0.5, 0.75, 0.9],
        help="how much of the layer goes, each in (0, 1)",
    )
    _members(added)
    added.add_argument(
        "--reconstruct",
        action="store_true",
        help="fit what stays to what the dense model computes before each "
        "score",
    )
    added.add_argument(
        "--resume",
        type=pathlib.Path,
        metavar="FILE",
        help="a .json file that keeps what is measured: an interrupted "
        "command goes on",
    )


def _members(added) -> None:
    """Which weights go, and in what shape."""
    added.add_argument(
        "--granularity",
        help="unstructured, filter, nm or block; default: filters of "
        "convolutions, single weights elsewhere",
    )
    added.add_argument(
        "--criterion",
        default="magnitude",
        help="which weights matter; obs and alps see the data",
    )
    added.add_argument(
        "--loss",
        help="a loss of Keras, for criteria that ask for gradients",
    )


def _allocation(added) -> None:
    added.add_argument(
        "--allocation",
        default="uniform",
        help="how the sparsity is shared out, such as global",
    )


def _numbers(text: str) -> dict[str, float]:
    """Reads `key=number,key=number`."""
    try:
        pairs = (part.split("=") for part in text.split(","))
        return {key.strip(): float(number) for key, number in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected KEY=NUMBER, such as macs=0.5, received {text!r}"
        ) from None


def _file_options(added) -> None:
    """The options of commands that write a file for a device."""
    added.add_argument("--format", choices=FORMATS)
    added.add_argument("--quantize", choices=QUANTIZATIONS)
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
