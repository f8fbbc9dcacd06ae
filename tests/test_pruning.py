"""prune: exact counts, units, composition, and what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers
from models import convnet, numpy

import kprune


def _dense(kernel, **kwargs):
    """A one-layer model with a given kernel."""
    kernel = np.asarray(kernel, "float32")
    layer = kprune.PrunableDense(kernel.shape[1], use_bias=False, **kwargs)
    model = keras.Sequential([keras.Input((kernel.shape[0],)), layer])
    layer.layer.set_weights([kernel])
    return model


def _mask(model, index=0, name="kernel"):
    return numpy(model.layers[index].masks[name])


def test_magnitude_mask_in_numbers():
    model = _dense([[0.5, -2.0], [-0.1, 1.0], [3.0, 0.2]])
    assert kprune.prune(model, 0.5) is model
    np.testing.assert_array_equal(
        _mask(model), [[False, True], [False, True], [True, False]]
    )
    assert kprune.sparsity(model) == 0.5


def test_counts_are_exact_with_ties():
    model = _dense(np.full((10, 10), 0.7))
    kprune.prune(model, 0.29)
    assert np.count_nonzero(~_mask(model)) == 29
    assert _mask(model).ravel()[:71].all()


def test_below_the_percentile():
    kernel = np.random.default_rng(0).normal(size=(10, 10))
    model = _dense(kernel)
    for sparsity in (0.1, 0.29, 0.8, 0.95):
        kprune.prune(model, sparsity)
        stored = np.abs(numpy(model.layers[0].layer.kernel))
        percentile = np.percentile(stored, 100 * sparsity)
        np.testing.assert_array_equal(_mask(model), stored >= percentile)


def test_one_weight_always_stays():
    model = _dense([[1.0, 2.0]])
    kprune.prune(model, 0.99)
    np.testing.assert_array_equal(_mask(model), [[False, True]])


def test_weights_come_back_until_they_are_zeroed():
    model = _dense([[1.0, 2.0, 3.0, 4.0]])
    kprune.prune(model, 0.5)
    layer = model.layers[0]
    layer.layer.set_weights([np.array([[9.0, 2.0, 3.0, 0.5]], "float32")])
    kprune.prune(model, 0.5)
    np.testing.assert_array_equal(_mask(model), [[True, False, True, False]])
    layer.apply_masks()
    for sparsity in (0.0, 0.25, 0.5):
        kprune.prune(model, sparsity, criterion="random")
        np.testing.assert_array_equal(
            _mask(model), [[True, False, True, False]]
        )
    kprune.prune(model, 0.75)
    assert np.count_nonzero(_mask(model)) == 1


def test_momentum_brings_nothing_back_that_was_zeroed():
    model = _dense(np.random.default_rng(0).normal(size=(8, 4)))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    x, y = np.ones((16, 8)), np.ones((16, 4))
    model.fit(x, y, epochs=3, verbose=0)
    kprune.prune(model, 0.75)
    model.layers[0].apply_masks()
    masked = ~_mask(model)
    model.fit(x, y, epochs=3, verbose=0)
    # The optimizer moved what is stored.
    assert numpy(model.layers[0].layer.kernel)[masked].all()
    kprune.prune(model, 0.25)
    np.testing.assert_array_equal(_mask(model), ~masked)


def test_filters_in_numbers():
    conv = kprune.PrunableConv2D(4, 1, name="conv")
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            conv,
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    kernel = np.zeros((1, 1, 2, 4), "float32")
    kernel[0, 0] = [[3.0, 0.0, 1.0, 2.0], [4.0, 0.5, 1.0, 2.0]]
    conv.layer.set_weights([kernel, np.ones(4, "float32")])
    kprune.prune(model, 0.5)
    keep = [True, False, False, True]
    np.testing.assert_array_equal(_mask(model)[0, 0], [keep, keep])
    np.testing.assert_array_equal(_mask(model, name="bias"), keep)


def test_units_mask_producers_and_readers():
    model = convnet()
    kprune.prune(model, 0.5)
    conv1, _, conv2, _, _, hidden, logits = model.layers
    first = numpy(conv1.masks["bias"])
    second = numpy(conv2.masks["bias"])
    assert first.sum() == 4 and second.sum() == 8
    expected = np.broadcast_to(first, (3, 3, 1, 8))
    np.testing.assert_array_equal(numpy(conv1.masks["kernel"]), expected)
    expected = np.broadcast_to(first[:, None] & second, (3, 3, 8, 16))
    np.testing.assert_array_equal(numpy(conv2.masks["kernel"]), expected)
    # The rows of the Dense that read a masked filter are masked, and count.
    rows = np.tile(second, 25)
    assert not numpy(hidden.masks["kernel"])[~rows].any()
    assert hidden.sparsity == 0.5 and logits.sparsity == 0.5
    assert numpy(hidden.masks["bias"]).all()


def test_unit_scores_gather_all_slices():
    first = kprune.PrunableDense(2, granularity="filter", use_bias=False)
    second = kprune.PrunableDense(1, granularity="filter", use_bias=False)
    model = keras.Sequential([keras.Input((1,)), first, second])
    first.layer.set_weights([np.array([[3.0, 4.0]], "float32")])
    second.layer.set_weights([np.array([[5.0], [1.0]], "float32")])
    # sqrt(3**2 + 5**2) against sqrt(4**2 + 1**2)
    kprune.prune(model, 0.5)
    np.testing.assert_array_equal(_mask(model, 0), [[True, False]])
    np.testing.assert_array_equal(_mask(model, 1), [[True], [False]])


def test_output_layers_keep_all_their_filters():
    model = convnet()
    kprune.prune(model, 0.75, granularity="filter")
    logits = model.layers[-1]
    assert numpy(logits.masks["bias"]).all()
    kept = numpy(logits.masks["kernel"])
    np.testing.assert_array_equal(kept.all(axis=1), kept.any(axis=1))
    assert kept.any(axis=1).sum() == 8


def test_rounding_to_a_multiple():
    model = convnet()
    kprune.prune(
        model, 0.5, granularity=kprune.granularities.Filter(multiple_of=3)
    )
    assert numpy(model.layers[0].masks["bias"]).sum() == 6
    assert numpy(model.layers[2].masks["bias"]).sum() == 9


def test_tied_layers_share_their_units():
    inputs = keras.Input((8, 8, 4))
    first = kprune.PrunableConv2D(6, 3, padding="same")
    second = kprune.PrunableConv2D(6, 1)
    x = layers.Add()([first(inputs), second(inputs)])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2)(x))

    def allocation(prunable, sparsity):
        return [0.2 if layer is first else 0.8 for layer in prunable]

    kprune.prune(model, 0.5, allocation=allocation)
    kept = numpy(first.masks["bias"])
    np.testing.assert_array_equal(numpy(second.masks["bias"]), kept)
    assert kept.sum() == 3  # the mean of both sparsities


def test_control_per_layer():
    model = convnet()

    def allocation(prunable, sparsity):
        return [
            0.0 if layer.layer.name == "logits" else sparsity
            for layer in prunable
        ]

    kprune.prune(model, 0.6, allocation=allocation, granularity="unstructured")
    assert [layer.sparsity for layer in model.layers if layer.weights] == (
        pytest.approx([0.6, 0.6, 0.6, 0.0], abs=0.02)
    )


def test_global_allocation_over_layers():
    model = keras.Sequential(
        [
            keras.Input((10,)),
            kprune.PrunableDense(10, use_bias=False),
            kprune.PrunableDense(10, use_bias=False),
        ]
    )
    weights = np.arange(1.0, 101.0, dtype="float32").reshape(10, 10)
    model.layers[0].layer.set_weights([weights])
    model.layers[1].layer.set_weights([weights + 100])
    kprune.prune(model, 0.3, allocation="global")
    assert [layer.sparsity for layer in model.layers] == [0.6, 0.0]
    kprune.prune(model, 0.9, allocation="global")
    assert [layer.sparsity for layer in model.layers] == [0.99, 0.81]


@pytest.mark.parametrize("units", [12, 10])
def test_nm_on_dense_and_convolution(units):
    model = keras.Sequential(
        [
            keras.Input((9, 9, 10)),
            kprune.PrunableConv2D(units, 3),
            layers.Flatten(),
            kprune.PrunableDense(3),
        ]
    )
    kprune.prune(model, 0.5, granularity=kprune.granularities.NM(2, 4))
    for layer in (model.layers[0], model.layers[2]):
        mask = np.moveaxis(numpy(layer.masks["kernel"]), -2, -1)
        for start in range(0, mask.shape[-1], 4):
            group = mask[..., start : start + 4]
            assert (group.sum(axis=-1) == min(2, group.shape[-1])).all()


def test_filters_of_models_without_a_graph():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = kprune.PrunableConv2D(8, 3)
            self.dense = kprune.PrunableDense(4)

        def call(self, x):
            x = self.conv(x)
            if float(keras.ops.max(x)) > 1e6:
                x = x / 2
            return self.dense(keras.ops.mean(x, axis=(1, 2)))

    model = Subclassed()
    model(np.ones((1, 6, 6, 2), "float32"))
    kprune.prune(model, 0.5)
    kernel = numpy(model.conv.masks["kernel"])
    kept = kernel.any(axis=(0, 1, 2))
    assert kept.sum() == 4
    np.testing.assert_array_equal(kernel.all(axis=(0, 1, 2)), kept)
    np.testing.assert_array_equal(numpy(model.conv.masks["bias"]), kept)
    assert model.dense.sparsity == 0.5


def test_sparsity_of_plain_and_prunable_models():
    model = convnet()
    assert kprune.sparsity(model) == 0.0
    kprune.prune(model, 0.5, granularity="unstructured")
    assert kprune.sparsity(model) == pytest.approx(0.5, abs=1e-3)
    stripped = kprune.strip(model, compact=False)
    assert kprune.sparsity(stripped) == kprune.sparsity(model)
    empty = keras.Sequential([keras.Input((2,)), layers.ReLU()])
    assert kprune.sparsity(empty) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"must be in \[0, 1\).*sparsity=1.0"),
        ({"sparsity": -0.1}, r"must be in \[0, 1\)"),
        ({"sparsity": float("nan")}, r"must be in \[0, 1\).*nan"),
        ({"sparsity": "0.5"}, r"must be a number in \[0, 1\).*type str"),
        ({"sparsity": None}, "must be a number"),
        ({"criterion": "l1"}, r"Unknown criterion.*'magnitude'.*'wanda'"),
        ({"granularity": "channel"}, "Unknown granularity.*'filter'"),
        ({"allocation": "erk"}, r"Unknown allocation.*'lamp', 'uniform'\]"),
        ({"criterion": lambda kernel: kernel[:1]}, "kernel's shape"),
        (
            {"granularity": lambda scores, sparsity: scores, "sparsity": 0.4},
            "boolean mask of the kernel's shape.*'kernel' of layer",
        ),
        ({"allocation": lambda layers, s: [s]}, "must return 4 sparsities"),
        ({"allocation": lambda layers, s: None}, "return 4 sparsities.*: None"),
        ({"allocation": lambda layers, s: s}, "return 4 sparsities.*: 0.5"),
        (
            {"allocation": lambda layers, s: [s, s, s, 2.0]},
            "sparsity of 'logits'",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kprune.prune(convnet(), **{"sparsity": 0.5, **arguments})


def test_nothing_to_prune_shows_the_line_to_write():
    plain = keras.Sequential([keras.Input((2,)), layers.Dense(2)], name="net")
    with pytest.raises(
        ValueError, match=r"'net'[\s\S]*model = kprune.make_prunable\(model\)"
    ):
        kprune.prune(plain, 0.5)
    for no_model in ("model.keras", None):
        with pytest.raises(ValueError, match=r"Expected a `keras.Model`"):
            kprune.prune(no_model, 0.5)
        with pytest.raises(ValueError, match=r"Expected a `keras.Model`"):
            kprune.sparsity(no_model)
    unbuilt = keras.Sequential([kprune.PrunableDense(2)], name="net")
    with pytest.raises(ValueError, match=r"'net' is not built.*keras.Input"):
        kprune.prune(unbuilt, 0.5)
    frozen = convnet()
    frozen.trainable = False
    with pytest.raises(ValueError, match="frozen.*trainable"):
        kprune.prune(frozen, 0.5)


def _shared(second):
    """A model in which the layer of a wrapper is used elsewhere as well."""
    dense = layers.Dense(4, name="shared")
    inputs = keras.Input((8,))
    first = kprune.PrunableDense(dense, name="first")(inputs)
    return keras.Model(
        inputs, layers.Concatenate()([first, second(dense)(inputs)])
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: _shared(lambda dense: dense),
            "'shared' is in the prunable layer 'first', and model",
        ),
        (
            lambda: _shared(
                lambda dense: kprune.PrunableDense(dense, name="second")
            ),
            "two prunable layers, 'first' and 'second'",
        ),
        (
            lambda: keras.Sequential(
                [
                    keras.Input((3, 8)),
                    layers.TimeDistributed(kprune.PrunableDense(4)),
                ]
            ),
            r"Wrap the outer.*PrunableLayer\(keras.layers.TimeDistributed\(",
        ),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda model: kprune.prune(model, 0.5),
        kprune.strip,
        lambda model: kprune.strip(model, compact=False),
    ],
)
def test_a_layer_whose_masks_do_not_count_everywhere(make, message, use):
    with pytest.raises(ValueError, match=message):
        use(make())


def test_a_model_can_keep_the_layers_that_it_wraps():
    class Keeping(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)
            self.prunable = kprune.PrunableDense(self.dense)

        def call(self, x):
            return self.prunable(x)

    model = Keeping()
    model(np.ones((1, 8)))
    assert kprune.sparsity(kprune.prune(model, 0.5)) == 0.5


def test_a_granularity_that_keeps_nothing():
    model = _dense([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="keep at least one weight.*'kernel'"):
        kprune.prune(
            model, 0.5, granularity=lambda scores, s: np.zeros((2, 2), bool)
        )
    assert _mask(model).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_cannot_be_ranked_are_named(bad):
    model = _dense([[1.0, bad], [2.0, 3.0]], name="broken")
    with pytest.raises(ValueError, match="'kernel' of layer 'broken'"):
        kprune.prune(model, 0.5)
    assert _mask(model).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_weight_of_many_is_found(bad):
    kernel = np.random.default_rng(0).normal(size=(400, 1000))
    kernel[-1, -1] = bad
    model = _dense(kernel, name="broken")
    with pytest.raises(ValueError, match="'kernel' of layer 'broken'"):
        kprune.prune(model, 0.5)
    assert _mask(model).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.1])
def test_a_bad_weight_is_found_where_nothing_goes_too(sparsity):
    model = _dense([[1.0, np.nan], [2.0, 3.0]])
    with pytest.raises(ValueError, match="nan or infinite"):
        kprune.prune(model, sparsity)


class KeepsTheLowest(kprune.granularities.Unstructured):
    def __call__(self, scores, sparsity):
        return super().__call__(-scores, sparsity)


def test_a_subclass_of_unstructured_makes_its_own_masks():
    model = _dense([[0.5, -2.0], [-0.1, 1.0]])
    kprune.prune(model, 0.5, granularity=KeepsTheLowest())
    np.testing.assert_array_equal(_mask(model), [[True, False], [True, False]])


def test_weights_that_a_freeze_zeroed_stay_gone_in_a_large_kernel_too():
    kernel = np.ones((400, 1000))
    kernel[:100] = 0.5
    model = kprune.prune(_dense(kernel), 0.25)
    gone = ~_mask(model)
    model.layers[0].apply_masks()
    # As low as those, and of equal scores the lower index would stay.
    kernel[:100] = 0
    kernel[300:] = 0
    model.layers[0].layer.kernel.assign(kernel)
    kprune.prune(model, 0.25)
    np.testing.assert_array_equal(~_mask(model), gone)
    assert gone[:100].all()


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="a setting of torch"
)
def test_they_stay_gone_where_denormal_numbers_are_zeros():
    import torch

    torch.set_flush_denormal(True)
    try:
        test_weights_that_a_freeze_zeroed_stay_gone_in_a_large_kernel_too()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("granularity", ["unstructured", "filter"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_failed_update_leaves_all_masks_as_they_were(granularity, allocation):
    model = kprune.prune(convnet(), 0.5)
    prunable = [x for x in model.layers if isinstance(x, kprune.PrunableLayer)]
    before = [numpy(m) for layer in prunable for m in layer.masks.values()]
    kernel = prunable[-1].layer.kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="'logits'.*nan"):
        kprune.prune(model, 0.8, granularity=granularity, allocation=allocation)
    after = [numpy(m) for layer in prunable for m in layer.masks.values()]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_all_filters_have_to_stay_the_reason_is_named():
    model = keras.Sequential(
        [keras.Input((4,)), kprune.PrunableDense(8, name="only")]
    )
    with pytest.raises(ValueError, match="No filter.*output of the model"):
        kprune.prune(model, 0.5, granularity="filter")
    kprune.prune(model, 0.5, granularity="unstructured")
    assert model.layers[0].sparsity == 0.5


def test_filters_of_a_transposed_convolution_without_a_graph():
    class Branching(keras.Model):
        def __init__(self):
            super().__init__()
            self.up = kprune.PrunableLayer(layers.Conv2DTranspose(4, 3))

        def call(self, x):
            return self.up(x) if keras.ops.sum(x) > 0 else -self.up(x)

    model = Branching()
    model(np.ones((1, 5, 5, 6), "float32"))
    kprune.prune(model, 0.5)
    kernel, bias = (numpy(model.up.masks[name]) for name in ("kernel", "bias"))
    assert kernel.shape == (3, 3, 4, 6)
    np.testing.assert_array_equal(kernel.any(axis=(0, 1, 3)), bias)
    np.testing.assert_array_equal(kernel.all(axis=(0, 1, 3)), bias)
    assert bias.sum() == 2
