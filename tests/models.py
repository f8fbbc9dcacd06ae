"""Models and measures that several tests use."""

import tempfile

import keras
import numpy as np
from keras import layers, ops
from live import enliven

import kprune
from kprune.prunable import prunable_layers, weights_of
from kprune.structure.graph import readable
from kprune.structure.removal import Removal

# Equality in float64. On torch Keras's matmul computes in float32 whatever
# the dtype is, so rounding is all that can be asked for there.
EXACT = 2e-6 if keras.backend.backend() == "torch" else 1e-9
# The same holds for `ops.mean` on JAX, and with it for global pooling.
EXACT_MEAN = 1e-9 if keras.backend.backend() == "tensorflow" else 1e-5


def numpy(x):
    """A tensor or variable as an array, on every backend."""
    return ops.convert_to_numpy(x)


def convnet(classes=10):
    """A prunable LeNet-like net for digits: filters and single weights."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            kprune.PrunableConv2D(8, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            kprune.PrunableConv2D(16, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            kprune.PrunableDense(32, activation="relu", name="hidden"),
            kprune.PrunableDense(classes, name="logits"),
        ]
    )


class Untraceable(keras.Model):
    """A subclassed model in whose call Python decides on values."""

    def __init__(self):
        super().__init__()
        self.dense = kprune.PrunableDense(2, name="only")

    def call(self, x):
        return self.dense(x if float(ops.max(x)) < 1e6 else x / 2)


def compiled(model, learning_rate=1e-3):
    """The model, compiled to classify digits."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def outputs(model, x):
    """The model's outputs in inference as a flat list of arrays."""
    flat = keras.tree.flatten(model(x, training=False))
    return [numpy(output) for output in flat]


def assert_equal_outputs(first, second, x, tolerance=EXACT):
    """Both models give the same outputs, and the outputs are alive.

    The difference is measured against the largest output. Alive: on two
    samples of `x` the outputs differ by far more than the tolerance.
    """
    for one, other in zip(outputs(first, x), outputs(second, x), strict=True):
        scale = np.abs(one).max()
        assert np.isfinite(one).all() and scale > 0
        assert np.ptp(one, axis=0).max() > 100 * tolerance * scale
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= tolerance * scale


def randomized(model):
    """The model with every vector of weights drawn anew, none at 0 or 1.

    Biases that are 0, as Keras starts them, would hide many a mistake.
    """
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) == 1 or variable.name == "bias":
            variable.assign(generator.uniform(0.3, 1.2, variable.shape))
    return model


def assert_explained(model):
    """Each layer that keeps all its filters has a reason."""
    removal = Removal(readable(model, "read"))
    for layer in prunable_layers(model):
        _, removed = removal.filters(layer.layer, weights_of(layer)[-1])
        if not removed:
            assert all(removal.reasons(layer.layer)), layer.layer.name
            assert removal.reasons(layer.layer), layer.layer.name


def shrunk(
    model, x, sparsity=0.5, granularity="filter", tolerance=EXACT, **options
):
    """Prunes a plain model by filters, strips it, and compares the outputs.

    Returns:
        The stripped model, which has fewer parameters than `model`, and
        whose saved file gives the same outputs.
    """
    prunable = enliven(kprune.make_prunable(randomized(model)), x)
    dense = outputs(prunable, x)
    kprune.prune(prunable, sparsity, granularity=granularity, **options)
    assert any(
        np.abs(one - other).max() > 1e-3 * np.abs(one).max()
        for one, other in zip(dense, outputs(prunable, x))
    )
    if granularity == "filter":
        assert_explained(prunable)
    stripped = kprune.strip(prunable)
    assert stripped.count_params() < model.count_params()
    assert_equal_outputs(prunable, stripped, x, tolerance)
    with tempfile.TemporaryDirectory() as folder:
        stripped.save(f"{folder}/model.keras")
        loaded = keras.saving.load_model(f"{folder}/model.keras")
    for one, other in zip(outputs(stripped, x), outputs(loaded, x)):
        np.testing.assert_array_equal(one, other)
    return stripped


def branched(branches, shape):
    """A model with each of some functions between Dense layers of its own.

    Args:
        branches: Dict from a name to a callable on symbolic tensors.
        shape: Tuple: the shape of the model's input.

    Returns:
        Tuple of the model, which has an output for each branch, and data.
    """
    inputs = keras.Input(shape)
    tensors = {}
    for name, function in branches.items():
        x = function(layers.Dense(8, name=f"{name}_made")(inputs))
        if len(x.shape) > 3:
            x = layers.Flatten()(x)
        x = layers.Flatten()(layers.Dense(5)(x))
        tensors[name] = layers.Dense(3)(x)
    x = np.random.default_rng(1).normal(size=(4, *shape))
    return keras.Model(inputs, tensors), x


def units(model, names):
    """Dict from each branch of `branched` to the units of its first layer."""
    return {name: model.get_layer(f"{name}_made").units for name in names}
