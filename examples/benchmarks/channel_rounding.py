"""What a channel more or less costs in LiteRT: 65 against 64.

    python examples/benchmarks/channel_rounding.py

Stacks of six convolutions of 3x3 over 28x28 places, all of the same width,
run in LiteRT's interpreter on one thread, in float32 and int8. The kernels
compute some channels at once, so that time goes in steps: a width just above
a multiple of them pays for channels that it does not have. On an x86 CPU with
AVX-512 float32 goes in steps of 32 here and int8 in steps of 16; on ARM float32
kernels are 8 wide. That is what
`kprune.granularities.Filter(multiple_of=8)` is for.

Ratios are medians of paired ratios of CPU time to 64 channels, with
quartiles. 64 channels run twice; the ratio of the two is the control.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from export_sizes import invoking
from keras import layers
from measuring import paired_times, print_table, ratio

import kprune

WIDTHS = (48, 56, 60, 63, 64, 65, 72, 80)
PLACES = 28


def stack(width: int) -> keras.Model:
    """Six convolutions of one width."""
    convs = [
        layers.Conv2D(width, 3, padding="same", activation="relu")
        for _ in range(6)
    ]
    return keras.Sequential([keras.Input((PLACES, PLACES, width)), *convs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()

    paths = {"float32": {}, "int8": {}}
    with tempfile.TemporaryDirectory() as folder:
        for width in WIDTHS:
            samples = np.random.default_rng(0).normal(
                size=(4, PLACES, PLACES, width)
            )
            int8 = {"quantize": "int8", "representative_data": samples}
            for name, rest in (("float32", {}), ("int8", int8)):
                path = pathlib.Path(folder) / f"{name}{width}.tflite"
                paths[name][str(width)] = kprune.export(
                    stack(width), path, **rest
                ).path
        texts = {}
        for name, files in paths.items():
            runs = {width: invoking(file) for width, file in files.items()}
            runs["control"] = invoking(files["64"])
            cpu, _ = paired_times(runs, arguments.rounds)
            texts[name] = {key: ratio(cpu[key], cpu["64"])[1] for key in runs}

    table = rich.table.Table(
        title="Six convolutions of 3x3, latency against 64 channels",
        caption=f"Median of {arguments.rounds} paired ratios, with quartiles.",
    )
    for header in ("channels", "MACs", *texts):
        table.add_column(header, justify="right")
    for key in (*map(str, WIDTHS), "control"):
        share = "" if key == "control" else f"{(int(key) / 64) ** 2:.3f}"
        cells = [found[key] for found in texts.values()]
        table.add_row(key, share, *cells)
    print_table(table)


if __name__ == "__main__":
    main()
