"""Channels that a user names go, with all that is coupled to them."""

import keras
import numpy as np
import pytest
from keras import layers
from live import enliven
from models import EXACT, Untraceable, assert_equal_outputs, numpy, randomized

import kprune
from kprune.prunable import prunable_layers
from kprune.structure import remove


def _residual():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    y = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(12, 3, padding="same", name="inner")(layers.ReLU()(y))
    y = layers.Conv2D(8, 3, padding="same", name="back")(layers.ReLU()(y))
    x = layers.Flatten()(layers.ReLU()(layers.Add()([x, y])))
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")


def _depthwise():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="each"),
            layers.Conv2D(6, 1, activation="relu", name="across"),
            layers.Flatten(),
            layers.Dense(3, name="out"),
        ],
        name="net",
    )


def _attention():
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, name="embed")(inputs)
    # A width of 4: Keras rounds the scale of others on TensorFlow.
    attend = layers.MultiHeadAttention(3, 4, name="attention")
    x = layers.Add()([x, attend(x, x)])
    x = layers.Dense(6, activation="gelu", name="wide")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")


CASES = {
    "residual": (
        _residual,
        ["stem", [2, 6]],
        {"stem": (3, 3, 3, 6), "inner": (3, 3, 6, 12), "back": (3, 3, 12, 6)},
    ),
    "named by another": (_residual, ["back", [7]], {"stem": (3, 3, 3, 7)}),
    "by a norm": (_residual, ["norm", [0]], {"back": (3, 3, 12, 7)}),
    "between": (
        _residual,
        ["inner", range(11)],
        {"inner": (3, 3, 8, 1), "back": (3, 3, 1, 8), "stem": (3, 3, 3, 8)},
    ),
    "depthwise": (
        _depthwise,
        ["each", np.array([5, 0])],
        {"first": (3, 3, 3, 6), "each": (3, 3, 6, 2), "across": (1, 1, 12, 6)},
    ),
    "what depthwise reads": (
        _depthwise,
        ["first", [1]],
        {"each": (3, 3, 7, 2)},
    ),
    "attention": (
        _attention,
        ["attention", [0, 3, 5]],
        {"embed": (8, 5), "attention": (5, 3, 4), "wide": (5, 6)},
    ),
    "heads": (
        _attention,
        ["attention", [1], {"weight": "query/kernel", "axis": 1}],
        {"embed": (8, 8), "attention": (8, 2, 4), "wide": (8, 6)},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("float64")
def test_what_is_named_goes(case):
    make, (name, channels, *others), shapes = CASES[case]
    options = others[0] if others else {}
    model = make()
    x = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:]))
    model = enliven(randomized(model), x)
    prunable = kprune.make_prunable(model)
    before = [numpy(w) for w in model.weights]
    cut = remove(model, name, channels, **options)
    assert all((numpy(w) == b).all() for w, b in zip(model.weights, before))
    assert remove(prunable, name, channels, **options) is prunable
    # Removing takes away.
    assert np.abs(numpy(prunable(x)) - numpy(model(x))).max() > 1e-3
    assert_equal_outputs(prunable, cut, x, EXACT)
    stripped = kprune.strip(prunable)
    assert_equal_outputs(prunable, stripped, x, EXACT)
    for made in (cut, stripped):
        found = {n: made.get_layer(n).weights[0].shape for n in shapes}
        assert {n: tuple(shape) for n, shape in found.items()} == shapes
    assert cut.count_params() == stripped.count_params()


def test_what_is_masked_already_stays_masked():
    model = kprune.make_prunable(_residual())
    kprune.prune(model, 0.5, granularity="unstructured")
    model.get_layer("inner").trainable = False
    before = [
        numpy(m)
        for layer in prunable_layers(model)
        for m in layer.masks.values()
    ]
    remove(model, "inner", [3])
    remove(model, "inner", [5, 3])
    after = [
        numpy(m)
        for layer in prunable_layers(model)
        for m in layer.masks.values()
    ]
    assert not any((a & ~b).any() for a, b in zip(after, before))
    assert kprune.strip(model).get_layer("inner").filters == 10


