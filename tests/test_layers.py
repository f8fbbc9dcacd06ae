"""Prunable layers: equal to the plain ones, and what masks do."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import compiled, convnet, numpy

import kprune
from kprune.prunable import prunable_layers


def _sequence():
    generator = np.random.default_rng(0)
    return generator.normal(size=(4, 6, 8)).astype("float32")


def _image():
    generator = np.random.default_rng(0)
    return generator.normal(size=(4, 8, 8, 4)).astype("float32")


def _twins(make, x):
    """A model with the wrapped layer and one with the plain, equal weights."""
    plain = keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype), make()])
    wrapped = keras.Sequential(
        [keras.Input(x.shape[1:], dtype=x.dtype), kprune.PrunableLayer(make())]
    )
    wrapped.layers[0].layer.set_weights(plain.layers[0].get_weights())
    for model in (plain, wrapped):
        model.compile("sgd", "mse")
    return plain, wrapped


def test_several_inputs():
    inputs = keras.Input((6, 8))
    attention = kprune.PrunableLayer(layers.MultiHeadAttention(2, 4))
    model = keras.Model(inputs, attention(inputs, inputs))
    assert set(attention.kernels) == {
        "query/kernel",
        "key/kernel",
        "value/kernel",
        "attention_output/kernel",
    }
    kprune.prune(model, 0.5)
    assert attention.sparsity == 0.5
    assert numpy(model(_sequence())).shape == (4, 6, 8)


def test_both_forms_of_call():
    short = kprune.PrunableDense(3, activation="relu", name="hidden")
    long = kprune.PrunableDense(
        layers.Dense(3, activation="relu", name="hidden")
    )
    assert short.name == long.name == "hidden"
    assert short.layer.get_config() == long.layer.get_config()
    assert kprune.PrunableDense(units=3).layer.units == 3
    conv = kprune.PrunableConv2D(filters=4, kernel_size=(1, 3))
    assert conv.layer.filters == 4 and conv.layer.kernel_size == (1, 3)
    conv = kprune.PrunableConv2D(4, 3, padding="same", name="conv")
    assert conv.layer.kernel_size == (3, 3) and conv.layer.padding == "same"
    assert conv.layer.name == "conv"


def test_default_granularity():
    assert kprune.PrunableDense(3).granularity == "unstructured"
    assert kprune.PrunableConv2D(3, 3).granularity == "filter"
    depthwise = kprune.PrunableLayer(layers.DepthwiseConv2D(3))
    assert depthwise.granularity == "filter"
    chosen = kprune.PrunableConv2D(3, 3, granularity="unstructured")
    assert chosen.granularity == "unstructured"


def test_masks_are_small_non_trainable_variables():
    layer = kprune.PrunableDense(3)
    layer.build((None, 4))
    assert list(layer.masks) == ["kernel", "bias"]
    for name, variable in (
        ("kernel", layer.layer.kernel),
        ("bias", layer.layer.bias),
    ):
        mask = layer.masks[name]
        assert isinstance(mask, keras.Variable) and not mask.trainable
        assert mask.shape == variable.shape
        assert numpy(mask).dtype.itemsize == 1 and numpy(mask).all()
    assert len(layer.trainable_variables) == 2
    # Beside the masks one bit a weight says which are pruned for good.
    others = layer.non_trainable_variables[2:]
    assert [(v.dtype, tuple(v.shape)) for v in others] == [("uint8", (2,))]


def test_masked_weights_do_not_count_and_do_not_train():
    layer = kprune.PrunableDense(3, use_bias=False)
    model = keras.Sequential([keras.Input((4,)), layer])
    mask = np.ones((4, 3), bool)
    mask[1, 2] = mask[3, 0] = False
    layer.masks["kernel"].assign(mask)
    before = numpy(layer.layer.kernel)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    np.testing.assert_allclose(
        numpy(model(x)), x @ (before * mask), rtol=1e-5, atol=1e-6
    )
    assert layer.sparsity == 2 / 12
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(x, np.ones((8, 3), "float32"))
    after = numpy(layer.layer.kernel)
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).all()
    layer.apply_masks()
    assert (numpy(layer.layer.kernel)[~mask] == 0).all()
    np.testing.assert_array_equal(numpy(layer.layer.kernel)[mask], after[mask])


def test_counts_and_names_read_well():
    model = convnet()
    plain = layers.Dense(10)
    plain.build((None, 32))
    assert model.layers[-1].count_params() == plain.count_params() == 330
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(map(str, lines))
    assert "conv1" in text and "PrunableConv2D" in text
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert f"Trainable params: {trainable:,}" in text


def test_config_is_complete():
    for kind in (
        kprune.PrunableLayer,
        kprune.PrunableDense,
        kprune.PrunableConv2D,
    ):
        inner = (
            layers.Conv2D(2, 3)
            if kind is kprune.PrunableConv2D
            else layers.Dense(2)
        )
        layer = kind(inner, granularity=kprune.granularities.NM(1, 4))
        config = layer.get_config()
        arguments = set(inspect.signature(kind.__init__).parameters)
        arguments -= {"self", "args", "kwargs"}
        assert arguments <= set(config)
        copy = kind.from_config(config)
        assert copy.granularity == kprune.granularities.NM(1, 4)
        assert copy.name == layer.name
        assert copy.layer.get_config() == inner.get_config()


def test_saved_model_reloads_with_masks(tmp_path, digits):
    x, y = digits
    model = compiled(convnet())
    model.fit(
        x[:64],
        y[:64],
        epochs=2,
        verbose=0,
        callbacks=[kprune.PruningScheduler(0.6)],
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x[:8])), numpy(model(x[:8])))
    for one, other in zip(model.layers, loaded.layers, strict=True):
        if isinstance(one, kprune.PrunableLayer):
            assert one.sparsity == other.sparsity > 0
            for name, mask in one.masks.items():
                np.testing.assert_array_equal(
                    numpy(other.masks[name]), numpy(mask)
                )
            np.testing.assert_array_equal(
                numpy(other.layer.kernel), numpy(one.layer.kernel)
            )


def test_an_unbuilt_model_reloads_with_masks(tmp_path):
    model = keras.Sequential([kprune.PrunableDense(3), kprune.PrunableDense(2)])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model(x)
    kprune.prune(model, 0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    assert kprune.sparsity(loaded) == 0.5


def test_mixed_precision():
    x = _image()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        plain, wrapped = _twins(lambda: layers.Conv2D(6, 3), x)
    finally:
        keras.config.set_dtype_policy("float32")
    output = wrapped(x)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    kernel = wrapped.layers[0].layer.kernel
    assert keras.backend.standardize_dtype(kernel.dtype) == "float32"
    np.testing.assert_array_equal(
        numpy(ops.cast(output, "float32")), numpy(ops.cast(plain(x), "float32"))
    )


def test_implicit_masks_reach_the_wrapped_layer():
    tokens = np.array([[3, 4, 0, 0], [5, 0, 0, 0]])
    embed = layers.Embedding(10, 4, mask_zero=True)
    plain, wrapped = layers.LSTM(3), layers.LSTM(3)
    plain(embed(tokens))
    wrapper = kprune.PrunableLayer(wrapped)
    wrapper(embed(tokens))
    wrapped.set_weights(plain.get_weights())
    np.testing.assert_array_equal(
        numpy(wrapper(embed(tokens))), numpy(plain(embed(tokens)))
    )
    unmasked = embed(tokens)
    keras_mask = getattr(unmasked, "_keras_mask", None)
    assert keras_mask is not None


@pytest.mark.parametrize("change", ["enable_lora", "quantize"])
def test_a_layer_that_changed_since_it_was_wrapped_is_named(change):
    model = keras.Sequential(
        [keras.Input((8,)), kprune.PrunableDense(4, name="changed")]
    )
    kprune.prune(model, 0.5)
    # What the wrapper keeps from this call must not outlive the change.
    model(np.ones((1, 8), "float32"))
    if change == "quantize":
        model.layers[0].layer.quantize("int8")
    else:
        model.layers[0].layer.enable_lora(2)
    for use in (
        lambda: model(np.ones((1, 8), "float32")),
        lambda: kprune.prune(model, 0.6),
        lambda: kprune.strip(model),
        lambda: kprune.strip(model, compact=False),
    ):
        with pytest.raises(ValueError, match="'changed' has changed since"):
            use()


def test_a_layer_cannot_be_exchanged():
    wrapper = kprune.PrunableDense(4)
    wrapper.build((None, 8))
    with pytest.raises(ValueError, match="already built"):
        wrapper.layer = layers.Dense(3)
    other = layers.Dense(5)
    other.build((None, 8))
    object.__setattr__(wrapper, "layer", other)
    for use in (
        lambda: wrapper(np.ones((1, 8))),
        lambda: kprune.prune(keras.Sequential([wrapper]), 0.5),
    ):
        with pytest.raises(ValueError, match=r"has changed.*'kernel', 'bias'"):
            use()


@pytest.mark.parametrize("change", ["enable_lora", "quantize", "normalize"])
def test_layers_without_kernels_of_their_own_are_left_alone(change):
    first = layers.Dense(4, name="changed")
    if change == "normalize":
        first = layers.SpectralNormalization(first, name="changed")
    model = keras.Sequential([keras.Input((8,)), first, layers.Dense(2)])
    if change == "quantize":
        first.quantize("int8")
    elif change == "enable_lora":
        first.enable_lora(2)
    with pytest.raises(
        ValueError, match="'changed'.*(LoRA|quantized|spectral)"
    ):
        kprune.PrunableLayer(first)
    prunable = kprune.make_prunable(model)
    names = [layer.name for layer in prunable.layers]
    assert names == ["changed", model.layers[1].name]
    assert prunable_layers(prunable) == [prunable.layers[1]]


class NoWeights(layers.Layer):
    """A layer of a user that has nothing to prune."""

    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kprune.PrunableLayer("dense"), "wraps a Keras layer"),
        (lambda: kprune.PrunableDense("64"), "wraps a Keras layer"),
        (lambda: kprune.PrunableDense(None), "Received: None"),
        (
            lambda: kprune.PrunableLayer(kprune.PrunableDense(3)),
            "prunable already: 'dense'",
        ),
        (
            lambda: kprune.PrunableConv2D(layers.Dense(3)),
            "wraps a `keras.layers.Conv2D`.*of type Dense",
        ),
        (
            lambda: kprune.PrunableDense(layers.Conv2D(3, 3)),
            "wraps a `keras.layers.Dense`.*of type Conv2D",
        ),
        (
            lambda: kprune.PrunableLayer(keras.Sequential([layers.Dense(3)])),
            "make_prunable",
        ),
        (
            lambda: kprune.PrunableLayer(NoWeights())(np.ones((1, 2))),
            "'no_weights'.*has no kernels",
        ),
        (
            lambda: kprune.PrunableLayer(layers.Flatten())(np.ones((1, 2))),
            "has no kernels",
        ),
        (
            lambda: layers.Bidirectional(kprune.PrunableLayer(layers.LSTM(3))),
            r"hold a prunable.*PrunableLayer\(keras.layers.Bidirectional",
        ),
        (
            lambda: kprune.PrunableDense(3, granularity="channels"),
            r"Unknown granularity.*\['block', 'filter', 'nm', 'unstructured'\]",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@keras.saving.register_keras_serializable(package="kprune_tests")
class Own(layers.Layer):
    """A product with a matrix whose name says nothing."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], 8), name="w")

    def call(self, inputs):
        return ops.matmul(inputs, self.w)


