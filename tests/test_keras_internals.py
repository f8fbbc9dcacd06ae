"""Pins the private attributes of Keras that kprune reads."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune import keras_internals
from kprune.keras_internals import sublayers


def test_calls_of_a_functional_model_come_in_order():
    inputs = keras.Input((4,), name="first")
    dense = layers.Dense(4)
    x = dense(inputs)
    y = layers.Add()([dense(x), x])
    model = keras.Model({"first": inputs}, [y, x])
    calls = keras_internals.calls(model)
    assert [type(call.operation).__name__ for call in calls] == [
        "Dense",
        "Dense",
        "Add",
    ]
    assert calls[2].inputs[1] is x and calls[2].outputs[0] is y
    args, kwargs = calls[2].fill_in({id(t): 1 for t in calls[2].inputs})
    assert args == ([1, 1],) and kwargs == {}
    assert set(keras_internals.inputs_struct(model)) == {"first"}
    assert keras_internals.outputs_struct(model)[0] is y
    assert keras_internals.input_layer(inputs).name == "first"


def test_sequential_models():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert keras_internals.has_graph(model)
    assert len(keras_internals.calls(model)) == 1
    assert not keras_internals.has_graph(keras.Sequential([layers.Dense(2)]))
    assert not keras_internals.has_graph(layers.Dense(2))


def test_masks_of_symbolic_tensors():
    inputs = keras.Input((4,))
    assert not keras_internals.has_mask(inputs)
    masked = layers.Embedding(3, 2, mask_zero=True)(inputs)
    assert keras_internals.has_mask(masked)
    assert keras_internals.has_mask(layers.LayerNormalization()(masked))


def test_sublayers_at_any_depth():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(3)])
    found = sublayers(outer)
    assert inner.layers[0] in found and outer.layers[1] in found
    assert len(found) == len(set(map(id, found)))


def test_the_projections_of_attention_layers():
    x = keras.Input((3, 4))
    for layer in (
        layers.MultiHeadAttention(2, 5),
        layers.GroupQueryAttention(5, 2, 1),
    ):
        layer(x, x)
        found = keras_internals.attention_projections(layer)
        assert set(found) == {"query", "key", "value", "output"}
        assert found["query"].kernel.shape == (4, 2, 5)
        assert found["output"].kernel.shape == (2, 5, 4)
    gated = layers.MultiHeadAttention(2, 5, use_gate=True)
    gated(x, x)
    found = keras_internals.attention_projections(gated)
    assert found["gate"].kernel.shape == (4, 2, 5)


def test_layers_that_only_applications_have():
    scale = keras_internals.application_layer("LayerScale")(1e-6, 4)
    scale.build((None, 4))
    assert [id(v) for v in scale.weights] == [id(scale.gamma)]
    assert scale.get_config()["projection_dim"] == 4
    drop = keras_internals.application_layer("StochasticDepth")(0.5)
    x = keras.ops.ones((3, 2))
    assert float(drop(x)[0, 0]) == 1
    add = keras_internals.application_layer("CustomScaleLayer")(0.5)
    assert float(add([x, x])[0, 0]) == 1.5


def test_cells_of_convolutional_recurrent_layers():
    for layer in (layers.ConvLSTM1D(1, 1), layers.ConvLSTM2D(1, 1)):
        assert type(layer.cell) is keras_internals.convolutional_cell()


def test_classes_of_their_own():
    class Own(keras.Model):
        pass

    inputs = keras.Input((2,))
    assert not keras_internals.is_custom_class(keras.Model(inputs, inputs))
    assert keras_internals.is_custom_class(Own())


def test_classes_of_operations():
    x = keras.Input((4, 3))
    nodes = [keras.ops.transpose(x), x + 1, keras.activations.relu(x, 0.1)]
    assert keras_internals.operation_classes(
        "Transpose", "Add", "ReLU"
    ) == tuple(
        type(keras_internals.calls(keras.Model(x, node))[-1].operation)
        for node in nodes
    )


def test_the_output_shape_of_a_lambda():
    layer = layers.Lambda(lambda x: x[:, :3], output_shape=(3,))
    assert keras_internals.lambda_output_shape(layer) == (3,)
    layer = layers.Lambda(lambda x: x)
    assert keras_internals.lambda_output_shape(layer) is None


def test_attributes_without_what_keras_keeps():
    class Own(layers.Layer):
        def __init__(self):
            super().__init__()
            self.one = layers.Dense(1)
            self.more = [layers.Dense(2)]

    layer = Own()
    found = keras_internals.attributes(layer)
    assert found["one"] is layer.one and found["more"][0] is layer.more[0]
    lists = [value for value in found.values() if isinstance(value, list)]
    assert [items for items in lists if layer.one in items] == []


def test_what_a_layer_was_made_with():
    class Own(layers.Layer):
        def __init__(self, size, rate=0.5, **kwargs):
            super().__init__(**kwargs)

    known = keras_internals.constructor_arguments
    assert known(Own(3, name="own")) == {"size": 3, "rate": 0.5}
    assert known(Own(np.zeros(2))) is None


def test_what_was_made_to_train():
    layer = layers.BatchNormalization()
    layer.build((None, 3))
    layer.trainable = False
    found = keras_internals.made_to_train(layer)
    assert [v.name for v in found] == ["gamma", "beta"]


def test_scopes_are_shared():
    class Own(layers.Layer):
        def build(self, shape):
            self.first = layers.Dense(1, name="first")
            self.first.build(shape)

    own = Own(name="own")
    own.build((None, 3))
    other = layers.Dense(1, name="other")
    keras_internals.share_scope(other, own.first)
    other.build((None, 3))
    assert own.first.kernel.path == "own/first/kernel"
    assert other.kernel.path == "own/other/kernel"


def test_recomputing_is_taken_over():
    with keras.RematScope("full"):
        layer = layers.Dense(2)
    wrapper = layers.Dense(2)
    calls = []

    def call(x):
        calls.append(x)
        return x

    keras_internals.take_over_recomputing(wrapper, layer)
    assert layer.rematerialized_call(call) is call
    assert wrapper.rematerialized_call(call) is not call


def test_any_arguments_are_taken():
    class Own(layers.Layer):
        def call(self, x, text):
            return x

    layer = Own(dtype="float16")
    x = keras.ops.ones((1, 2), "float32")
    with pytest.raises(ValueError, match="positional"):
        layer(x, object())
    keras_internals.take_any_arguments(layer)
    assert layer(x, object()) is x
