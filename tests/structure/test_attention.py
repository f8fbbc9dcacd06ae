"""Attention layers: heads and widths go, and the outputs stay equal."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import (
    EXACT,
    EXACT_MEAN,
    assert_equal_outputs,
    numpy,
    outputs,
    shrunk,
)

import kprune
from kprune.structure import channel_graph

pytestmark = pytest.mark.usefixtures("float64")

# On TensorFlow Keras rounds the scale of the scores to float32, whatever the
# dtype is; where the root of the width is a power of two nothing is lost. On
# JAX the fused attention takes its softmax in float32, as `ops.mean` is taken.
SCALED = max(EXACT_MEAN, 1e-7)


def _x(*shape):
    return np.random.default_rng(1).normal(size=(4, *shape))


def _around(attend, shape=(6, 8), width=8):
    """A model with a Dense in front of what `attend` does, and one behind."""
    inputs = keras.Input(shape)
    x = layers.Dense(width)(inputs)
    x = attend(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def _find(model, kind):
    (layer,) = [layer for layer in model.layers if isinstance(layer, kind)]
    return layer


@pytest.mark.parametrize(
    ("use_bias", "sparsity", "sizes"),
    [
        (True, 0.5, (2, 8, 2, 5, 4)),
        (True, 0.75, (1, 4, 1, 3, 2)),
        (False, 0.9, (1, 2, 1, 1, 1)),
    ],
)
def test_heads_widths_and_output_go_on_their_own(use_bias, sparsity, sizes):
    layer = layers.MultiHeadAttention(
        4, 16, value_dim=4, output_shape=10, use_bias=use_bias, dropout=0.1
    )
    model = _around(lambda x: layer(x, x))
    tolerance = EXACT if sparsity == 0.75 else SCALED
    smaller = shrunk(model, _x(6, 8), sparsity, tolerance=tolerance)
    found = _find(smaller, layers.MultiHeadAttention)
    heads, key_dim, value_dim, output, width = sizes
    assert (found.num_heads, found.key_dim) == (heads, key_dim)
    assert found.value_dim == value_dim
    assert found.query_dense.kernel.shape == (width, heads, key_dim)
    assert found.value_dense.kernel.shape == (width, heads, value_dim)
    assert found.output_dense.kernel.shape == (heads, value_dim, output)
    assert (found.query_dense.bias is not None) == use_bias


def test_the_output_keeps_its_width_where_the_query_is_cut():
    inputs = keras.Input((6, 8))
    x = layers.Dense(8)(inputs)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    model = keras.Model(inputs, [x])
    found = shrunk(model, _x(6, 8), tolerance=SCALED).layers[-1]
    assert found.get_config()["output_shape"] == (8,)
    assert found.query_dense.kernel.shape == (4, 1, 2)


@pytest.mark.parametrize("causal", [True, False])
def test_a_residual_block_ties_its_width(causal):
    def attend(x):
        y = layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=causal)
        return layers.Add()([x, y])

    smaller = shrunk(_around(attend), _x(6, 8), tolerance=SCALED)
    found = _find(smaller, layers.MultiHeadAttention)
    assert smaller.layers[1].units == 4
    assert found.get_config()["output_shape"] == (4,)


@pytest.mark.parametrize("by_name", [True, False])
def test_query_value_and_key_have_their_own_widths(by_name):
    query, memory = keras.Input((3, 5)), keras.Input((7, 6))
    q = layers.Dense(12)(query)
    v = layers.Dense(10)(memory)
    k = layers.Dense(8)(memory)
    mha = layers.MultiHeadAttention(2, 4, use_gate=True, name="mha")
    x = mha(key=k, value=v, query=q) if by_name else mha(q, v, k)
    model = keras.Model([query, memory], layers.Dense(2)(x))
    found = shrunk(model, [_x(3, 5), _x(7, 6)], tolerance=SCALED).get_layer(
        "mha"
    )
    assert found.query_dense.kernel.shape[0] == 6
    assert found.value_dense.kernel.shape[0] == 5
    assert found.key_dense.kernel.shape[0] == 4
    assert found.output_dense.kernel.shape == (1, 2, 6)


def test_masks_are_no_channels():
    tokens = keras.Input((6,), dtype="int32")
    mask = keras.Input((6, 6), dtype="bool")
    x = layers.Embedding(20, 8, mask_zero=True)(tokens)
    x = layers.MultiHeadAttention(2, 4)(x, x, attention_mask=mask)
    model = keras.Model([tokens, mask], layers.Dense(3)(x))
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 20, (4, 6))
    ids[:2, 3:] = 0
    seen = generator.random((4, 6, 6)) > 0.3
    seen[..., 0] = True
    smaller = shrunk(model, [ids, seen], tolerance=SCALED)
    assert _find(smaller, layers.Embedding).output_dim == 4
    assert _find(smaller, layers.MultiHeadAttention).num_heads == 1


def test_a_labelled_tensor_that_is_a_mask_stays():
    inputs = keras.Input((6, 8))
    dense = layers.Dense(6)
    mask = dense(inputs)
    x = layers.MultiHeadAttention(2, 4, name="mha")(
        inputs, inputs, attention_mask=mask
    )
    model = keras.Model(inputs, layers.Dense(3)(x))
    (reason,) = channel_graph(model).frozen_reasons(dense)
    assert reason == "'mha' takes it for a mask"


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(
    "layer",
    [layers.MultiHeadAttention(4, 4), layers.GroupQueryAttention(4, 4, 2)],
)
def test_heads_with_masks_of_their_own_stay(layer, heads):
    layer = type(layer).from_config({**layer.get_config(), "name": "mha"})
    inputs, mask = keras.Input((6, 8)), keras.Input((heads, 6, 6), dtype="bool")
    x = layer(inputs, inputs, attention_mask=mask)
    x = layers.Dense(3)(layers.Dense(5)(x))
    generator = np.random.default_rng(0)
    seen = generator.random((4, heads, 6, 6)) > 0.3
    seen[..., 0] = True
    data = [generator.normal(size=(4, 6, 8)), seen]
    smaller = shrunk(keras.Model([inputs, mask], x), data, tolerance=SCALED)
    config = smaller.get_layer("mha").get_config()
    left = config.get("num_heads", config.get("num_query_heads"))
    assert left == (4 if heads == 4 else 2)


def test_scores_have_the_axis_of_heads():
    inputs = keras.Input((6, 8))
    x, scores = layers.MultiHeadAttention(4, 4)(
        inputs, inputs, return_attention_scores=True
    )
    scores = layers.Conv2D(5, 3, data_format="channels_last")(
        layers.Permute((2, 3, 1))(scores)
    )
    model = keras.Model(inputs, [layers.Dense(3)(x), layers.Dense(2)(scores)])
    smaller = shrunk(model, _x(6, 8), tolerance=SCALED)
    conv = _find(smaller, layers.Conv2D)
    assert conv.kernel.shape == (3, 3, 2, 3)


@pytest.mark.parametrize("axes", [(1, 2), (2,), None])
def test_attention_over_several_axes(axes):
    layer = layers.MultiHeadAttention(2, 4, attention_axes=axes)
    smaller = shrunk(
        _around(lambda x: layer(x, x), (3, 4, 8)), _x(3, 4, 8), tolerance=SCALED
    )
    found = _find(smaller, layers.MultiHeadAttention)
    assert found.query_dense.kernel.shape == (4, 1, 2)


def test_a_shared_layer_binds_all_its_calls():
    shared = layers.MultiHeadAttention(2, 4, name="shared")

    def attend(x):
        y = layers.Dense(8)(x)
        return layers.Concatenate()([shared(x, y), shared(y, x)])

    smaller = shrunk(_around(attend), _x(6, 8), tolerance=SCALED)
    found = smaller.get_layer("shared")
    assert found.query_dense.kernel.shape == (4, 1, 2)


def test_a_call_with_the_input_keeps_the_width_of_the_others():
    inputs = keras.Input((6, 8))
    shared = layers.MultiHeadAttention(2, 4, name="shared")
    x = layers.Dense(8)(inputs)
    x = layers.Add()([shared(inputs, inputs), shared(x, x)])
    model = keras.Model(inputs, layers.Dense(3)(x))
    found = shrunk(model, _x(6, 8), tolerance=SCALED).get_layer("shared")
    assert found.query_dense.kernel.shape == (8, 1, 2)
    assert found.output_dense.kernel.shape == (1, 2, 4)


def _zeroed(model, layer, part, index):
    """Zeroes a slice of a projection's kernel and of its bias."""
    dense = getattr(layer, f"{part}_dense")
    kernel, bias = map(numpy, (dense.kernel, dense.bias))
    kernel, bias = kernel.copy(), bias.copy()
    kernel[index] = 0
    if part != "output":
        bias[index[1:]] = 0
    dense.kernel.assign(kernel)
    dense.bias.assign(bias)