def test_nothing_else_goes():
    model = _residual()
    kernel, bias = model.get_layer("inner").get_weights()
    kernel[..., 4] = bias[4] = 0
    model.get_layer("inner").set_weights([kernel, bias])
    assert kprune.compact(model).get_layer("inner").filters == 11
    cut = remove(model, "stem", [0])
    assert cut.get_layer("inner").filters == 12
    assert remove(model, "stem", []).count_params() == model.count_params()


@keras.saving.register_keras_serializable(package="kprune_tests")
class Twins(keras.Model):
    """Subclassed, with two layers of one name."""

    def __init__(self, dense=layers.Dense):
        super().__init__(name="twins")
        self.one, self.two = dense(6, name="same"), dense(5, name="same")
        self.out = dense(2, name="out")

    def call(self, x):
        return self.out(self.two(self.one(x)))


@pytest.mark.parametrize("dense", [layers.Dense, kprune.PrunableDense])
def test_subclassed_models_and_equal_names(dense):
    model = Twins(dense)
    model(np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match="2 layers named 'same'.*layer itself"):
        remove(model, "same", [0])
    smaller = remove(model, model.two, [0, 4])
    if dense is kprune.PrunableDense:
        assert smaller is model and model.two.sparsity == 0.4
        smaller = kprune.strip(model)
    assert sorted(w.shape[-1] for w in smaller.weights) == [2, 2, 3, 3, 6, 6]


def test_a_wrapper_with_a_name_of_its_own():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            kprune.PrunableLayer(layers.Dense(6, name="inside"), name="outer"),
            kprune.PrunableDense(2),
        ]
    )
    for name in ("outer", "inside", model.layers[0]):
        remove(model, name, [1])
    assert model.layers[0].sparsity == 1 / 6


def test_layers_that_norms_look_at_go_on_request():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="wide"),
            layers.LayerNormalization(),
            layers.Dense(2),
        ]
    )
    with pytest.raises(ValueError, match="Channel 1.*pad_layer_norm"):
        remove(model, "wide", [1])
    cut = remove(model, "wide", [1], pad_layer_norm=True)
    assert cut.get_layer("wide").units == 5


def _half_wrapped():
    """What reads channels that are a constant, and not 0 at the edges."""
    return kprune.make_prunable(
        randomized(_residual()), where=lambda layer: layer.name != "inner"
    )


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (_residual, ("steam", [0]), r"no layer 'steam'.*\['stem', 'norm'"),
        (_residual, ("flatten", [0]), "no layer 'flatten' with channels"),
        (_residual, (None, [0]), "Name a layer by a string.*None"),
        (_residual, (layers.Dense(2, name="d"), [0]), "no layer 'd'"),
        (_residual, ("stem", [8]), r"from 0 to 7, in a list. Received: \[8\]"),
        (_residual, ("stem", [-1]), "from 0 to 7"),
        (_residual, ("stem", [2, 2]), "different integers"),
        (_residual, ("stem", [1.0]), "from 0 to 7"),
        (_residual, ("stem", [True]), "from 0 to 7"),
        (_residual, ("stem", 3), "in a list. Received: 3"),
        (_residual, ("out", [1]), "Channel 1.*'out' has to stay.*an output"),
        (_residual, ("inner", range(12)), "'inner' would be left without any"),
        (_residual, ("stem", range(8)), "'stem' would be left without any"),
        (
            _half_wrapped,
            ("stem", [1]),
            "'stem' can.*'inner' reads them; wrap it",
        ),
    ],
)
def test_what_cannot_go_is_refused(make, arguments, message):
    model = make()
    before = [numpy(w) for w in model.weights]
    with pytest.raises(ValueError, match=message):
        remove(model, *arguments)
    assert all((numpy(w) == b).all() for w, b in zip(model.weights, before))


def test_the_last_channels_of_what_is_masked_are_refused():
    model = kprune.make_prunable(_residual())
    remove(model, "inner", range(6))
    with pytest.raises(ValueError, match="'inner' would be left without any"):
        remove(model, "inner", range(6, 12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": "kernel"}, r"no weight 'kernel'.*'query/kernel'"),
        ({"weight": "query/kernel", "axis": 3}, r"along axis 3.*\[0, 1, 2\]"),
    ],
)
def test_weights_and_axes_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        remove(_attention(), "attention", [0], **options)


def test_a_model_without_a_graph():
    model = Untraceable()
    model(np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match="Cannot remove channels of model"):
        remove(model, "only", [0])
