"""What `prune(pad_layer_norm=True)` costs and saves.

    python examples/benchmarks/layer_norm.py

Two nets with LayerNormalization, a transformer and one like ConvNeXt (random
weights), lose half of their units: once as they come, where the residual
width stays, and once with the option, where it is cut and each
LayerNormalization pads to the old width, normalizes, and slices. A compiled
forward pass is timed in turns, in one process; the ratios to the dense net are
medians of paired ratios, with quartiles. The dense net runs twice; the ratio
of the two is the control. The difference is the largest one to the outputs of
the masked model, as part of the largest output.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.table
from keras import layers
from measuring import paired_times, print_table, ratio, two_lines

import kprune


def transformer(width=192, heads=4, depth=4, length=64) -> keras.Model:
    """A pre-norm encoder with a classifier."""
    x = inputs = keras.Input((length, 64))
    x = layers.Dense(width)(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(heads, width // heads)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x), name="transformer")


def convnext(width=96, depth=4, size=64) -> keras.Model:
    """A stem, and blocks of a depthwise convolution and two Dense."""
    x = inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(width, 4, strides=4)(x)
    for _ in range(depth):
        y = layers.DepthwiseConv2D(7, padding="same")(x)
        y = layers.LayerNormalization(epsilon=1e-6)(y)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="convnext")


def halved(model, pads: bool, x) -> tuple[keras.Model, float]:
    """A model without half of its units, and how far it is from the masked."""
    prunable = kprune.make_prunable(model)
    kprune.prune(prunable, 0.5, granularity="filter", pad_layer_norm=pads)
    stripped = kprune.strip(prunable)
    masked = keras.ops.convert_to_numpy(prunable(x))
    difference = np.abs(keras.ops.convert_to_numpy(stripped(x)) - masked)
    return stripped, float(difference.max() / np.abs(masked).max())


def runner(model, x):
    """A callable that runs a compiled forward pass to its end."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        forward = tf.function(lambda x: model(x, training=False))
        return lambda: forward(x).numpy()
    if keras.backend.backend() == "jax":
        import jax

        forward = jax.jit(lambda x: model(x, training=False))
        return lambda: np.asarray(forward(x))
    return lambda: keras.ops.convert_to_numpy(model(x, training=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()

    table = rich.table.Table(
        title="Half of the units cut, LayerNormalization left or padded",
        caption=f"Batches of {arguments.batch}. Median of {arguments.rounds} "
        "paired ratios, with quartiles.",
    )
    table.add_column("net")
    for header in (
        "weights,\nmillions",
        "MACs,\nmillions",
        "CPU time,\nratio",
        "latency,\nratio",
        "difference",
    ):
        table.add_column(header, justify="right")
    for dense in (transformer(), convnext()):
        shape = (arguments.batch, *dense.input_shape[1:])
        generator = np.random.default_rng(0)
        x = generator.normal(size=shape).astype("float32")
        x = keras.ops.convert_to_tensor(x)
        nets = {"dense": (dense, None), "control": (dense, None)}
        nets["0.5"] = halved(dense, False, x)
        nets["0.5, padded"] = halved(dense, True, x)
        cpu, wall = paired_times(
            {name: runner(net, x) for name, (net, _) in nets.items()},
            arguments.rounds,
        )
        table.add_section()
        for name, (net, difference) in nets.items():
            ratios = [
                two_lines(ratio(times[name], times["dense"])[1])
                for times in (cpu, wall)
            ]
            report = kprune.report(net)
            table.add_row(
                f"{dense.name},\n{name}" if name == "dense" else name,
                f"{report.parameters / 1e6:.2f}",
                f"{report.macs / 1e6:.1f}",
                *(["1", "1"] if name == "dense" else ratios),
                "" if difference is None else f"{difference:.0e}",
            )
    print_table(table)


if __name__ == "__main__":
    main()
