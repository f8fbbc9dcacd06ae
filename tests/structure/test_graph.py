"""The channel graph: units, reasons, and rules of users."""

import keras
import numpy as np
import pytest
from keras import layers
from models import assert_equal_outputs, convnet, numpy

import kprune
from kprune.structure import channel_graph, register_rule, rules


def test_the_graph_in_words():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(2, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(1, name="logits"),
        ]
    )
    lines = str(channel_graph(model)).splitlines()
    assert lines[0] == (
        "unit 0: conv.kernel out 0, conv.bias 0, logits.kernel in 0, "
        "logits.kernel in 2, logits.kernel in 4, logits.kernel in 6"
    )
    assert lines[2].startswith("unit 2 (stays: it is an output of the model")


def _reasons(*stack, shape=(8, 8, 3)):
    first = layers.Conv2D(4, 3, name="first")
    x = inputs = keras.Input(shape)
    x = first(x)
    for layer in stack:
        x = layer(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    return channel_graph(model).frozen_reasons(first)


class Mixing(layers.Layer):
    """A layer of a user that has no rule."""

    def call(self, x):
        return keras.ops.flip(x, axis=-1)


class OtherDense(layers.Dense):
    """A Dense that does something else with its kernel."""

    def call(self, x):
        return keras.ops.matmul(x, self.kernel**2)


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        ([layers.LayerNormalization(name="ln")], "'ln' (LayerNormalization)"),
        ([Mixing(name="mix")], "'mix' (Mixing) has no rule"),
        ([OtherDense(4, name="other")], "'other' (OtherDense) has no rule"),
        ([layers.Activation("softmax", name="sm")], "'softmax' of 'sm'"),
        ([layers.Conv2D(4, 3, groups=2, name="g")], "grouped convolution"),
        ([layers.BatchNormalization(axis=1, name="bn")], "'bn' averages over"),
        ([layers.ReLU(), layers.MaxPooling2D()], None),
    ],
)
def test_what_has_no_rule_freezes_with_a_reason(stack, reason):
    found = _reasons(*stack)
    if reason is None:
        assert found == []
    else:
        assert len(found) == 1 and reason in found[0]


def test_a_subclass_with_the_same_call_keeps_the_rule():
    class Named(layers.BatchNormalization):
        pass

    assert _reasons(Named()) == []


def test_merging_with_the_input_freezes():
    inputs = keras.Input((8, 8, 4))
    conv = layers.Conv2D(4, 1)
    x = layers.Add(name="sum")([inputs, conv(inputs)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    (reason,) = channel_graph(model).frozen_reasons(conv)
    assert "'sum' merges it with a tensor that cannot be cut" in reason


def test_a_rule_of_a_user(float64):
    class Scale(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(name="scale", shape=(shape[-1],))

        def call(self, x):
            return x * self.scale

    try:

        @register_rule(Scale)
        def scale(walk, call):
            (x,) = call.inputs
            last = len(x.shape) - 1
            channels = x.axes[last]
            walk.bind(call.layer, call.layer.scale, 0, channels.slots)
            return [{last: channels.varying()}]

        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(6, 3),
                Scale(),
                layers.Conv2D(4, 3),
                layers.Flatten(),
                layers.Dense(2),
            ]
        )
        prunable = kprune.make_prunable(model)
        kprune.prune(prunable, 0.5, granularity="filter")
        stripped = kprune.strip(prunable)
        assert stripped.layers[1].scale.shape == (3,)
        x = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
        assert_equal_outputs(prunable, stripped, x)
    finally:
        rules._RULES.pop(Scale)


def test_a_rule_that_forgets_a_variable_is_named():
    class Forgotten(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(name="scale", shape=(shape[-1],))

        def call(self, x):
            return x * self.scale

    try:
        register_rule(Forgotten)(lambda walk, call: [call.inputs[0].axes])
        model = keras.Sequential(
            [
                keras.Input((3,)),
                kprune.PrunableDense(4, granularity="filter"),
                Forgotten(name="forgotten"),
                layers.Dense(2),
            ]
        )
        kernel = numpy(model.layers[2].kernel)
        kernel[:2] = 0
        model.layers[2].kernel.assign(kernel)
        with pytest.raises(ValueError, match="scale.*rule of Forgotten"):
            kprune.strip(model)
    finally:
        rules._RULES.pop(Forgotten)


def test_large_models_are_quick_to_print_and_complete():
    graph = channel_graph(convnet())
    assert len(str(graph).splitlines()) == len(graph.units) == 8 + 16 + 42