@pytest.mark.parametrize(
    ("part", "index", "sizes"),
    [
        # The products of a width are zero if the query or the key is.
        ("query", np.s_[:, :, :3], (4, 3, 5)),
        ("key", np.s_[:, :, 3:], (4, 3, 5)),
        # A head goes without values, and without readers.
        ("value", np.s_[:, 1:3], (2, 6, 5)),
        ("output", np.s_[1:3], (2, 6, 5)),
        ("value", np.s_[:, :, 2:], (4, 6, 2)),
        ("output", np.s_[:, :3], (4, 6, 2)),
        # Equal scores still let the values through.
        ("query", np.s_[:, 1:3], (4, 6, 5)),
    ],
)
def test_compact_goes_by_the_zeros(part, index, sizes):
    mha = layers.MultiHeadAttention(4, 6, value_dim=5, dropout=0.1)
    model = _around(lambda x: mha(x, x))
    for variable in mha.weights:
        if variable.name == "bias":
            variable.assign(_x(*variable.shape)[0])
    _zeroed(model, mha, part, index)
    smaller = kprune.compact(model)
    found = _find(smaller, layers.MultiHeadAttention)
    assert (found.num_heads, found.key_dim, found.value_dim) == sizes
    assert_equal_outputs(model, smaller, _x(6, 8), SCALED)


