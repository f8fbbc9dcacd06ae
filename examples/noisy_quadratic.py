"""
Title: Pruning a network that fits a noisy quadratic
Author: The kprune authors
Date created: 2026/11/24
Last modified: 2026/11/24
Description: See what magnitude pruning does to a fit and to a weight matrix.
Accelerator: None
"""

"""
## Introduction

The smallest case shows the idea best. We fit a parabola that is hidden in
noise, with a network that has far more weights than a parabola needs. Then we
remove 90 % of the weights of its large layer, those of the smallest magnitude:
at once, and little by little while the network trains on. At the end we plot
the fits, and the weight matrix beside its mask and the product of the two,
which is what the pruned layer computes with.

The masks grow with the schedule of
[Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878).
"""

"""
## Setup

The plot needs matplotlib:

```shell
pip install "kprune[plots]"
```
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.console
import rich.table
from keras import layers
from matplotlib.figure import Figure

import kprune
from kprune import plots

parser = argparse.ArgumentParser(description="Prune a fit of a parabola.")
parser.add_argument(
    "--output", default="noisy_quadratic.png", help="the file for the plot"
)
parser.add_argument("--epochs", type=int, default=100)
arguments = parser.parse_args()

keras.utils.set_random_seed(0)

"""
## Prepare the data

The network sees 200 noisy points for training and 100 for validation. For the
test we compare with the parabola itself, without noise, which no network sees.
"""


def parabola(x):
    return x**2


def make_points(count, generator):
    x = generator.uniform(-1, 1, size=(count, 1))
    y = parabola(x) + generator.normal(scale=0.1, size=x.shape)
    return x.astype("float32"), y.astype("float32")


generator = np.random.default_rng(0)
x_train, y_train = make_points(200, generator)
x_val, y_val = make_points(100, generator)
x_test = np.linspace(-1, 1, 401, dtype="float32")[:, np.newaxis]
y_test = parabola(x_test)

"""
## Build the model

Three numbers describe a parabola. This network has more than 4,000.
"""

model = keras.Sequential(
    [
        keras.Input(shape=(1,), name="x"),
        layers.Dense(64, activation="relu", name="hidden_1"),
        layers.Dense(64, activation="relu", name="hidden_2"),
        layers.Dense(1, name="y"),
    ],
    name="parabola",
)

"""
## Train the model
"""


def train(model, callbacks=()):
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="mse")
    history = model.fit(
        x_train,
        y_train,
        batch_size=20,
        epochs=arguments.epochs,
        validation_data=(x_val, y_val),
        callbacks=list(callbacks),
        verbose=0,
    )
    print(f"Validation loss: {history.history['val_loss'][-1]:.4f}")


train(model)
before = model.predict(x_test, verbose=0)

"""
## Prune at once

`kprune.make_prunable()` copies the trained model and wraps the layers for
which `where` is true; the first and the last layer have only 64 weights each
and are left whole. `kprune.prune()` masks the weights of the smallest
magnitude. Nothing else changes: behind the mask each weight keeps its value.
"""


def is_large(layer):
    return layer.name == "hidden_2"


pruned_at_once = kprune.make_prunable(model, where=is_large)
kprune.prune(pruned_at_once, sparsity=0.9)
at_once = pruned_at_once.predict(x_test, verbose=0)

"""
## Prune while training on

With the default settings of `kprune.PruningScheduler` the mask grows each
epoch, until in the middle of the training 90 % of the weights are gone; then
the rest is fine-tuned. A weight that is masked early can come back while the
mask still grows.
"""

prunable_model = kprune.make_prunable(model, where=is_large)
train(prunable_model, [kprune.PruningScheduler(0.9)])
after = prunable_model.predict(x_test, verbose=0)
print(kprune.report(prunable_model))

"""
The pruned network has now trained twice as long. To be fair, the other one
trains on as well.
"""

train(model)
trained_on = model.predict(x_test, verbose=0)

"""
## Strip the model

A zero in a matrix is still stored and multiplied. `kprune.strip()` folds the
mask in, and where all weights into or out of a unit are gone it removes the
unit.
"""

stripped_model = kprune.strip(prunable_model)
stripped = stripped_model.predict(x_test, verbose=0)

"""
## Evaluate the fits
"""


def test_error(prediction):
    return f"{np.sqrt(np.mean((prediction - y_test) ** 2)):.4f}"


def weight_counts(model):
    report = kprune.report(model)
    return f"{report.weights:,}", f"{report.weights - report.zeros:,}"


table = rich.table.Table(title="A parabola, before and after pruning")
for heading in ("", "test error", "weights", "of them not zero"):
    table.add_column(heading, justify="right" if heading else "left")
counts = weight_counts(model)
table.add_row("Before pruning", test_error(before), *counts)
table.add_row("Not pruned, trained on", test_error(trained_on), *counts)
table.add_row(
    "Pruned at once", test_error(at_once), *weight_counts(pruned_at_once)
)
table.add_row(
    "Pruned in training", test_error(after), *weight_counts(prunable_model)
)
table.add_row(
    "The same, stripped", test_error(stripped), *weight_counts(stripped_model)
)
console = rich.console.Console(width=80, highlight=False)
console.print(table)
console.print("The test error is the root mean square against the parabola.")

"""
## Plot the fits and the weights

`kprune.plots.mask()` draws the layer that was pruned at once, where the masked
weights still have their values. In the other one they are zero by now.
"""

figure = Figure(figsize=(12, 8), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.1))
fits = {
    "before pruning": before,
    "pruned at once": at_once,
    "pruned in training": after,
}
for axis, (title, prediction) in zip(
    top.subplots(1, 3, sharex=True, sharey=True), fits.items()
):
    axis.scatter(x_train, y_train, s=10, color="0.75", label="training points")
    axis.plot(x_test, y_test, "k--", linewidth=1.5, label="parabola")
    axis.plot(x_test, prediction, "C3", linewidth=2, label="network")
    axis.set_title(f"{title}, test error {test_error(prediction)}")
    axis.set_xlabel("x")
top.axes[0].set_ylabel("y")
top.axes[0].legend(loc="upper center", frameon=False)
plots.mask(pruned_at_once.get_layer("hidden_2"), figure=bottom)
figure.savefig(arguments.output, dpi=120)
print(f"The plot is in {arguments.output}")

"""
## Conclusion

A tenth of the weights of the large layer fits the parabola about as well as
all of them, if the network may train while they go. Things to try next:

- Other sparsities: `kprune.PruningScheduler(0.98)`.
- Whole units: `kprune.PruningScheduler(0.9, granularity="filter")`.
- A real data set, and files for a phone: the example `mnist_to_tflite.py`.
"""
