"""Whatever goes by the names of layers goes on with the prunable model."""

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.prunable import prunable_layers


def _heads(x):
    return (
        layers.Dense(1, name="age")(x),
        layers.Dense(2, activation="softmax", name="sex")(x),
    )


def _outputs_as(structure):
    inputs = keras.Input((8,), name="person")
    x = layers.Dense(6, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, structure(*_heads(x)))


def _nested():
    """Outputs are of nested models."""
    inputs = keras.Input((8,), name="person")
    x = layers.Dense(6, name="hidden")(inputs)
    ends = []
    for name, units in (("age", 1), ("sex", 2)):
        ends.append(
            keras.Sequential(
                [
                    keras.Input((6,)),
                    layers.Dense(4, name="inside"),
                    layers.Dense(units, activation="softplus", name="last"),
                ],
                name=name,
            )(x)
        )
    return keras.Model(inputs, ends)


def _shared():
    """One layer is called twice."""
    inputs = keras.Input((8,), name="person")
    hidden = layers.Dense(8, activation="relu", name="hidden")
    return keras.Model(inputs, list(_heads(hidden(hidden(inputs)))))


class Person(keras.Model):
    """Subclassed, with a dict of outputs and layers of one name."""

    def __init__(self):
        super().__init__(name="mine")
        self.body = [Body(name="body_a"), Body(name="body_b")]
        self.age = layers.Dense(1, name="age")
        self.sex = layers.Dense(2, activation="softmax", name="sex")

    def call(self, x):
        for body in self.body:
            x = body(x)
        return {"age": self.age(x), "sex": self.sex(x)}


class Body(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(8, activation="relu", name="ffn")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x):
        return self.norm(self.dense(x))


def _subclassed():
    model = Person()
    model(np.ones((1, 8), "float32"))
    return model


MODELS = {
    "list": lambda: _outputs_as(lambda *heads: list(heads)),
    "tuple": lambda: _outputs_as(lambda *heads: heads),
    "dict": lambda: _outputs_as(lambda age, sex: {"age": age, "sex": sex}),
    "nested": _nested,
    "shared": _shared,
    "subclassed": _subclassed,
}


def _trained(model):
    """The names in the logs of a training that goes by names."""
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    labels = {"age": x[:, :1], "sex": (x[:, 1] > 0).astype("int32")}
    model.compile(
        keras.optimizers.Adam(name="adam"),
        loss={"age": "mse", "sex": "sparse_categorical_crossentropy"},
        loss_weights={"age": 1.0, "sex": 2.0},
        metrics={"age": ["mae"], "sex": ["accuracy"]},
        # Compiling it takes longer than the few steps.
        run_eagerly=True,
    )
    best = keras.callbacks.EarlyStopping(
        monitor="val_age_mae", mode="min", patience=9
    )
    history = model.fit(
        x,
        labels,
        validation_data=(x, labels),
        verbose=0,
        callbacks=[best],
    )
    assert best.best is not None
    return list(history.history)


def _paths(variables):
    return [v.path for v in variables if not _is_of_kprune(v)]


def _is_of_kprune(variable):
    return variable.name.endswith("_mask") or "for_good" in variable.name


@pytest.mark.parametrize("name", MODELS)
def test_a_training_that_goes_by_names(name):
    model = MODELS[name]()
    prunable = kprune.make_prunable(model)
    if name != "subclassed":
        assert prunable.output_names == model.output_names
        names = [layer.name for layer in model.layers]
        for other in (prunable, kprune.strip(prunable)):
            assert [layer.name for layer in other.layers] == names
        for layer in model.layers:
            assert prunable.get_layer(layer.name) is not layer
    for layer in prunable_layers(prunable):
        assert layer.name == layer.layer.name
    before = {v.path for v in model.weights}
    assert set(_paths(prunable.weights)) == before
    assert _trained(prunable) == _trained(model)
    # Paths of the optimizer's variables begin as those of the weights.
    paths = [v.path for v in model.optimizer.variables]
    assert sorted(v.path for v in prunable.optimizer.variables) == sorted(paths)
    stripped = kprune.strip(kprune.prune(prunable, 0.5))
    if name != "subclassed":
        assert set(_paths(stripped.weights)) == before
    _trained(stripped)


def test_layers_of_one_name_keep_their_paths():
    prunable = kprune.make_prunable(_subclassed())
    names = [layer.name for layer in prunable_layers(prunable)]
    assert names == ["ffn", "ffn_1", "age", "sex"]
    first, second = prunable_layers(prunable)[:2]
    assert first.layer.kernel.path == "mine/body_a/ffn/kernel"
    assert second.layer.kernel.path == "mine/body_b/ffn/kernel"
    assert second.masks["kernel"].path == "mine/body_b/ffn/kernel_mask"


