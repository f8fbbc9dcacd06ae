"""What one update of a mask costs, in time and in memory.

    python examples/benchmarks/mask_update.py

`kprune.prune` updates the mask of one Dense layer of 1 or 10 million normal
weights to a sparsity of 80 %, unstructured, with an exact count. It is timed
in turns, in one process, against two ways of doing the same by hand, each
with reading the weights and storing the mask:

* partition: `np.partition` of the absolute values gives the threshold.
* top_k: `tf.math.top_k` of all absolute values, largest first, from which the
  threshold is read. This is what the TensorFlow Model Optimization Toolkit
  does. Left out where TensorFlow is not the backend.

The ratios are medians of paired ratios of CPU time, with quartiles; an update
of 1 million, a few milliseconds, runs ten times in a row. `prune` runs twice,
and the ratio of the two is the control. NumPy has a partition of its own for
CPUs with AVX2 or AVX-512, several times faster than the one that others get;
`NPY_DISABLE_CPU_FEATURES="X86_V4 X86_V3"` turns it off (NumPy 2.4).

The memory is the peak of what NumPy allocates during the update, by
`tracemalloc`, in multiples of the bytes of the weights (4 a weight), without
the new mask (1 byte a weight).
"""

import argparse
import functools
import os
import tracemalloc

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from measuring import paired_times, print_table, ratio, two_lines, verdict

import kprune
from kprune.weights import to_numpy

SPARSITY = 0.8
TOP_K_BAR = 0.12
MEMORY_BAR = 2.0


def dense_model(size: int) -> keras.Model:
    """One prunable layer of `size` normal weights."""
    inputs = 1000
    layer = kprune.PrunableDense(
        size // inputs,
        kernel_initializer=keras.initializers.RandomNormal(seed=0),
        use_bias=False,
    )
    return keras.Sequential([keras.Input((inputs,)), layer])


def update_by_partition(layer) -> None:
    """The same update with `np.partition`."""
    scores = np.abs(to_numpy(layer.kernels["kernel"]))
    removed = int(scores.size * SPARSITY)
    threshold = np.partition(scores.ravel(), removed)[removed]
    layer.masks["kernel"].assign(scores >= threshold)


def update_by_top_k(layer) -> None:
    """The same update with `top_k` over all elements."""
    import tensorflow as tf

    scores = tf.reshape(tf.abs(layer.kernels["kernel"].value), [-1])
    kept = scores.shape[0] - int(scores.shape[0] * SPARSITY)
    values, _ = tf.math.top_k(scores, k=scores.shape[0])
    mask = tf.greater_equal(scores, tf.gather(values, kept - 1))
    layer.masks["kernel"].assign(tf.reshape(mask, layer.masks["kernel"].shape))


def peak_memory(run) -> int:
    """Bytes that NumPy holds at most while `run` runs."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def repeat(update, times: int) -> None:
    """Runs one update several times in a row."""
    for _ in range(times):
        update()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--millions",
        type=int,
        nargs="+",
        default=[1, 10],
        help="how many million weights",
    )
    arguments = parser.parse_args()

    table = rich.table.Table(
        title="One update of a mask, unstructured, 80 %",
        caption=f"Median of {arguments.rounds} paired ratios, with quartiles.",
        show_lines=True,
    )
    table.add_column("weights")
    for header in (
        "prune\nms",
        "prune /\npartition\nbar: below 1",
        f"prune /\ntop_k\nbar: {TOP_K_BAR}",
        "control",
        f"peak\nmemory\nbar: {MEMORY_BAR:.0f}x",
    ):
        table.add_column(header, justify="right")
    for millions in arguments.millions:
        size = millions * 1_000_000
        model = dense_model(size)
        layer = model.layers[0]

        def prune(model=model):
            kprune.prune(model, SPARSITY)

        variants = {
            "prune": prune,
            "partition": lambda layer=layer: update_by_partition(layer),
            "control": lambda model=model: kprune.prune(model, SPARSITY),
        }
        if keras.backend.backend() == "tensorflow":
            variants["top_k"] = lambda layer=layer: update_by_top_k(layer)
        repeats = max(10 // millions, 1)
        times, _ = paired_times(
            {
                name: functools.partial(repeat, update, repeats)
                for name, update in variants.items()
            },
            arguments.rounds,
        )
        cells = []
        for name, bar in (("partition", 1.0), ("top_k", TOP_K_BAR)):
            if name in times:
                median, text = ratio(times["prune"], times[name])
                cells.append(f"{two_lines(text)}\n{verdict(median <= bar)}")
            else:
                cells.append("-")
        memory = (peak_memory(prune) - size) / (4 * size)
        table.add_row(
            f"{millions} million",
            f"{1000 * np.median(times['prune']) / repeats:.1f}",
            *cells,
            two_lines(ratio(times["control"], times["prune"])[1]),
            f"{memory:.2f}x\n{verdict(memory <= MEMORY_BAR)}",
        )
    print_table(table)


if __name__ == "__main__":
    main()
