"""Sparse files on a CPU where XNNPACK's kernels for them are on."""

import itertools

import keras
import numpy as np
import pytest
from emulation import needs_emulator, outputs_without_avx
from files import on_tensorflow
from keras import layers
from models import numpy

import kprune
from kprune.exporting import litert

# The share of the largest output that rounding explains.
_ROUNDING = {None: 1e-3, "float16": 1e-2, "int8": 0.15}
_SAME = {"padding": "same"}


def _net(middle, *, zeros=0.9, channels=3, end=None, **first):
    """A start that XNNPACK knows, 1x1 convolutions, and a mean."""
    image = keras.Input((16, 16, channels))
    first = {"strides": 2, **first}
    x = image if "padding" in first else layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(8, 3, activation="relu", **first)(x)
    x = middle(x)
    outputs = x if isinstance(x, list) else [x]
    outputs[0] = (end or _mean)(outputs[0])
    model = keras.Model(image, outputs)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if not layer.weights:
            continue
        kernel = numpy(layer.kernel)
        if kernel.shape[:-2] == (1, 1):
            kernel = kernel * 2 * (generator.random(kernel.shape) >= zeros)
        layer.kernel.assign(kernel)
        layer.bias.assign(generator.normal(0.1, 0.3, layer.bias.shape))
    return model


def _mean(x):
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(_pointwise(x)))


def _two_poolings(x):
    pooled = [
        layers.GlobalAveragePooling2D()(x),
        layers.GlobalMaxPooling2D()(x),
    ]
    return layers.Dense(10)(layers.Concatenate()(pooled))


def _pointwise(x, activation="relu"):
    return layers.Conv2D(64, 1, activation=activation)(x)


def _around(layer):
    return lambda x: _pointwise(layer(_pointwise(x)))


def _squeezed(x):
    x = _pointwise(x)
    scale = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.Multiply()([x, _pointwise(scale, "sigmoid")])


def _scaled(x):
    """Between functions, as the converter makes it one with a convolution."""
    x = layers.Rescaling(0.5)(layers.Activation("hard_swish")(x))
    return layers.Activation("hard_swish")(x)


def _side(x):
    x = _pointwise(x)
    return [x, layers.Flatten()(_pointwise(x))]


def _beside_depth_to_space(x):
    aside = keras.ops.depth_to_space(layers.Conv2D(16, 1)(x), 2)
    pooled = layers.MaxPooling2D(2)(_pointwise(x))
    return [pooled, layers.MaxPooling2D(4)(aside)]


_pool = layers.MaxPooling2D(3, strides=1, **_SAME)
FASTER = {
    "plain": lambda: _net(_pointwise),
    "depthwise": lambda: _net(_around(layers.DepthwiseConv2D(3, **_SAME))),
    "residual": lambda: _net(
        _around(lambda x: layers.Add()([x, _pointwise(x)]))
    ),
    "squeezed": lambda: _net(_squeezed),
    "silu": lambda: _net(lambda x: _pointwise(x, "silu")),
}
NO_GAIN = {
    "same": lambda: _net(_around(_pool), **_SAME),
    "one_stride": lambda: _net(_around(_pool), strides=1),
    "one_channel": lambda: _net(_around(_pool), channels=1),
    "few_zeros": lambda: _net(_around(_pool), zeros=0.6),
    "pool_first": lambda: _net(_pool),
    "no_end": lambda: _net(_around(_pool), end=layers.Flatten()),
    "two_poolings": lambda: _net(_pointwise, end=_two_poolings),
}
WRONG = {
    "max_pool": lambda: _net(_around(_pool)),
    "average_pool": lambda: _net(_around(layers.AveragePooling2D(2))),
    "kernel_3x3": lambda: _net(_around(layers.Conv2D(64, 3, **_SAME))),
    "constant": lambda: _net(_around(_scaled)),
    "concatenation": lambda: _net(
        _around(lambda x: layers.Concatenate()([x, x]))
    ),
    "side_output": lambda: _net(_side),
    "depth_to_space": lambda: _net(
        _beside_depth_to_space, end=layers.Flatten()
    ),
    # The numbers are right there, their axes are not.
    "kept_axes": lambda: _net(
        _pointwise, end=layers.GlobalAveragePooling2D(keepdims=True)
    ),
}
VERDICTS = {
    **dict.fromkeys(FASTER, "faster"),
    **dict.fromkeys(NO_GAIN, "no gain"),
    **dict.fromkeys(WRONG, "wrong"),
}
OPERATORS = {
    "max_pool": "MAX_POOL_2D",
    "average_pool": "AVERAGE_POOL_2D",
    "kernel_3x3": "CONV_2D",
    "constant": "MUL",
    "concatenation": "CONCATENATION",
    "side_output": "RESHAPE",
    "depth_to_space": "MAX_POOL_2D",
    "kept_axes": "MEAN",
}


