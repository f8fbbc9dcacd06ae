"""One architecture of `keras.applications`: made smaller, and compared.

`zoo.py` prints what comes out, `tests/structure/test_zoo.py` tests it.
"""

import contextlib
import dataclasses
import gc
import inspect
import pathlib
import tempfile
import time
from collections.abc import Collection, Iterator
from unittest import mock

import keras
import numpy as np
from keras import ops
from live import draw_vectors, enliven, scale_kernels

import kprune
from kprune.measuring import costs
from kprune.structure import channel_graph

ARCHITECTURES = sorted(
    name
    for name, member in vars(keras.applications).items()
    if inspect.isfunction(member)
)
# Others take images of 32 pixels.
SMALLEST_IMAGE = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
DIFFERENCE_BAR = 1e-9
SMALLEST_SPREAD = 1e-3
# What is left of parameters and multiply-accumulates at a sparsity of 0.5.
SIZE_BARS = (0.37, 0.33)
CONVNEXT_BARS = (0.56, 0.56)


@dataclasses.dataclass(frozen=True)
class Row:
    """What came out for one architecture at one sparsity.

    Args:
        architecture: Its name in `keras.applications`.
        sparsity: Float.
        difference: Largest difference of outputs, masked and stripped, over
            the largest output.
        spread: The same between two samples.
        nudged: The same for the masked model when its input moves by one
            rounding.
        reloaded: The same between the stripped model and its `.keras` file,
            or None if it was not saved.
        again: The same as `difference` for the stripped model, pruned again,
            or None if it was not.
        budget: The multiply-accumulates that are left by a budget of half of
            them, over that half, or None if it was not tried.
        parameters: What is left of the parameters, in parts of all.
        macs: What is left of the multiply-accumulates.
        groups: How many groups can be cut.
        channels: What part of the channels can be cut, classes not counted.
        read_seconds: How long it takes to find the groups.
        strip_seconds: How long it takes to strip.
    """

    architecture: str
    sparsity: float
    difference: float
    spread: float
    nudged: float
    reloaded: float | None
    again: float | None
    budget: float | None
    parameters: float
    macs: float
    groups: int
    channels: float
    read_seconds: float
    strip_seconds: float

    @property
    def is_small(self) -> bool:
        """Whether as much is gone as has to be at a sparsity of 0.5."""
        is_convnext = self.architecture.startswith("ConvNeXt")
        parameters, macs = CONVNEXT_BARS if is_convnext else SIZE_BARS
        return self.parameters <= parameters and self.macs <= macs

    def is_exact(self, tolerance: float = DIFFERENCE_BAR) -> bool:
        """Whether all outputs are equal, and are alive."""
        return (
            self.largest_difference <= tolerance
            and not self.reloaded
            and self.spread > SMALLEST_SPREAD
        )

    @property
    def largest_difference(self) -> float:
        """Of the model stripped once, and of the one stripped again."""
        return max(self.difference, self.again or 0.0)


def images(architecture: str, size: int) -> np.ndarray:
    """Random images of that size, or of the smallest it takes.

    Eight, since normalizations take their statistics from them. With two of
    64 pixels EfficientNetV2S, 2 x 2 pixels at its end, was so ill-conditioned
    that one rounding of the input changed its outputs by 1e-8.
    """
    size = max(size, SMALLEST_IMAGE.get(architecture, 32))
    # Some architectures divide the values of pixels by 255 or by 58.
    return np.random.default_rng(0).normal(0, 64, (8, size, size, 3))


def prunable_model(architecture: str, x: np.ndarray) -> keras.Model:
    """The architecture, prunable, its weights random."""
    build = getattr(keras.applications, architecture)
    model = build(
        weights=None, input_shape=x.shape[1:], classifier_activation=None
    )
    prunable = kprune.make_prunable(draw_vectors(model))
    del model
    gc.collect()  # a model is a cycle, and the largest takes 2.8 GB
    return prunable


def prune(prunable: keras.Model, x: np.ndarray, sparsity: float) -> None:
    """Prunes by filters and brings the signal back to life."""
    kprune.prune(prunable, sparsity, granularity="filter")
    enliven(scale_kernels(prunable), x)


