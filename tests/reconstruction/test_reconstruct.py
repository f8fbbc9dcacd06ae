"""Pruned models are fitted to what the dense ones computed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.prunable import prunable_weights
from kprune.weights import to_numpy

BACKEND = keras.backend.backend()


def _related(*shape, seed=0):
    """Samples whose values are related, as those of images are."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=shape)
    mixing = np.random.default_rng(9).normal(size=(shape[-1], shape[-1]))
    return (x @ mixing / 2 + x.mean(axis=-1, keepdims=True)).astype("float32")


def _model(*stack, shape, dtype=None):
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *stack])
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        scale = 1 / np.sqrt(np.prod(variable.shape[:-1]) + 1)
        value = generator.normal(size=variable.shape) * scale
        variable.assign(value + ("gamma" in variable.path))
    return kprune.make_prunable(model)


class Block(keras.Model):
    """Subclassed, with a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(6, activation="tanh")
        self.again = layers.Dense(6, activation="tanh")
        self.last = layers.Dense(3)

    def call(self, x):
        return self.last(self.again(self.again(self.first(x))))


def _subclassed():
    model = Block()
    model(np.zeros((1, 6), "float32"))
    return kprune.make_prunable(model)


def _attention():
    inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.Add()([inputs, x])
    outputs = layers.TimeDistributed(layers.Dense(5))(x)
    return kprune.make_prunable(keras.Model(inputs, outputs))


MODELS = {
    "dense": (
        lambda: _model(
            layers.Dense(8, activation="relu"), layers.Dense(3), shape=(6,)
        ),
        (6,),
    ),
    "convolutions": (
        lambda: _model(
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(8, 3, groups=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
            shape=(8, 8, 4),
        ),
        (8, 8, 4),
    ),
    "normalized": (
        lambda: _model(
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.Conv2D(4, 1, use_bias=False),
            layers.GlobalAveragePooling2D(),
            shape=(8, 8, 4),
        ),
        (8, 8, 4),
    ),
    "separable": (
        lambda: _model(
            layers.SeparableConv2D(8, 3, activation="relu"),
            layers.Conv2DTranspose(4, 3, strides=2),
            shape=(8, 8, 4),
        ),
        (8, 8, 4),
    ),
    "einsum": (
        lambda: _model(
            layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de"),
            layers.EinsumDense("abde,dec->abc", (None, 5), bias_axes="c"),
            shape=(4, 6),
        ),
        (4, 6),
    ),
    "attention": (_attention, (4, 6)),
    "shared": (_subclassed, (6,)),
}


def _error(model, x, wanted):
    outputs = ops.convert_to_numpy(model(x, training=False))
    return float(np.square(outputs - wanted).sum() / np.square(wanted).sum())


@pytest.mark.parametrize("granularity", ["unstructured", "filter", "nm"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_come_nearer_to_those_of_the_dense_model(name, granularity):
    make, shape = MODELS[name]
    model = make()
    x, unseen = _related(256, *shape), _related(128, *shape, seed=2)
    wanted = ops.convert_to_numpy(model(unseen, training=False))
    if granularity == "filter" and name == "einsum":
        granularity = "block"
    kprune.prune(model, 0.5, granularity=granularity)
    masks = [to_numpy(w.mask).copy() for w in prunable_weights(model)]
    before = _error(model, unseen, wanted)
    result = kprune.reconstruct(model, x)
    after = _error(model, unseen, wanted)
    assert after < 0.8 * before
    for weight, mask in zip(prunable_weights(model), masks):
        np.testing.assert_array_equal(to_numpy(weight.mask), mask)
        # What is masked is gone for good.
        assert not weight.value()[~mask].any()
    assert result.samples == 256
    assert any(layer.after < layer.before for layer in result.layers)
    assert all(
        layer.after <= layer.before
        for layer in result.layers
        if layer.before is not None
    )


def test_what_related_inputs_can_do_they_do():
    """Each input comes twice: either half computes all."""
    half = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
    x = np.concatenate([half, half], axis=1)
    model = _model(layers.Dense(3), shape=(8,))
    wanted = ops.convert_to_numpy(model(x))
    (weight,) = prunable_weights(model)
    mask = np.zeros((8, 3), bool)
    mask[:4] = True
    weight.mask.assign(mask)
    assert _error(model, x, wanted) > 0.05
    kprune.reconstruct(model, x)
    assert _error(model, x, wanted) < 1e-5


@pytest.mark.usefixtures("float64")
def test_it_is_the_damped_least_squares_of_numpy():
    x = _related(400, 6).astype("float64") + 3.0
    model = _model(layers.Dense(4), shape=(6,))
    (weight,) = prunable_weights(model)
    kernel, bias = weight.value().copy(), to_numpy(weight.bias).copy()
    kprune.prune(model, 0.5, granularity="unstructured")
    mask = to_numpy(weight.mask)
    kprune.reconstruct(model, x)
    fit = x[np.arange(400) % 8 != 7]  # each eighth is held out
    centred = fit - fit.mean(axis=0)
    damping = 1e-3 * np.square(centred).mean(axis=0).mean()
    for output in range(4):
        kept = mask[:, output]
        rows = np.vstack(
            [
                centred[:, kept] / np.sqrt(len(fit)),
                np.sqrt(damping) * np.eye(kept.sum()),
            ]
        )
        targets = np.concatenate(
            [
                centred @ kernel[:, output] / np.sqrt(len(fit)),
                np.sqrt(damping) * kernel[kept, output],
            ]
        )
        expected, *_ = np.linalg.lstsq(rows, targets)
        found = weight.value()[kept, output]
        # Targets are kept in float32.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        free = fit.mean(axis=0) @ kernel[:, output] + bias[output]
        free -= fit.mean(axis=0)[kept] @ expected
        assert to_numpy(weight.bias)[output] == pytest.approx(free, abs=1e-4)


def test_strip_computes_what_the_masked_model_does():
    make, shape = MODELS["normalized"]
    model, x = make(), _related(64, *shape)
    kprune.prune(model, 0.5, granularity="filter", data=x, reconstruct=True)
    masked = ops.convert_to_numpy(model(x, training=False))
    stripped = kprune.strip(model)
    assert stripped.count_params() < 0.5 * make().count_params()
    np.testing.assert_allclose(
        ops.convert_to_numpy(stripped(x, training=False)),
        masked,
        rtol=0,
        atol=1e-4 * np.abs(masked).max(),
    )


@pytest.mark.parametrize("criterion", ["alps", "obs"])
def test_masks_are_chosen_on_the_way(criterion):
    model = _model(
        layers.Dense(32, activation="relu"), layers.Dense(8), shape=(32,)
    )
    x, unseen = _related(512, 32), _related(256, 32, seed=2)
    wanted = ops.convert_to_numpy(model(unseen))
    stored = [w.value().copy() for w in prunable_weights(model)]
    errors = {}
    for each in ("magnitude", criterion):
        for weight, value in zip(prunable_weights(model), stored):
            weight.variable.assign(value)
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
        kprune.prune(
            again,
            0.75,
            criterion=each,
            granularity="unstructured",
            data=x,
            reconstruct=True,
        )
        errors[each] = _error(again, unseen, wanted)
        for weight in prunable_weights(again):
            kept = np.count_nonzero(to_numpy(weight.mask))
            assert kept == weight.size - weight.size * 3 // 4
    assert errors[criterion] < 0.8 * errors["magnitude"]


def test_what_is_scored_makes_up_for_what_went_before():
    # Two equal features, of which the second goes: the kernel that serves best
    # without it, 1 + 10, is scored, not the dense one.
    model = _model(
        layers.Dense(2, use_bias=False, name="features"),
        layers.Dense(1, use_bias=False, name="sum"),
        shape=(2,),
    )
    features, total = (layer.layer for layer in model.layers)
    features.kernel.assign([[1.0, 1.0], [0.0, 0.0]])
    total.kernel.assign([[1.0], [10.0]])
    seen = []

    def first_stays(kernel, *, gram):
        seen.append((kernel.copy(), gram.copy()))
        return np.broadcast_to(-np.arange(kernel.shape[-1]), kernel.shape)

    x = np.random.default_rng(0).normal(size=(256, 2)).astype("float32")
    kprune.prune(model, 0.5, criterion=first_stays, data=x, reconstruct=True)
    kernel, gram = seen[-1]
    # The damping, 0.01 of the mean, pulls a little to the dense 1 and 10.
    assert kernel[0, 0, 0] == pytest.approx(11, abs=0.1)
    assert gram[0, 1, 1] == 0 and kernel[0, 1, 0] == 10
    np.testing.assert_allclose(
        to_numpy(total.kernel), [[11.0], [0.0]], atol=0.02
    )


def test_filters_go_by_what_their_readers_lose():
    # Of the first two units either can do the work of both.
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    model = _model(layers.Dense(4), layers.Dense(3), shape=(8,))
    first, second = prunable_weights(model)
    kernel = first.value().copy()
    kernel[:, 1] = kernel[:, 0]
    first.variable.assign(kernel)
    wanted = ops.convert_to_numpy(model(x))
    kprune.prune(
        model,
        0.25,
        criterion="obs",
        granularity="filter",
        data=x,
        reconstruct=True,
    )
    units = to_numpy(first.mask).any(axis=0)
    assert units.sum() == 3 and not units[:2].all()
    assert _error(model, x, wanted) < 1e-3


def test_it_is_repeatable_and_reads_no_labels():
    make, shape = MODELS["convolutions"]
    x = _related(100, *shape)
    found = []
    for data in (x, (x, np.arange(100)), (x, np.full(100, np.nan))):
        model = make()
        kprune.prune(model, 0.5, granularity="filter")
        kprune.reconstruct(model, data)
        found.append([to_numpy(v) for v in model.variables])
    for other in found[1:]:
        for one, two in zip(found[0], other):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_bar_is_shown_where_it_is_asked_for(capsys, verbose):
    model, x = MODELS["dense"][0](), _related(64, 6)
    how = {"granularity": "unstructured", "verbose": verbose}
    kprune.prune(model, 0.5, data=x, reconstruct=True, **how)
    shown = capsys.readouterr().out
    assert ("2/2" in shown) if verbose else not shown


def test_a_dense_model_can_be_given():
    model = _model(layers.Dense(8, "relu"), layers.Dense(3), shape=(6,))
    dense = keras.models.clone_model(model)
    dense.set_weights(model.get_weights())
    x = _related(256, 6)
    wanted = ops.convert_to_numpy(dense(x))
    kprune.prune(model, 0.5, granularity="unstructured")
    plain = kprune.strip(model, compact=False)
    zeros = kprune.sparsity(plain)
    before = _error(plain, x, wanted)
    kprune.reconstruct(plain, x, dense=kprune.strip(dense))
    assert _error(plain, x, wanted) < 0.8 * before
    assert kprune.sparsity(plain) == zeros > 0.4


def test_statistics_are_moved_as_far_as_what_they_are_of():
    model = _model(
        layers.Dense(4, use_bias=False),
        layers.BatchNormalization(),
        shape=(6,),
    )
    x = _related(64, 6) + 1.0
    (weight,) = prunable_weights(model)
    norm = model.layers[-1]
    norm.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    norm.moving_variance.assign([1.0, 2.0, 3.0, 4.0])
    dense = x @ weight.value()
    kprune.prune(model, 0.5, granularity="unstructured")
    pruned = x @ weight.masked()
    fit = np.arange(64) % 8 != 7
    result = kprune.recalibrate(model, x)
    moved = (pruned - dense)[fit].mean(axis=0)
    np.testing.assert_allclose(
        to_numpy(norm.moving_mean), np.arange(1, 5) + moved, rtol=1e-4
    )
    scale = pruned[fit].var(axis=0) / dense[fit].var(axis=0)
    np.testing.assert_allclose(
        to_numpy(norm.moving_variance), np.arange(1, 5) * scale, rtol=1e-4
    )
    assert [layer.note for layer in result.layers] == ["mean and variance"]
    assert "batch_normalization" in str(result)


def test_what_has_no_linear_kernel_is_left_and_named():
    model = _model(
        layers.Embedding(10, 6),
        layers.LSTM(4),
        layers.Dense(3),
        shape=(5,),
        dtype="int32",
    )
    kprune.prune(model, 0.5, granularity="unstructured")
    x = np.random.default_rng(0).integers(0, 10, (128, 5))
    result = kprune.reconstruct(model, x)
    notes = {layer.name: layer.note for layer in result.layers}
    assert notes["embedding/embeddings"] == (
        "left alone: an index reads one row"
    )
    assert "recurrent" in notes["lstm/recurrent_kernel"]
    assert "left alone" not in notes["dense"]


def test_a_fit_that_does_not_help_is_not_taken():
    model = _model(layers.Dense(3), shape=(200,))
    kprune.prune(model, 0.1, granularity="unstructured")
    (weight,) = prunable_weights(model)
    before = weight.masked()
    # Nothing in common with the samples that are held out.
    x = np.zeros((64, 200), "float32")
    x[np.arange(64), np.arange(64)] = 1.0
    x[7::8] = np.random.default_rng(0).normal(size=(8, 200))
    with pytest.warns(UserWarning, match="'dense' 56 for 200 inputs"):
        result = kprune.reconstruct(model, x)
    (layer,) = result.layers
    assert layer.after == layer.before
    np.testing.assert_array_equal(weight.masked(), before)
    assert layer.note.startswith("kept as it was; 56 rows for 200 inputs")


def test_bad_input():
    model = _model(layers.Dense(3), shape=(6,))
    x = _related(128, 6)
    with pytest.raises(ValueError, match="nothing is masked in it"):
        kprune.reconstruct(model, x)
    kprune.prune(model, 0.5, granularity="unstructured")
    with pytest.raises(ValueError, match="cannot compute on the samples"):
        kprune.reconstruct(model, x[:, :4])
    with pytest.raises(ValueError, match="must have the layers of `model`"):
        other = _model(layers.Dense(4), shape=(6,))
        kprune.reconstruct(model, x, dense=other)
    with pytest.warns(UserWarning, match="40 samples are few"):
        kprune.reconstruct(model, x[:40])
    with pytest.raises(ValueError, match="zero in it already. Pass `dense=`"):
        kprune.reconstruct(model, x)
    with pytest.raises(ValueError, match="Pass them as `data=`"):
        kprune.prune(model, 0.5, reconstruct=True)
    with pytest.raises(ValueError, match="asks for `gram`, which is computed"):
        kprune.prune(model, 0.5, criterion="alps")
    with pytest.raises(ValueError, match="Expected a `keras.Model`"):
        kprune.reconstruct("model.keras", x)
