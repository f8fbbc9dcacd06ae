"""check_sparse_inference: one file that passes, and one for every rule."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import kprune

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the files are the same, and are written faster here",
)


def _first(x, padding="valid", kernel_size=3, strides=2):
    if padding == "valid":
        x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(
        16, kernel_size, strides=strides, padding=padding, name="first"
    )(x)
    return layers.ReLU(6.0)(x)


def _block(x, strides=1, name="spatial", **options):
    """A depthwise and a 1x1 convolution, with what is added to it."""
    options = {"kernel_size": 3, "padding": "same", **options}
    if strides == 2 and options["padding"] == "valid":
        x = layers.ZeroPadding2D(options["kernel_size"] // 2)(x)
    y = layers.DepthwiseConv2D(strides=strides, name=name, **options)(x)
    y = layers.Activation("hard_swish")(y)
    y = layers.Conv2D(64, 1)(y)
    return layers.Add()([y, layers.Conv2D(64, 1)(y)])


def _last(x):
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


def _third(x):
    return _block(x, name="third")


def _net(first=_first, middle=_third, last=_last, channels=3):
    inputs = keras.Input((16, 16, channels))
    x = _block(first(inputs), strides=2, padding="valid", name="second")
    return keras.Model(inputs, last(middle(x)))


def _check(path, model, zeros=0.8, dense_zeros=0.8, **options):
    generator = np.random.default_rng(0)
    for layer in model.layers:
        is_pointwise = getattr(layer, "kernel_size", None) == (1, 1)
        share = dense_zeros if isinstance(layer, layers.Dense) else zeros
        if is_pointwise or isinstance(layer, layers.Dense):
            kept = generator.random(layer.kernel.shape) >= share
            layer.kernel.assign(np.asarray(layer.kernel) * kept)
    kprune.export(model, path / "net.tflite", **options)
    return kprune.check_sparse_inference(path / "net.tflite")


def _all_that_is_supported(x):
    x = _third(x)
    x = _block(x, 2, padding="valid", kernel_size=5, name="more")
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    scale = layers.Conv2D(64, 1, activation="sigmoid")(pooled)
    return layers.Multiply()([x, scale])


def test_a_net_that_keeps_the_rules(tmp_path):
    check = _check(tmp_path, _net(middle=_all_that_is_supported))
    assert check.is_eligible, check
    assert check.verdict == "faster"
    assert check.operator == check.reason == ""
    assert str(check).endswith(": faster")


def test_half_precision_is_no_obstacle(tmp_path):
    assert _check(tmp_path, _net(), quantize="float16").is_eligible


def test_what_comes_before_and_behind_does_not_matter(tmp_path):
    def first(x):
        return _first(layers.MaxPooling2D(1)(x))

    def last(x):
        x = layers.GlobalAveragePooling2D()(x)
        return layers.Softmax()(layers.Concatenate()([x, x]))

    assert _check(tmp_path, _net(first=first, last=last)).is_eligible


def test_depth_to_space_ends_it_as_well(tmp_path):
    model = _net(last=lambda x: keras.ops.depth_to_space(x, 2))
    assert _check(tmp_path, model).is_eligible
    # What follows no longer counts, and is none of a kind that may be there.
    model = _net(middle=lambda x: keras.ops.depth_to_space(_third(x), 2))
    assert _check(tmp_path, model).is_eligible


@pytest.mark.parametrize(
    ("changes", "operator", "reason"),
    [
        (
            {"first": lambda x: _first(x, "same")},
            "CONV_2D",
            r"'same' with stride 2.*`ZeroPadding2D\(1\)`",
        ),
        (
            {"first": lambda x: _first(x, kernel_size=5)},
            "CONV_2D",
            r"size 5x5, stride \(2, 2\) and 3 input channels",
        ),
        (
            {"first": lambda x: _first(x, strides=1)},
            "CONV_2D",
            r"size 3x3, stride \(1, 1\) and 3 input channels",
        ),
        ({"channels": 4}, "CONV_2D", "4 input channels"),
        (
            {"first": lambda x: layers.Conv2D(16, 1)(x)},
            "CONV_2D",
            "reads an input of the model",
        ),
        (
            {"middle": lambda x: _block(x, 2)},
            "DEPTHWISE_CONV_2D",
            r"'same' with stride 2.*`ZeroPadding2D\(1\)`",
        ),
        (
            {"middle": lambda x: _block(x, padding="valid")},
            "DEPTHWISE_CONV_2D",
            r"padded by \[0, 0, 0, 0\]",
        ),
        (
            {"middle": lambda x: _block(x, kernel_size=7)},
            "DEPTHWISE_CONV_2D",
            "3x3 or 5x5, not 7x7",
        ),
        (
            {"middle": lambda x: _block(x, depth_multiplier=2)},
            "DEPTHWISE_CONV_2D",
            "depth multiplier is 2",
        ),
        (
            {"middle": lambda x: _block(x, 3, padding="valid")},
            "DEPTHWISE_CONV_2D",
            "stride is neither 1 nor 2",
        ),
        (
            {"middle": lambda x: layers.Conv2D(8, 3, padding="same")(x)},
            "CONV_2D",
            r"size 3x3, stride \(1, 1\) and 64 input channels",
        ),
        (
            {"middle": lambda x: layers.Conv2D(8, 1, strides=2)(x)},
            "CONV_2D",
            "must have stride 1",
        ),
        (
            {
                "middle": lambda x: layers.Conv2D(8, 1)(
                    layers.ZeroPadding2D()(x)
                )
            },
            "CONV_2D",
            "must not be padded",
        ),
        (
            {"middle": lambda x: layers.Conv2D(8, 1, groups=2)(x)},
            "CONV_2D",
            "groups",
        ),
        (
            {"middle": lambda x: layers.MaxPooling2D()(x)},
            "MAX_POOL_2D",
            "not supported",
        ),
        (
            {"middle": lambda x: layers.Concatenate()([x, x])},
            "CONCATENATION",
            "not supported",
        ),
        (
            {"middle": lambda x: layers.Rescaling(0.5)(x)},
            "MUL",
            "constant operand",
        ),
        (
            {"middle": lambda x: layers.Dense(8)(x)},
            "FULLY_CONNECTED",
            "on images",
        ),
        (
            {"last": lambda x: layers.Flatten()(layers.MaxPooling2D()(x))},
            "",
            "no MEAN over height and width",
        ),
        (
            {"last": lambda x: keras.ops.mean(x, axis=1)},
            "MEAN",
            "not the mean over height and width",
        ),
        (
            {"last": lambda x: [_last(x), x]},
            "ADD",
            "an output of the model",
        ),
        (
            {"last": lambda x: [_last(x), layers.MaxPooling2D()(x)]},
            "MAX_POOL_2D",
            "not supported",
        ),
    ],
)
def test_rules_of_the_graph(tmp_path, changes, operator, reason):
    check = _check(tmp_path, _net(**changes), sparse=False)
    assert not check.is_eligible
    assert check.operator.split(" ")[0] == operator
    with pytest.raises(ValueError, match=reason):
        raise ValueError(check.reason)
    assert check.verdict == "no gain"
    assert f": no gain. {check.operator}" in str(check)


def test_the_operator_is_named_by_its_layer(tmp_path):
    model = _net(first=lambda x: _first(x, "same"))
    check = _check(tmp_path, model, sparse=False)
    assert "first" in check.operator
    assert json.loads(json.dumps(check.to_dict())) == check.to_dict()


@pytest.mark.parametrize(
    ("options", "operator", "reason"),
    [
        ({"zeros": 0.5}, "CONV_2D", "weights of 1x1 convolutions are zeros"),
        ({"dense_zeros": 0.0, "zeros": 0.68}, "FULLY_CONNECTED", "Dense"),
        ({"sparse": False}, "CONV_2D", "no weights are sparse-encoded"),
        ({"quantize": "dynamic"}, "CONV_2D", "computes with INT8"),
        (
            {
                "quantize": "int8",
                "representative_data": np.ones((4, 16, 16, 3), "float32"),
            },
            "",
            "computes with INT8",
        ),
    ],
)
def test_rules_of_the_weights(tmp_path, options, operator, reason):
    check = _check(tmp_path, _net(), **options)
    assert not check.is_eligible
    assert check.operator.startswith(operator) and check.operator
    assert reason in check.reason


@pytest.mark.slow
def test_a_net_of_keras_applications_breaks_a_rule(tmp_path):
    model = keras.applications.MobileNetV2(
        (64, 64, 3), alpha=0.35, weights=None
    )
    check = _check(tmp_path, model, sparse=False)
    assert check.operator.startswith("CONV_2D")
    assert "'same' with stride 2" in check.reason


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        kprune.check_sparse_inference(tmp_path / "none.tflite")
