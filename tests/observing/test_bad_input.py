"""Bad data, losses, criteria and layers: the model stays as it was."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.weights import to_numpy

X = np.random.default_rng(0).normal(size=(96, 6)).astype("float32")
Y = np.zeros((96, 3), "float32")
SINGLE = {"granularity": "unstructured"}


def _model(inputs=6):
    return kprune.make_prunable(
        keras.Sequential(
            [
                keras.Input((inputs,)),
                layers.Dense(8, name="first"),
                layers.BatchNormalization(),
                layers.Dense(3, name="last"),
            ]
        )
    )


def _pruned():
    return kprune.prune(_model(), 0.5, **SINGLE)


@contextlib.contextmanager
def left_alone(model):
    """Asserts that all of a model is afterwards what it was."""
    before = [to_numpy(variable).copy() for variable in model.variables]
    yield
    for was, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), was)


def _refused(model, words, use):
    with left_alone(model), pytest.raises(ValueError, match=words):
        use(model)


DATA = {
    "none": (None, "`data=`|`data` must be what `fit` takes"),
    "empty": (X[:0], "`data` is empty"),
    "shape": (X[:, :4], r"cannot compute .* of shape \(\d+, 4\)"),
    "shape of a later batch": (
        [(X,), (X[:, :4],)],
        r"cannot compute .* of shape \(\d+, 4\)",
    ),
    "nan": (np.where(np.eye(96, 6) > 0, np.nan, X), "nan or infinite"),
}
WAYS = {
    "prune": (_model, dict(criterion="wanda")),
    "prune groups": (_model, dict(criterion="obs", granularity="filter")),
    "fit": (_model, dict(reconstruct=True)),
    "fit by obs": (_model, dict(criterion="obs", reconstruct=True)),
    "reconstruct": (_pruned, kprune.reconstruct),
    "recalibrate": (_pruned, kprune.recalibrate),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", DATA)
def test_data(name, way):
    data, words = DATA[name]
    make, use = WAYS[way]
    if isinstance(use, dict):
        how = {**SINGLE, **use}
        _refused(
            make(),
            words,
            lambda model: kprune.prune(model, 0.5, data=data, **how),
        )
    else:
        _refused(make(), words, lambda model: use(model, data))


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize(
    ("compiled", "loss", "y", "words"),
    [
        (None, "mse", None, "need targets"),
        (dict(loss="mse"), None, None, "need targets"),
        (None, None, Y, "is not compiled. Compile it, or pass `loss=`"),
        (dict(optimizer="sgd"), None, Y, "is compiled without one"),
        (None, "wrong", Y, "Could not interpret loss"),
        (None, "mse", Y[:, :2], r"the targets in `data`, of shape \(32, 2\)"),
        (None, "mse", Y * np.nan, "nan in its targets"),
    ],
)
def test_losses(compiled, loss, y, words, reconstruct):
    model = _model()
    if compiled:
        model.compile(**compiled)
    how = dict(criterion="taylor", loss=loss, reconstruct=reconstruct, **SINGLE)
    data = X if y is None else (X, y)
    _refused(model, words, lambda m: kprune.prune(m, 0.5, data=data, **how))


def asks_too_much(kernel, *, weather):
    return kernel


def nan_of_norms(kernel, *, input_norm):
    return kernel * np.nan


def nan_at_last(kernel, *, gram):
    """Once the layers before are fitted already."""
    return np.abs(kernel) * (np.nan if kernel.shape[-1] == 3 else 1.0)


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (asks_too_much, "asks for `weather`, which is not known"),
        (nan_of_norms, "returned scores that are nan or infinite"),
        (nan_at_last, "returned scores that are nan .* of layer 'last'"),
    ],
)
def test_criteria(criterion, words, reconstruct):
    how = dict(criterion=criterion, reconstruct=reconstruct, **SINGLE)
    _refused(
        _model(), words, lambda model: kprune.prune(model, 0.5, data=X, **how)
    )


CHANGED = {
    "int8": lambda layer: layer.quantize("int8"),
    "LoRA": lambda layer: layer.enable_lora(2),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_layers_that_are_pruned_no_longer(kind):
    model, dense = _pruned(), _model()
    plain = kprune.strip(model, compact=False)
    CHANGED[kind](model.layers[0].layer)
    words = "Layer 'first' has changed since it was wrapped"
    _refused(model, words, lambda m: kprune.reconstruct(m, X))
    how = dict(criterion="wanda", **SINGLE)
    for reconstruct in (False, True):
        how["reconstruct"] = reconstruct
        _refused(model, words, lambda m: kprune.prune(m, 0.5, data=X, **how))
    CHANGED[kind](plain.layers[0])
    words = "where the dense model has 'first'.*before `quantize`"
    _refused(plain, words, lambda m: kprune.reconstruct(m, X, dense=dense))


@pytest.mark.parametrize("kind", CHANGED)
def test_layers_that_cannot_be_pruned_are_left(kind):
    plain = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8), layers.Dense(3)]
    )
    CHANGED[kind](plain.layers[0])
    model = kprune.make_prunable(plain)
    with left_alone(model.layers[0]):
        kprune.prune(model, 0.5, data=X, reconstruct=True, **SINGLE)
    assert kprune.report(model).prunable_sparsity == 0.5


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "obs", "alps"])
def test_inputs_that_are_always_0_keep_their_weights(criterion):
    model = _model()
    first = model.layers[0]
    kernel = to_numpy(first.layer.kernel).copy()
    dead = X * np.array([0, 1, 1, 0, 1, 1], "float32")
    kprune.prune(
        model, 0.5, criterion=criterion, data=dead, reconstruct=True, **SINGLE
    )
    mask = to_numpy(first.masks["kernel"])
    assert np.count_nonzero(mask) == 24
    now = to_numpy(first.layer.kernel)
    np.testing.assert_array_equal(now[[0, 3]], (kernel * mask)[[0, 3]])
    assert np.isfinite(now).all()


def test_where_nothing_is_read_nothing_changes():
    model = _pruned()
    dense = kprune.strip(model, compact=False)
    with left_alone(dense):
        kprune.reconstruct(dense, 0 * X, dense=_model())


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "obs", "alps"])
def test_a_layer_of_zeros_stays_one(criterion):
    model = _model()
    for layer in (model.layers[0].layer, model.layers[-1].layer):
        layer.kernel.assign(np.zeros(layer.kernel.shape))
        kprune.prune(
            model, 0.5, criterion=criterion, data=X, reconstruct=True, **SINGLE
        )
        assert not to_numpy(layer.kernel).any()
        assert to_numpy(model.get_layer("last").masks["kernel"]).mean() == 0.5


def test_a_layer_of_zeros_hides_no_dense_model():
    model = _model()
    model.layers[0].layer.kernel.assign(np.zeros((6, 8)))
    kprune.prune(model, 0.5, **SINGLE)
    result = kprune.reconstruct(model, X)
    assert result.layers[0].note == "kept as it was"


def test_few_samples_are_said_with_their_number():
    # Of 96 samples 84 are to fit to, the others to check.
    model = kprune.prune(_model(200), 0.5, **SINGLE)
    x = np.random.default_rng(0).normal(size=(96, 200)).astype("float32")
    words = "some layers have inputs: 'first' 84 for 200 inputs. What"
    with pytest.warns(UserWarning, match=words):
        kprune.reconstruct(model, x)
    model = kprune.prune(_model(84), 0.5, **SINGLE)
    kprune.reconstruct(model, x[:, :84])  # no warning
    model = kprune.prune(_model(200), 0.5, **SINGLE)
    with pytest.warns(UserWarning, match="1 samples are few"):
        result = kprune.reconstruct(model, x[:1])
    for variable in model.variables:
        assert np.isfinite(to_numpy(variable)).all()
    assert result.samples == 1
