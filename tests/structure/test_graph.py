"""The channel graph: groups, reasons, and rules of users."""

import keras
import numpy as np
import pytest
from keras import layers
from models import assert_equal_outputs, convnet, numpy

import kprune
from kprune.structure import channel_graph, register_rule
from kprune.structure.rules import registry


def test_the_graph_in_words():
    inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 3, name="first")(inputs)
    y = layers.BatchNormalization(name="bn")(x)
    y = layers.Conv2D(2, 1, name="second")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.Dense(1, name="logits")(layers.Flatten()(x))
    lines = str(channel_graph(keras.Model(inputs, x))).splitlines()
    assert lines[0] == (
        "group 0: first.kernel out 0, bn, second.kernel out 0, "
        "second.kernel in 0, add, logits.kernel in 0, logits.kernel in 2, "
        "logits.kernel in 4, logits.kernel in 6"
    )
    assert lines[1].startswith("group 1: first.kernel out 1, bn,")
    assert lines[2].startswith("group 2 (stays: it is an output of the model")
    assert lines[2].endswith("): logits.kernel out 0")


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
        registry._RULES.pop(Scale)


def _length(walk, call):
    (x,) = call.inputs
    return [{1: x.axes[1].take(np.arange(2))}]


def _number(walk, call):
    return [*call.inputs[0].axes, {}]


def _kind(walk, call):
    return [call.inputs[0]]


def _binding(walk, call):
    (x,) = call.inputs
    walk.bind(call.layer, call.layer.scale, 0, x.axes[1].slots[:2])
    return [x.axes]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (_length, "`_length` of Scaled.*2 channels for axis 1.*'scaled'"),
        (_number, "`_number` of Scaled must return a list of 1 dicts"),
        (_kind, "`_kind` of Scaled.*Received: Tensor"),
        (_binding, "2 slots to axis 0 of .*scaled/scale'.*rule of Scaled"),
    ],
)
def test_a_rule_that_is_wrong_is_named(rule, message):
    class Scaled(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(name="scale", shape=(shape[-1],))

        def call(self, x):
            return x * self.scale

    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4),
            Scaled(name="scaled"),
            layers.Dense(2),
        ]
    )
    register_rule(Scaled)(rule)
    try:
        with pytest.raises(ValueError, match=message):
            channel_graph(model)
    finally:
        registry._RULES.pop(Scaled)


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
        registry._RULES.pop(Forgotten)


def test_large_models_are_quick_to_print_and_complete():
    graph = channel_graph(convnet())
    assert len(str(graph).splitlines()) == len(graph.groups) == 8 + 16 + 42