def test_a_frozen_layer_of_ones_own_keeps_its_masks(tmp_path):
    model = keras.Sequential(
        [keras.Input((20,)), kprune.PrunableLayer(Own()), layers.Dense(3)]
    )
    kprune.prune(model, 0.5)
    x = np.random.default_rng(0).normal(size=(4, 20)).astype("float32")
    expected = numpy(model(x))
    model.trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for frozen in (model, loaded, kprune.strip(model)):
        np.testing.assert_allclose(numpy(frozen(x)), expected, atol=1e-6)
        assert kprune.sparsity(frozen) == pytest.approx(80 / 184)
    wrapped = kprune.PrunableLayer(loaded.layers[0].layer)
    assert list(wrapped.masks) == ["w"]


def test_a_layer_wrapped_while_frozen_has_masks_for_all():
    layer = Own()
    layer.build((None, 20))
    layer.trainable = False
    wrapped = kprune.PrunableLayer(layer)
    layer.trainable = True
    model = keras.Sequential([keras.Input((20,)), wrapped])
    assert kprune.sparsity(kprune.prune(model, 0.5)) == 0.5


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch modules in Keras"
)
def test_torch_modules_are_left_alone_and_named():
    import torch

    class Holder(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.linear = torch.nn.Linear(20, 8)

        def call(self, inputs):
            return self.linear(inputs)

    with pytest.raises(ValueError, match="computes with its own variables"):
        kprune.PrunableLayer(layers.TorchModuleWrapper(torch.nn.Linear(20, 8)))(
            np.ones((2, 20), "float32")
        )
    inputs = keras.Input((20,))
    x = Holder()(inputs)
    model = keras.Model(inputs, kprune.PrunableDense(3)(x))
    with pytest.raises(ValueError, match="computes with its own variables"):
        kprune.PrunableLayer(model.layers[1])


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's checkpoints"
)
def test_masks_are_in_a_checkpoint_of_tensorflow(tmp_path):
    import tensorflow as tf

    def net():
        return keras.Sequential(
            [keras.Input((20,)), kprune.PrunableDense(8), layers.Dense(3)]
        )

    model, other = kprune.prune(net(), 0.5), net()
    model.layers[0].apply_masks()
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    masks = [net.layers[0].masks["kernel"] for net in (model, other)]
    np.testing.assert_array_equal(*map(numpy, masks))
    assert not numpy(masks[1]).all()
    gone = other.layers[0].pruned_for_good("kernel")
    np.testing.assert_array_equal(gone, ~numpy(masks[0]))
    assert len({id(v) for v in model.weights}) == len(model.weights) == 7


