"""Random graphs of all operations: pruned, stripped, and still equal."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import layers, ops
from models import EXACT, enliven, outputs, randomized

import kprune
from kprune import keras_internals
from kprune.prunable import prunable_layers

pytestmark = [
    # Chance draws what Keras warns of, such as a softmax over one place.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.usefixtures("float64"),
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow",
        reason="Keras computes too much in float32 there; rules are the same",
    ),
]


class _Grower:
    """Grows a functional model by operations that are drawn.

    Args:
        draw: Hypothesis's function that draws from a strategy.
    """

    def __init__(self, draw):
        self.draw = draw
        self.recipe = []
        self.layers = []
        self.tensors = []

    def choose(self, *choices):
        return self.draw(st.sampled_from(choices))

    def width(self):
        return self.choose(2, 3, 4, 6, 8)

    def flag(self):
        return self.draw(st.booleans())

    def activation(self):
        return self.choose(
            None, "relu", "tanh", "sigmoid", "gelu", "swish", "softplus", "elu"
        )

    def grow(self) -> keras.Model:
        inputs = [
            keras.Input((6, 6, 2)),
            keras.Input((5, 3)),
            keras.Input((4,)),
        ]
        for x in inputs:
            self.apply("Dense", lambda: layers.Dense(self.width()), x)
        for _ in range(self.draw(st.integers(3, 12))):
            x = self.choose(*self.tensors)
            choices = self.operations(x)
            name = self.choose(*choices)
            self.apply(name, choices[name], x)
        ends = self.tensors[-2:]
        heads = [layers.Dense(2)(layers.Flatten()(end)) for end in ends]
        calls = keras_internals.calls(keras.Model(inputs, heads))
        used = {id(tensor) for call in calls for tensor in call.inputs}
        return keras.Model([x for x in inputs if id(x) in used], heads)

    def apply(self, name, make, x):
        """Calls what `make` makes, a layer or a function, on a tensor."""
        operation = make()
        y = operation(x)
        # What is large leads nowhere.
        if 2 <= len(y.shape) <= 4 and np.prod(y.shape[1:]) <= 600:
            self.recipe.append(f"{name}: {x.shape} -> {y.shape}")
            self.tensors.append(y)
            if isinstance(operation, layers.Layer):
                self.layers.append((x.shape, operation))

    def operations(self, x) -> dict:
        """Dict from a name to what makes a callable that fits a tensor."""
        kinds = {2: self.on_vectors, 3: self.on_sequences, 4: self.on_images}
        found = {**self.on_all(x), **kinds[len(x.shape)](x)}
        fitting = [layer for shape, layer in self.layers if shape == x.shape]
        if fitting:
            found["shared"] = lambda: self.choose(*fitting)
        return found

    def on_all(self, x) -> dict:
        width = x.shape[-1]
        last = len(x.shape) - 1
        groups = [g for g in (1, 2, 3) if width % g == 0]
        return {
            "Dense": lambda: layers.Dense(
                self.width(), activation=self.activation()
            ),
            "BatchNormalization": lambda: layers.BatchNormalization(
                center=self.flag(), scale=self.flag()
            ),
            "LayerNormalization": layers.LayerNormalization,
            "RMSNormalization": layers.RMSNormalization,
            "UnitNormalization": layers.UnitNormalization,
            "GroupNormalization": lambda: layers.GroupNormalization(
                self.choose(*groups, -1)
            ),
            "PReLU": layers.PReLU,
            "Activation": lambda: layers.Activation(self.activation()),
            "LeakyReLU": layers.LeakyReLU,
            "Dropout": lambda: layers.Dropout(0.5),
            "softmax": lambda: (
                lambda x: ops.softmax(x, axis=self.choose(1, last))
            ),
            "affine": lambda: lambda x: 0.5 * x + self.choose(0.0, 1.0),
            "square": lambda: ops.square,
            "slice": lambda: lambda x: x[..., : max(width - 1, 1)],
            "split": lambda: (
                lambda x: self.choose(
                    *ops.split(x, 2 if width % 2 == 0 else 1, axis=-1)
                )
            ),
            "flip": lambda: lambda x: ops.flip(x, axis=-1),
            "Flatten": layers.Flatten,
            "reshape": lambda: (
                lambda x: ops.reshape(x, (-1, int(np.prod(x.shape[1:]))))
            ),
            "mean": lambda: lambda x: ops.mean(x, axis=1, keepdims=True),
            "sum": lambda: lambda x: ops.sum(x, axis=-1, keepdims=True),
            "norm": lambda: lambda x: x / (1.0 + ops.abs(x)),
            "residual": lambda: lambda x: x + layers.Dense(width)(x),
            "gate": lambda: (
                lambda x: x * layers.Dense(width, activation="sigmoid")(x)
            ),
            "merge": lambda: self.merge,
            "concatenate": lambda: self.concatenate,
            "nested": lambda: self.nested,
        }

    def on_vectors(self, x) -> dict:
        shape = (-1, 2) if x.shape[1] % 2 == 0 else (1, -1)
        return {
            "RepeatVector": lambda: layers.RepeatVector(3),
            "expand_dims": lambda: (
                lambda x: ops.expand_dims(x, self.choose(1, -1))
            ),
            "Reshape": lambda: layers.Reshape(shape),
        }

    def on_sequences(self, x) -> dict:
        return {
            "Conv1D": lambda: layers.Conv1D(
                self.width(), 2, padding=self.choose("same", "causal")
            ),
            "SeparableConv1D": lambda: layers.SeparableConv1D(
                self.width(),
                2,
                padding="same",
                depth_multiplier=self.choose(1, 2),
            ),
            "DepthwiseConv1D": lambda: layers.DepthwiseConv1D(
                2, padding="same"
            ),
            "Conv1DTranspose": lambda: layers.Conv1DTranspose(self.width(), 2),
            "LSTM": lambda: layers.LSTM(
                self.width(), return_sequences=self.flag()
            ),
            "GRU": lambda: layers.GRU(
                self.width(), return_sequences=True, reset_after=self.flag()
            ),
            "Bidirectional": lambda: layers.Bidirectional(
                layers.SimpleRNN(self.width(), return_sequences=True),
                merge_mode=self.choose("concat", "sum"),
            ),
            "TimeDistributed": lambda: layers.TimeDistributed(
                layers.Dense(self.width(), activation="relu")
            ),
            "MultiHeadAttention": lambda: (
                lambda x: layers.MultiHeadAttention(
                    self.choose(1, 2), self.width(), self.choose(None, 3)
                )(x, x)
            ),
            "EinsumDense": lambda: layers.EinsumDense(
                "btc,cd->btd",
                (x.shape[1], self.width()),
                bias_axes=self.choose(None, "d"),
            ),
            "MaxPooling1D": lambda: layers.MaxPooling1D(2, padding="same"),
            "AveragePooling1D": lambda: layers.AveragePooling1D(
                2, padding="same"
            ),
            "GlobalMaxPooling1D": layers.GlobalMaxPooling1D,
            "transpose": lambda: lambda x: ops.transpose(x, (0, 2, 1)),
            "Permute": lambda: layers.Permute((2, 1)),
            "attention": lambda: (
                lambda x: ops.matmul(
                    ops.softmax(ops.matmul(x, ops.transpose(x, (0, 2, 1))) / 9),
                    x,
                )
            ),
            "einsum": lambda: lambda x: ops.einsum("btc,bsc->bts", x, x) / 9,
            "ZeroPadding1D": lambda: layers.ZeroPadding1D(1),
            "UpSampling1D": lambda: layers.UpSampling1D(2),
        }

    def on_images(self, x) -> dict:
        width = x.shape[-1]
        groups = [g for g in (2, 3) if width % g == 0] or [1]
        return {
            "Conv2D": lambda: layers.Conv2D(
                self.width(),
                self.choose(1, 2, 3),
                padding="same",
                strides=self.choose(1, 2),
                activation=self.activation(),
            ),
            "Conv2D by groups": lambda: layers.Conv2D(
                12, 2, padding="same", groups=self.choose(*groups)
            ),
            "Conv2D by channel": lambda: layers.Conv2D(
                width * self.choose(1, 2), 2, padding="same", groups=width
            ),
            "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(
                2, padding="same", depth_multiplier=self.choose(1, 2)
            ),
            "SeparableConv2D": lambda: layers.SeparableConv2D(
                self.width(), 2, padding="same"
            ),
            "Conv2DTranspose": lambda: layers.Conv2DTranspose(
                self.width(), 2, strides=self.choose(1, 2)
            ),
            "AveragePooling2D": lambda: layers.AveragePooling2D(
                2, padding="same"
            ),
            "ZeroPadding2D": lambda: layers.ZeroPadding2D(1),
            "UpSampling2D": lambda: layers.UpSampling2D(2),
            "GlobalAveragePooling2D": layers.GlobalAveragePooling2D,
            "squeeze-excite": lambda: (
                lambda x: (
                    x
                    * layers.Dense(width, activation="sigmoid")(
                        ops.mean(x, axis=(1, 2), keepdims=True)
                    )
                )
            ),
            "spatial gate": lambda: (
                lambda x: x * ops.sigmoid(ops.max(x, axis=-1, keepdims=True))
            ),
            "to a sequence": lambda: (
                lambda x: ops.reshape(
                    x, (-1, int(np.prod(x.shape[1:3])), width)
                )
            ),
        }

    def merge(self, x):
        same = [y for y in self.tensors if y.shape == x.shape]
        y = self.choose(*same)
        kind = self.choose(
            layers.Add, layers.Multiply, layers.Subtract, layers.Maximum
        )
        return kind()([x, y])

    def concatenate(self, x):
        axis = self.draw(st.integers(1, len(x.shape) - 1))

        def others(tensor):
            return [size for i, size in enumerate(tensor.shape) if i != axis]

        fitting = [
            y
            for y in self.tensors
            if len(y.shape) == len(x.shape) and others(y) == others(x)
        ]
        return layers.Concatenate(axis=axis)([x, self.choose(*fitting)])

    def nested(self, x):
        inner = keras.Sequential(
            [
                keras.Input(x.shape[1:]),
                layers.Dense(self.width(), activation="relu"),
                layers.Dense(x.shape[-1]),
            ]
        )
        return inner(inner(x))


def _check(data) -> tuple[bool, bool]:
    """Prunes and strips one random graph, and compares the outputs.

    Returns:
        Whether the outputs are alive, and whether anything was removed.
    """
    keras.backend.clear_session(free_memory=False)
    seed = data.draw(st.integers(0, 2**16))
    keras.utils.set_random_seed(seed)
    grower = _Grower(data.draw)
    model = randomized(grower.grow())
    hypothesis.note("\n".join(grower.recipe))
    generator = np.random.default_rng(seed)
    x = [
        generator.normal(size=(3, *tensor.shape[1:])) for tensor in model.inputs
    ]
    prunable = enliven(kprune.make_prunable(model), x)
    sparsity = data.draw(st.sampled_from([0.25, 0.5, 0.9]))
    pads = data.draw(st.booleans())
    graph = kprune.structure.channel_graph(prunable, pad_layer_norm=pads)
    hypothesis.assume(
        any(
            graph.has_free_filters(layer.layer)
            for layer in prunable_layers(prunable)
        )
    )
    kprune.prune(
        prunable,
        sparsity,
        criterion=kprune.criteria.Random(seed),
        granularity="filter",
        pad_layer_norm=pads,
    )
    masked = outputs(prunable, x)
    hypothesis.assume(all(np.isfinite(output).all() for output in masked))
    stripped = kprune.strip(prunable)
    # Keras rounds the scale of attention, which a cut changes, to float32.
    attends = any("MultiHead" in step for step in grower.recipe)
    tolerance = 1e-6 if attends else EXACT
    for one, other in zip(masked, outputs(stripped, x), strict=True):
        assert np.abs(one - other).max() <= tolerance * np.abs(one).max()
    alive = any(
        np.ptp(one, axis=0).max() > 1e-3 * np.abs(one).max() for one in masked
    )
    return alive, stripped.count_params() < model.count_params()


def _check_many(count: int) -> None:
    found = []

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(data=st.data())
    def check(data):
        found.append(_check(data))

    check()
    alive, smaller = np.mean(found, axis=0)
    # A comparison of dead outputs, or of what was not cut, says nothing.
    assert len(found) >= count and alive > 0.7 and smaller > 0.5


def test_random_graphs():
    _check_many(25)


@pytest.mark.slow
def test_five_hundred_random_graphs():
    _check_many(500)