def shrink(
    architecture: str,
    sparsities: list[float],
    size: int,
    used_again: Collection[float],
) -> Iterator[Row]:
    """Shrinks one architecture, one sparsity after the other.

    Args:
        architecture: Its name in `keras.applications`.
        sparsities: List of floats.
        size: Height and width of the images.
        used_again: The sparsities at which the stripped model is also saved
            and reloaded, and pruned again, and the prunable one to a budget,
            which takes half of the time.

    Yields:
        A `Row` for each sparsity.
    """
    x = images(architecture, size)
    prunable = prunable_model(architecture, x)
    parameters, macs = costs.parameters(prunable), costs.macs(prunable)
    started = time.perf_counter()
    graph = channel_graph(prunable)
    read_seconds = time.perf_counter() - started
    groups, channels = _counts(graph, prunable.output_shape[-1])
    for sparsity in sparsities:
        prune(prunable, x, sparsity)
        started = time.perf_counter()
        stripped = kprune.strip(prunable)
        strip_seconds = time.perf_counter() - started
        two = x[:2]
        expected = _outputs(prunable, two)
        outputs = _outputs(stripped, two)
        nudged = _difference(expected, _outputs(prunable, _nudged(two)))
        reloaded = again = budget = None
        if sparsity in used_again:
            reloaded = _difference(outputs, _outputs(_reloaded(stripped), two))
            gc.collect()
            again = _again(stripped, x)
            half = kprune.Budget(macs=0.5)
            kprune.prune(prunable, half, granularity="filter")
            budget = costs.macs(kprune.strip(prunable)) / (0.5 * macs)
        yield Row(
            architecture,
            sparsity,
            difference=_difference(expected, outputs),
            spread=_difference(expected[:1], expected[1:]),
            nudged=nudged,
            reloaded=reloaded,
            again=again,
            budget=budget,
            parameters=costs.parameters(stripped) / parameters,
            macs=costs.macs(stripped) / macs,
            groups=groups,
            channels=channels,
            read_seconds=read_seconds,
            strip_seconds=strip_seconds,
        )
        del stripped
        gc.collect()


def _counts(graph, classes: int) -> tuple[int, float]:
    """How many groups can be cut, and what part of the channels."""
    made = np.concatenate(
        [
            graph.groups.of_slot[binding.slots]
            for binding in graph.bindings
            if binding.role == "out"
        ]
    )
    free = made[~graph.groups.frozen[made]]
    return len(np.unique(free)), len(free) / (len(made) - classes)


def _outputs(model, x) -> np.ndarray:
    with _grouped_convolutions_without_xla():
        return ops.convert_to_numpy(model(x, training=False))


def _grouped_convolutions_without_xla():
    """TensorFlow's own convolution in groups, for the time of a call.

    Keras compiles each with XLA, whose convolutions in groups take seconds
    in float64 on a CPU: those of ConvNeXt took minutes a call.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    of_keras = keras.layers.Conv2D.convolution_op

    def convolution_op(layer, inputs, kernel):
        if layer.groups == 1:
            return of_keras(layer, inputs, kernel)
        padding = layer.padding.upper()
        return tf.nn.convolution(inputs, kernel, layer.strides, padding)

    return mock.patch.object(
        keras.layers.Conv2D, "convolution_op", convolution_op
    )


def _difference(one, other) -> float:
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return np.inf
    return float(np.abs(one - other).max() / np.abs(one).max())


def _nudged(x) -> np.ndarray:
    """The array, each element one representable number up or down."""
    up = np.random.default_rng(1).integers(2, size=x.shape)
    return np.nextafter(x, np.where(up, np.inf, -np.inf))


def _reloaded(model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        gc.collect()
        return keras.saving.load_model(f"{folder}/model.keras")


def _again(stripped, x) -> float:
    """The difference when what is left is pruned and stripped once more."""
    prunable = kprune.make_prunable(stripped)
    prune(prunable, x, 0.5)
    expected = _outputs(prunable, x[:2])
    return _difference(expected, _outputs(kprune.strip(prunable), x[:2]))


@dataclasses.dataclass(frozen=True)
class Export:
    """The `.tflite` file of a stripped model.

    Args:
        bytes: What is left of the size of the whole model's file.
        difference: Largest difference of outputs over the largest output.
        seconds: How long it took to write and check both files.
    """

    bytes: float
    difference: float
    seconds: float


def export(architecture: str, sparsity: float, size: int) -> Export:
    """Writes `.tflite` files of an architecture, whole and stripped.

    `kprune.export` lets built-in operations pass only, and checks the
    outputs.

    Args:
        architecture: Its name in `keras.applications`.
        sparsity: Float.
        size: Height and width of the images.

    Returns:
        An `Export`.

    Raises:
        ValueError: If an operation is not built in.
        RuntimeError: If the outputs differ.
    """
    x = images(architecture, size).astype(keras.config.floatx())
    prunable = prunable_model(architecture, x)
    # Without statistics of data one rounding of the input changed outputs of
    # EfficientNetV2B2 by up to 6 % in float32.
    enliven(scale_kernels(prunable), x)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        whole = kprune.export(prunable, path)
        prune(prunable, x, sparsity)
        stripped = kprune.export(prunable, path)
    scale = np.abs(_outputs(prunable, x[:2])).max()
    return Export(
        stripped.bytes / whole.bytes,
        stripped.largest_difference / scale,
        time.perf_counter() - started,
    )