@pytest.mark.parametrize("where", ["wrapper", "layer", "both"])
def test_recomputed_activations_train_as_kept_ones(where):
    def net(scope):
        keras.utils.set_random_seed(0)
        with scope("layer"):
            hidden = layers.Dense(16, activation="relu")
        with scope("wrapper"):
            hidden = kprune.PrunableLayer(hidden)
        model = keras.Sequential(
            [keras.Input((20,)), hidden, kprune.PrunableDense(3)]
        )
        # Keras itself recomputes nothing in a graph of TensorFlow.
        eager = keras.backend.backend() == "tensorflow"
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager)
        return kprune.prune(model, 0.5)

    def recomputing(part):
        is_in_it = where in (part, "both")
        return keras.RematScope("full" if is_in_it else None)

    x = np.random.default_rng(0).normal(size=(32, 20)).astype("float32")
    kernels = []
    for scope in (recomputing, lambda part: keras.RematScope(None)):
        model = net(scope)
        hidden = model.layers[0]
        before = numpy(hidden.layer.kernel).copy()
        model.fit(x, x[:, :3], epochs=2, shuffle=False, verbose=0)
        kernels.append(numpy(hidden.layer.kernel))
        assert np.abs(kernels[-1] - before).max() > 1e-3
        kept = numpy(hidden.masks["kernel"])
        np.testing.assert_array_equal(kernels[-1][~kept], before[~kept])
    np.testing.assert_allclose(*kernels, atol=1e-6)