def test_widths_that_only_gone_heads_use_go_as_well():
    mha = layers.MultiHeadAttention(2, 4, value_dim=3, dropout=0.1)
    model = _around(lambda x: mha(x, x))
    _zeroed(model, mha, "output", np.s_[:1])
    _zeroed(model, mha, "query", np.s_[:, 1, :2])
    smaller = kprune.compact(model)
    found = _find(smaller, layers.MultiHeadAttention)
    assert (found.num_heads, found.key_dim) == (1, 2)
    assert_equal_outputs(model, smaller, _x(6, 8), SCALED)


def test_values_stay_as_wide_as_keys():
    mha = layers.MultiHeadAttention(2, 4)
    model = _around(lambda x: mha(x, x))
    _zeroed(model, mha, "key", np.s_[:, :, :3])
    _zeroed(model, mha, "value", np.s_[:, :, 2:])
    smaller = kprune.compact(model)
    found = _find(smaller, layers.MultiHeadAttention)
    assert (found.key_dim, found.value_dim) == (2, 2)
    assert_equal_outputs(model, smaller, _x(6, 8), SCALED)


class Doubled(layers.MultiHeadAttention):
    """A layer of a user that attends in a way of its own."""

    def _compute_attention(self, query, *args, **kwargs):
        return super()._compute_attention(2 * query, *args, **kwargs)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Doubled(2, 4, name="own"), "'own' (Doubled) has no rule"),
        (
            lambda: layers.MultiHeadAttention(
                2, 4, attention_axes=-1, name="heads"
            ),
            "'heads' attends over more than places",
        ),
    ],
)
def test_other_kinds_of_attention_stay(make, reason):
    model = _around(lambda x: make()(x, x))
    assert channel_graph(model).frozen_reasons(model.layers[1]) == [reason]