class Attends(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")

    def call(self, x):
        return self.attention(x, x)


class Attending(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.body = [Attends(name="a"), Attends(name="b")]
        self.out = layers.Dense(2, name="out")

    def call(self, x):
        for body in self.body:
            x = body(x)
        return self.out(x)


def test_layers_of_one_name_with_many_weights(tmp_path):
    model = Attending()
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    model(x)
    prunable = kprune.make_prunable(model)
    kprune.prune(prunable, 0.5, granularity="unstructured")
    prunable.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for made in (prunable, loaded):
        first, second, _ = prunable_layers(made)
        assert (first.name, second.name) == ("attention", "attention_1")
        assert second.layer.name == "attention_1"
        for layer in (first, second):
            assert layer.sparsity == 0.5
            assert "attention_output/kernel" in layer.masks
            assert list(layer.kernels) == list(layer.masks)[:4]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loaded(x)),
        keras.ops.convert_to_numpy(prunable(x)),
        atol=1e-6,
    )


def _hidden(layer):
    return keras.Sequential([keras.Input((8,)), layer], name="net")


def _unbuilt(layer):
    model = keras.Sequential([layer], name="net")
    model(np.ones((1, 8), "float32"))
    return model


@keras.saving.register_keras_serializable(package="test_names")
class Holder(keras.Model):
    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, x):
        return self.layer(x)


def _subclass(layer):
    model = Holder(layer, name="net")
    model(np.ones((1, 8), "float32"))
    return model


def _alone(layer):
    layer.build((None, 8))
    return layer


@pytest.mark.parametrize("place", [_hidden, _unbuilt, _subclass, _alone])
def test_layers_wrapped_by_hand(place):
    plain = place(layers.Dense(4, name="hidden"))
    wrapped = place(kprune.PrunableDense(4, name="hidden"))
    paths = [v.path for v in plain.weights]
    assert _paths(wrapped.weights) == paths
    masks = [v.path for v in wrapped.weights if v.name.endswith("_mask")]
    assert masks == [f"{path}_mask" for path in paths]


def test_what_wrappers_are_called():
    layer = kprune.PrunableDense(64, name="hidden")
    assert layer.name == layer.layer.name == "hidden"
    layer = kprune.PrunableConv2D(layers.Conv2D(2, 3, name="conv"))
    assert layer.name == layer.layer.name == "conv"
    layer = kprune.PrunableLayer(layers.Dense(2, name="inside"), name="outer")
    assert (layer.name, layer.layer.name) == ("outer", "inside")
    layer.build((None, 8))
    assert layer.layer.kernel.path == "inside/kernel"
    assert layer.masks["kernel"].path == "outer/kernel_mask"
    model = _hidden(layer)
    assert kprune.strip(model).layers[0].name == "inside"


def test_a_half_wrapped_model_gets_the_rest_wrapped():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            kprune.PrunableDense(6, name="first", granularity="filter"),
            layers.Dense(4, name="second"),
        ]
    )
    kprune.prune(model, 0.5, granularity="unstructured")
    model.layers[0].apply_masks()
    prunable = kprune.make_prunable(model)
    first, second = prunable.layers
    assert isinstance(second, kprune.PrunableDense) and second.sparsity == 0
    assert first.sparsity == 0.5 and first.granularity == "filter"
    assert first.pruned_for_good("kernel").sum() == 24
    assert first is not model.layers[0]
    x = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(prunable(x)),
        keras.ops.convert_to_numpy(model(x)),
    )


def test_a_half_wrapped_model_with_nested_and_shared_layers():
    inputs = keras.Input((8,))
    hidden = kprune.PrunableDense(6, name="hidden")
    nested = keras.Sequential(
        [
            keras.Input((6,)),
            kprune.PrunableDense(5, name="inside"),
            layers.Dense(6, name="beside"),
        ],
        name="nested",
    )
    shared = kprune.PrunableLayer(layers.Dense(6, name="plain"), name="shared")
    x = shared(shared(nested(hidden(inputs))))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    kprune.prune(model, 0.5)
    hidden.trainable = False
    prunable = kprune.make_prunable(model)
    found = {
        layer.name: (layer.layer.name, layer.sparsity, layer.trainable)
        for layer in prunable_layers(prunable)
    }
    assert found == {
        "hidden": ("hidden", 0.5, False),
        "inside": ("inside", 0.5, True),
        "beside": ("beside", 0.0, True),
        "shared": ("plain", 0.5, True),
        "logits": ("logits", 0.0, True),
    }
    assert sorted(_paths(prunable.weights)) == sorted(_paths(model.weights))
    x = np.random.default_rng(0).normal(size=(2, 8)).astype("float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(prunable(x)),
        keras.ops.convert_to_numpy(model(x)),
    )
    with pytest.raises(ValueError, match="has prunable layers already"):
        kprune.make_prunable(prunable)


class HalfWrapped(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = kprune.PrunableDense(4)
        self.second = layers.Dense(4)

    def call(self, x):
        return self.second(self.first(x))


def test_what_a_layer_holds_beside_prunable_layers_is_named():
    model = keras.Sequential(
        [keras.Input((8,)), HalfWrapped(name="half"), layers.Dense(2)]
    )
    with pytest.warns(UserWarning, match=r"\['half'\].*hold prunable layers"):
        prunable = kprune.make_prunable(model)
    assert len(prunable_layers(prunable)) == 2
