"""What observing a model on data costs, against passes over the same batches.

    python examples/benchmarks/observing.py
    python examples/benchmarks/observing.py --resnet50

Second moments (`gram`), norms (`input_norm`) and gradients of all kernels of
two networks with random weights are computed on 256 random images, in turns in
one process, beside what has to be computed anyway, done by hand:

* forward: the model called on each batch.
* products: X'X in float32, that of the models, for each kernel and batch, the
  rows X being there.
* squares: the sums of X * X over the rows.
* both: the loss's gradients by all kernels, compiled anew each time, as
  observing does it: a pass forward and one backward for each batch.

What is observed may take 1.3 times the passes, and the products on top. The
ratios are medians of paired ratios of CPU time, with quartiles. The forward
passes run twice, and the ratio of the two is the control. Threads of NumPy that
wait for each other count as CPU time: `OPENBLAS_NUM_THREADS=1` has none.

With `--resnet50` it is what `kprune.prune(..., reconstruct=True)` takes on
ResNet50 with random weights and 64 images of 224 x 224: time on the wall and of
the CPU, all threads together, and the most memory that the process holds (Linux
only). The bars, 10 minutes on the wall and 6 GB, are for 2 cores.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import mnist_accuracy
import numpy as np
import residual_networks
import rich.table
from measuring import paired_times, print_table, ratio, two_lines, verdict
from update_memory import peak, resident

import kprune
from kprune.observing import gradients
from kprune.observing.observations import Observations
from kprune.observing.samples import read
from kprune.prunable import prunable_weights
from kprune.reconstruction.sites import KernelSite, Sample, look

NETWORKS = {
    "LeNet-5": mnist_accuracy.lenet_5_like,
    "ResNet": residual_networks.resnet,
}
IMAGES = 256
BAR = 1.3
# What is observed, the passes that it needs, and the products beside.
OBSERVED = {
    "gram": ("forward", "products"),
    "input_norm": ("forward", "squares"),
    "gradient": ("both", None),
}
MINUTES_BAR, MEMORY_BAR = 10, 6
WAYS = {
    "half of the filters": (0.5, "filter"),
    "80 % of the weights": (0.8, "unstructured"),
}


def rows_of(model, batch) -> list[np.ndarray]:
    """What each kernel multiplies on one batch."""
    found = []

    def tell(site, place, read):
        if isinstance(site, KernelSite):
            found.append(read().astype("float32"))

    seen = look(model, batch.x, lifted=False)
    every = 1 << 40
    Sample([batch], every).run(model, seen, seen.sites, tell)
    return found


def variants_of(model) -> dict:
    """What is timed, by name."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(IMAGES, 28, 28, 1)).astype("float32")
    batches = read((x, generator.integers(0, 10, IMAGES)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = prunable_weights(model)
    rows = rows_of(model, batches[0])

    def forward():
        for batch in batches:
            model(batch.x, training=False)

    def for_rows(do):
        for _ in batches:
            for array in rows:
                do(array)

    def both():
        variables = [weight.variable for weight in weights]

        def step(values, x, y):
            def total(values):
                with keras.StatelessScope([*zip(variables, values)]):
                    return loss(y, model(x, training=False))

            return gradients.gradients(total, values)

        step = gradients.compiled(step)
        for batch in batches:
            step([v.value for v in variables], batch.x, batch.y)

    def observe(name):
        observations = Observations(model, batches, loss)
        for weight in weights:
            getattr(observations, name)(weight)

    return {
        "forward": forward,
        "control": forward,
        "products": lambda: for_rows(lambda x: x.swapaxes(1, 2) @ x),
        "squares": lambda: for_rows(lambda x: np.square(x).sum(axis=1)),
        "both": both,
        **{name: (lambda name=name: observe(name)) for name in OBSERVED},
    }


def observing(rounds) -> rich.table.Table:
    """What is observed of each network, and what it needs."""
    table = rich.table.Table(
        title=f"Observing {IMAGES} images of 28 x 28",
        caption=f"Median of {rounds} paired ratios of CPU time, with "
        "quartiles.\nA control is forward twice.",
        show_lines=True,
    )
    for header in (
        "",
        "observed\nms",
        "passes\nms",
        "products\nms",
        f"(observed - products)\n/ passes, bar: {BAR}",
        "control",
    ):
        table.add_column(header, justify="right" if header else "left")
    for network, build in NETWORKS.items():
        model = kprune.make_prunable(build())
        times, _ = paired_times(variants_of(model), rounds)
        control = two_lines(ratio(times["control"], times["forward"])[1])
        for name, (passes, products) in OBSERVED.items():
            extra = times[products] if products else np.zeros(rounds)
            median, text = ratio(times[name] - extra, times[passes])
            table.add_row(
                f"{network}\n{name}",
                *(
                    f"{1000 * np.median(of):.0f}"
                    for of in (times[name], times[passes], extra)
                ),
                f"{two_lines(text)}\n{verdict(median <= BAR)}",
                control,
            )
    return table


def resnet50() -> rich.table.Table:
    """What it takes to prune and reconstruct ResNet50."""
    model = kprune.make_prunable(keras.applications.ResNet50(weights=None))
    stored = model.get_weights()
    x = np.random.default_rng(0).normal(size=(64, 224, 224, 3))
    x = x.astype("float32")
    table = rich.table.Table(
        title="ResNet50 pruned and reconstructed, 64 images of 224 x 224",
        caption=f"Bars: {MINUTES_BAR} minutes, {MEMORY_BAR} GB.",
    )
    for header in ("", "minutes", "of the CPU", "GB"):
        table.add_column(header, justify="right" if header else "left")
    for name, (sparsity, granularity) in WAYS.items():
        model.set_weights(stored)
        held = resident()
        started = time.perf_counter(), time.process_time()

        def run(sparsity=sparsity, granularity=granularity):
            kprune.prune(
                model,
                sparsity,
                granularity=granularity,
                data=x,
                reconstruct=True,
                verbose=1,
            )

        most = (held + peak(run)) / 1e9
        minutes = (time.perf_counter() - started[0]) / 60
        of_cpu = (time.process_time() - started[1]) / 60
        table.add_row(
            name,
            f"{minutes:.1f} {verdict(minutes <= MINUTES_BAR)}",
            f"{of_cpu:.1f}",
            f"{most:.1f} {verdict(most <= MEMORY_BAR)}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--resnet50", action="store_true")
    arguments = parser.parse_args()
    if arguments.resnet50:
        print_table(resnet50())
    else:
        print_table(observing(arguments.rounds))


if __name__ == "__main__":
    main()