def test_an_output_of_several_axes_stays():
    mha = layers.MultiHeadAttention(4, 4, output_shape=(2, 3), name="mha")
    model = _around(lambda x: mha(x, x))
    reasons = channel_graph(model).frozen_reasons(mha)
    assert reasons == ["'mha' makes several axes of it"]
    found = shrunk(model, _x(6, 8), tolerance=SCALED).get_layer("mha")
    assert found.output_dense.kernel.shape == (2, 2, 2, 3)


def test_places_stay():
    inputs = keras.Input((6, 8))
    dense = layers.Dense(5)
    x = layers.Permute((2, 1))(dense(inputs))
    x = layers.MultiHeadAttention(2, 4, name="mha")(x, x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    reasons = channel_graph(model).frozen_reasons(dense)
    assert reasons == ["'mha' attends over this axis"]


@pytest.mark.parametrize(
    ("gate", "sparsity", "sizes"),
    [(True, 0.5, (4, 2, 3, 4)), (False, 0.9, (2, 1, 1, 1))],
)
def test_groups_of_heads_go_together(gate, sparsity, sizes):
    layer = layers.GroupQueryAttention(6, 8, 4, use_gate=gate)
    smaller = shrunk(
        _around(lambda x: layer(x, x)), _x(6, 8), sparsity, tolerance=SCALED
    )
    found = _find(smaller, layers.GroupQueryAttention)
    queries, groups, width, output = sizes
    assert (found.num_query_heads, found.num_key_value_heads) == (
        queries,
        groups,
    )
    assert found.head_dim == width
    assert smaller.layers[1].units == output


@pytest.mark.parametrize("heads", [2, 8])
def test_one_group_or_as_many_groups_as_heads(heads):
    groups = {2: 1, 8: 8}[heads]
    layer = layers.GroupQueryAttention(4, heads, groups)
    smaller = shrunk(
        _around(lambda x: layer(x, x, use_causal_mask=True)),
        _x(6, 8),
        tolerance=SCALED,
    )
    found = _find(smaller, layers.GroupQueryAttention)
    assert found.num_key_value_heads == max(groups // 2, 1)
    assert found.num_query_heads == {2: 2, 8: 4}[heads]


def test_group_query_attention_with_the_input_keeps_its_output():
    inputs = keras.Input((6, 8))
    layer = layers.GroupQueryAttention(4, 4, 2, name="gqa")
    model = keras.Model(inputs, layers.Dense(3)(layer(inputs, inputs)))
    reasons = channel_graph(model).frozen_reasons(layer)
    assert reasons == ["'gqa' keeps the width of what it reads"]
    found = shrunk(model, _x(6, 8), tolerance=SCALED).get_layer("gqa")
    assert (found.num_query_heads, found.head_dim) == (2, 2)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Attention(use_scale=True),
        lambda: layers.Attention(score_mode="concat"),
        lambda: layers.AdditiveAttention(),
    ],
)
def test_attention_without_heads(layer):
    inputs = keras.Input((6, 8))
    q, k = layers.Dense(8)(inputs), layers.Dense(8)(inputs)
    v = layers.Dense(6)(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layer()([q, v, k])))
    smaller = shrunk(model, _x(6, 8), tolerance=SCALED)
    assert [
        layer.units for layer in smaller.layers if hasattr(layer, "units")
    ] == [4, 3, 4, 3]


def test_attention_without_heads_keeps_what_is_not_zero():
    inputs = keras.Input((6, 8))
    q = layers.Dense(8, activation="sigmoid")
    k = layers.Dense(8, activation="sigmoid")
    x = layers.Attention(name="dot")([q(inputs), k(inputs)])
    model = keras.Model(inputs, layers.Dense(3)(x))
    (reason,) = channel_graph(model).frozen_reasons(q)
    assert reason.startswith("'dot' sums over it")