def _picture():
    """One with structure, so that another order is another result."""
    x = np.random.default_rng(0).uniform(0, 0.3, (1, 16, 16, 3))
    x[:, :, :4] += 1
    x[:, :3] += 0.5
    return x.astype("float32")


@pytest.fixture
def tried(monkeypatch):
    """Dict from the model of each sparse-encoded file to what is in it."""
    files = {}
    write = litert.write

    def kept(model, path, *arguments, sparse=False):
        write(model, path, *arguments, sparse=sparse)
        if sparse:
            files[model.name] = path.read_bytes()

    monkeypatch.setattr(litert, "write", kept)
    return files


def _export(name, path, quantize, x):
    """Writes a net; returns its own outputs, and what came of the file."""
    model = {**FASTER, **NO_GAIN, **WRONG}[name]()
    model.name = path.stem
    x = x[..., : model.input_shape[-1]]
    is_eight_bits = quantize == "int8"
    result = kprune.export(
        model,
        path,
        quantize=quantize,
        representative_data=(
            np.concatenate([x, x[:, ::-1], 0.5 * x]) if is_eight_bits else None
        ),
        sparse=True if is_eight_bits else "auto",
    )
    outputs = keras.tree.flatten(model(x))
    return [np.array(output) for output in outputs], result


def _difference(received, expected):
    """Of the largest output."""
    return max(
        np.abs(x - y).max() / np.abs(y).max()
        for x, y in zip(received, expected)
    )


# Of each verdict one or more, in each precision.
QUANTIZED = ["plain", "squeezed", "same", "few_zeros", "max_pool"]


@on_tensorflow
@needs_emulator
def test_every_file_is_right_without_avx(tmp_path, tried):
    x = _picture()
    cases = [(name, None) for name in VERDICTS]
    cases += itertools.product(QUANTIZED, ("float16", "int8"))
    made = {}
    for name, quantize in cases:
        path = tmp_path / f"{name}-{quantize}.tflite"
        made[name, quantize] = path, *_export(name, path, quantize, x)
    for stem, file in tried.items():
        (tmp_path / f"{stem}-tried.tflite").write_bytes(file)
    received = outputs_without_avx(tmp_path, x)
    for (name, quantize), (path, expected, result) in made.items():
        rounding = _ROUNDING[quantize]
        assert _difference(received[path.stem], expected) < rounding, path
        verdict = "no gain" if quantize == "int8" else VERDICTS[name]
        is_wrong = verdict == "wrong"
        if quantize != "int8":
            assert result.is_sparse != is_wrong, path
            assert ("compute wrong numbers" in result.note) == is_wrong, path
        # What was tried and not written would have been wrong.
        sparse = path.with_stem(f"{path.stem}-tried")
        check = kprune.check_sparse_inference(sparse)
        assert check.verdict == verdict, path
        difference = _difference(received[sparse.stem], expected)
        assert (difference > rounding) == is_wrong, path
        if is_wrong:
            assert check.operator.startswith(OPERATORS[name]), path
            assert "WRONG NUMBERS" in str(check)
