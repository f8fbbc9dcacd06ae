"""What the set-ups share: the data, the network and the line they print."""

import hashlib
import json

import keras
import numpy as np
from sklearn.datasets import load_digits

import kprune

SAMPLES = 1024
BATCH_SIZE = 64
EPOCHS = 6
SPARSITY = 0.8
LEARNING_RATE = 0.05
MOMENTUM = 0.9


def load(process=0, processes=1):
    """Real digits of 8 x 8 pixels: of each batch the share of one process."""
    images, labels = load_digits(return_X_y=True)
    batches = np.arange(SAMPLES).reshape(-1, processes, BATCH_SIZE // processes)
    mine = batches[:, process].ravel()
    images = images[mine].reshape(-1, 8, 8, 1) / 16
    return images.astype("float32"), labels[mine].astype("int32")


def build():
    """A small network in which filters and single weights go.

    It is smooth: where a relu's input is next to 0, rounding alone decides
    whether a gradient flows, and two runs that sum in another order part.
    """
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            kprune.PrunableConv2D(16, 3, activation="silu", name="conv"),
            keras.layers.AveragePooling2D(2),
            keras.layers.Flatten(),
            kprune.PrunableDense(32, activation="silu", name="hidden"),
            kprune.PrunableDense(10, name="logits"),
        ]
    )


def build_compiled():
    model = build()
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def members(criterion):
    """What a scheduler or pruner is made with, the same in every process."""
    x, y = load()  # not the share that a process trains on
    return {
        "criterion": criterion,
        "data": (x[:256], y[:256]),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }


def prunable_layers(model):
    return [
        layer
        for layer in model.layers
        if isinstance(layer, kprune.PrunableLayer)
    ]


def masks_and_weights(model):
    """The variables that have to agree on all devices."""
    layers = prunable_layers(model)
    return {
        "masks": [v for layer in layers for v in layer.masks.values()],
        "weights": [v for layer in layers for v in layer.maskable.values()],
    }


def fingerprint(arrays):
    """A few characters that differ if any bit of the arrays does."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def finish(model, sparsities, copies, process=0, save=None):
    """Strips the model and prints one line of JSON.

    Args:
        model: The trained model.
        sparsities: Its sparsity after each epoch.
        copies: Dict from the name of a device to a function that takes a
            variable and returns the array that this device holds.
        process: The number of this process.
        save: Path of a `.npz` for masks, weights and stripped weights.
    """
    stripped = kprune.strip(model, compact=False)
    variables = masks_and_weights(model)
    result = {
        "process": process,
        "sparsity": sparsities,
        "stripped_sparsity": kprune.sparsity(stripped),
        "devices": {
            device: {
                kind: fingerprint(map(copy, those))
                for kind, those in variables.items()
            }
            for device, copy in copies.items()
        },
    }
    print(json.dumps(result), flush=True)
    if save:
        variables["stripped"] = [
            v
            for layer in prunable_layers(model)
            for v in stripped.get_layer(layer.layer.name).weights
        ]
        np.savez(
            save,
            **{
                f"{kind}_{index}": kprune.weights.to_numpy(variable)
                for kind, those in variables.items()
                for index, variable in enumerate(those)
            },
        )