def test_attention_without_heads_compares_equal_widths():
    inputs = keras.Input((6, 8))
    q = layers.Dense(8)
    x = layers.AdditiveAttention(name="add")([q(inputs), inputs])
    model = keras.Model(inputs, layers.Dense(3)(x))
    (reason,) = channel_graph(model).frozen_reasons(q)
    assert reason == "'add' compares it with what cannot be cut"


@keras.saving.register_keras_serializable()
class Places(layers.Layer):
    """The embedding of places of a user's own vision transformer."""

    def build(self, shape):
        self.table = self.add_weight(name="table", shape=shape[1:])

    def call(self, x):
        return x + ops.expand_dims(self.table, 0)


def _block(x, heads, width):
    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(heads, width)(y, y)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(16, activation="gelu")(y)
    return layers.Add()([x, layers.Dense(x.shape[-1])(y)])


def test_a_vision_transformer_with_a_layer_of_the_users_own():
    inputs = keras.Input((8, 8, 3))
    patches = layers.Conv2D(8, 4, strides=4, name="patches")
    x = layers.Reshape((4, 8))(patches(inputs))
    x = Places(name="places")(x)
    for _ in range(2):
        x = _block(x, heads=4, width=4)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    reasons = channel_graph(model).frozen_reasons(patches)
    assert reasons == ["'places' (Places) has no rule"]
    smaller = shrunk(model, _x(8, 8, 3), tolerance=SCALED)
    for layer in smaller.layers:
        if isinstance(layer, layers.MultiHeadAttention):
            assert (layer.num_heads, layer.key_dim, layer.value_dim) == (
                2,
                2,
                2,
            )
    hidden = [layer for layer in smaller.layers if hasattr(layer, "units")]
    assert [layer.units for layer in hidden] == [8, 8, 8, 8, 3]


def test_a_decoder_attends_to_an_encoder():
    source = keras.Input((7,), dtype="int32")
    target = keras.Input((5,), dtype="int32")
    memory = layers.Embedding(20, 8, mask_zero=True)(source)
    memory = layers.Add()(
        [memory, layers.MultiHeadAttention(4, 4)(memory, memory)]
    )
    x = layers.Embedding(20, 8, mask_zero=True)(target)
    x = layers.Add()(
        [x, layers.MultiHeadAttention(4, 4)(x, x, use_causal_mask=True)]
    )
    cross = layers.MultiHeadAttention(4, 4, name="cross")
    x = layers.Add()([x, cross(x, memory)])
    model = keras.Model([source, target], layers.Dense(20)(x))
    generator = np.random.default_rng(0)
    ids = [generator.integers(1, 20, (4, n)) for n in (7, 5)]
    ids[0][:2, 4:] = 0
    ids[1][1:, 3:] = 0
    found = shrunk(model, ids, tolerance=SCALED).get_layer("cross")
    assert found.query_dense.kernel.shape == (4, 2, 2)
    assert found.key_dense.kernel.shape == (4, 2, 2)


def test_masks_zero_all_that_is_coupled():
    mha = layers.MultiHeadAttention(4, 4)
    prunable = kprune.make_prunable(_around(lambda x: mha(x, x)))
    kprune.prune(prunable, 0.5, granularity="filter")
    masks = {n: numpy(m) for n, m in prunable.layers[2].masks.items()}
    heads = masks["query/bias"].any(axis=1)
    assert heads.sum() == 2
    for part in ("query", "key", "value"):
        assert (masks[f"{part}/kernel"].any(axis=(0, 2)) == heads).all()
        assert (masks[f"{part}/bias"].any(axis=1) == heads).all()
    output = masks["attention_output/kernel"]
    assert (output.any(axis=(1, 2)) == heads).all()
    assert len(outputs(prunable, _x(6, 8))) == 1
