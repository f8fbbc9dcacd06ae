"""Models that Keras 2 saved as `.h5`: the same numbers, or a refusal."""

import json
import pathlib

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from models import assert_equal_outputs

import kprune
from kprune import files

# Written by tf_keras 2.21, with an input and what the model made of it: nested
# models, called twice and once, names with `/`, tensors as keyword arguments.
FILE = pathlib.Path(__file__).parent / "data" / "keras_2.h5"


# Keras 2 held a single input in a list.
@pytest.mark.filterwarnings("ignore:The structure of `inputs` does")
def test_a_file_of_keras_2():
    before = FILE.read_bytes()
    model = files.load_model(FILE)
    with h5py.File(FILE) as file:
        sample = file["sample"][()]
        expected = [file[name][()] for name in ("logits", "state")]
    for one, other in zip(expected, model(sample, training=False)):
        other = keras.ops.convert_to_numpy(other)
        assert np.abs(one).max() > 0.3  # live signal
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)
    assert FILE.read_bytes() == before
    assert "head_logits" in [layer.name for layer in model.layers]
    inside = [*model.layers, *model.get_layer("base").layers]
    assert all(type(x).__module__.startswith("keras.") for x in inside)


@pytest.mark.filterwarnings("ignore:The structure of `inputs` does")
def test_a_model_of_keras_2_is_pruned_and_saved(tmp_path):
    model = kprune.make_prunable(files.load_model(FILE))
    kprune.prune(model, 0.5, granularity="unstructured")
    result = kprune.export(model, tmp_path / "small.keras")
    assert result.largest_difference < 1e-5
    assert kprune.cost(tmp_path / "small.keras").zeros > 500
    assert kprune.cost(FILE).parameters == 2540


SEPARABLE = {
    "groups": 1,
    "kernel_initializer": {"class_name": "Zeros", "config": {}},
    "kernel_regularizer": None,
    "kernel_constraint": None,
}
IMAGE, ROWS, VOLUME = (6, 6, 2), (6, 2), (4, 4, 4, 2)
# What Keras 2 wrote of each, beside what Keras 3 does.
LAYERS = [
    (IMAGE, lambda: layers.DepthwiseConv2D(3), {"groups": 1}),
    (ROWS, lambda: layers.DepthwiseConv1D(3), {"groups": 1}),
    (IMAGE, lambda: layers.SeparableConv2D(3, 3), SEPARABLE),
    (ROWS, lambda: layers.SeparableConv1D(3, 3), SEPARABLE),
    (ROWS, lambda: layers.Conv1DTranspose(3, 3), {"groups": 1}),
    (IMAGE, lambda: layers.Conv2DTranspose(3, 3), {"groups": 1}),
    (VOLUME, lambda: layers.Conv3DTranspose(3, 3), {"groups": 1}),
    (ROWS, lambda: layers.SimpleRNN(3, "relu"), {"time_major": False}),
    (ROWS, lambda: layers.LSTM(3), {"time_major": False}),
    (ROWS, lambda: layers.GRU(3), {"time_major": False}),
    (ROWS, lambda: layers.RNN(layers.LSTMCell(3)), {"time_major": False}),
    (
        (2, *IMAGE),
        lambda: layers.ConvLSTM2D(3, 3, recurrent_activation="sigmoid"),
        {"time_major": False},
    ),
    (IMAGE, lambda: layers.SpatialDropout2D(0.5), {"trainable": True}),
    (IMAGE, lambda: layers.RandomFlip(), {"rng_type": "stateful"}),
    (IMAGE, lambda: layers.BatchNormalization(), {"axis": [3]}),
    (IMAGE, lambda: layers.Conv2D(4, 3, groups=2), {"groups": 2}),
]


def _rewrite(path, change, version="2.15.0"):
    """Puts a config in the words of Keras 2."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config["config"]["layers"])
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["keras_version"] = version


def _saved(path, shape, layer, said, version="2.15.0"):
    model = keras.Sequential([keras.Input(shape), layer])
    generator = np.random.default_rng(0)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(generator.uniform(0.1, 1, variable.shape))
    model.save(path)
    _rewrite(path, lambda parts: parts[-1]["config"].update(said), version)
    return model


@pytest.mark.parametrize(
    "shape, make, said",
    LAYERS,
    ids=[type(make()).__name__ for _, make, _ in LAYERS],
)
def test_what_keras_2_wrote_of_each_layer(tmp_path, float64, shape, make, said):
    model = _saved(tmp_path / "old.h5", shape, make(), said)
    loaded = files.load_model(tmp_path / "old.h5")
    assert type(loaded.layers[-1]) is type(model.layers[-1])
    x = np.random.default_rng(1).normal(size=(2, *shape))
    assert_equal_outputs(model, loaded, x)


@pytest.mark.parametrize(
    "make, said, words",
    [
        (lambda: layers.LSTM(3), {"time_major": True}, "time_major"),
        (lambda: layers.DepthwiseConv1D(3), {"groups": 2}, "groups"),
        (
            lambda: layers.Dense(3),
            {"activation": "hard_sigmoid"},
            "'hard_sigmoid'.*another function in Keras 3",
        ),
        (
            lambda: layers.LSTM(3),
            {"recurrent_activation": "hard_sigmoid"},
            "'hard_sigmoid'.*another function in Keras 3",
        ),
        (lambda: layers.Softmax(), {"axis": [1, 2]}, "which Keras loses"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    tmp_path, make, said, words
):
    _saved(tmp_path / "old.h5", ROWS, make(), said)
    with pytest.raises(ValueError, match=f"(?s)old.h5.*{words}") as caught:
        files.load_model(tmp_path / "old.h5")
    assert len(str(caught.value)) < 500


def test_a_hard_sigmoid_of_keras_3_stays(tmp_path, float64):
    model = _saved(
        tmp_path / "new.h5",
        ROWS,
        layers.Dense(3, activation="hard_sigmoid"),
        {},
        version=keras.version(),
    )
    x = np.random.default_rng(1).normal(size=(2, *ROWS))
    assert_equal_outputs(model, files.load_model(tmp_path / "new.h5"), x)


def test_layers_that_only_keras_2_has_are_named(tmp_path):
    _saved(tmp_path / "old.h5", ROWS, layers.ReLU(), {})
    _rewrite(
        tmp_path / "old.h5",
        lambda parts: parts[-1].update(class_name="TFOpLambda"),
    )
    with pytest.raises(ValueError, match="'TFOpLambda' is not known here"):
        files.load_model(tmp_path / "old.h5")


def test_the_policy_of_keras_2(tmp_path):
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    _saved(tmp_path / "old.h5", ROWS, layers.Dense(3), {"dtype": policy})
    loaded = files.load_model(tmp_path / "old.h5")
    assert loaded.layers[-1].compute_dtype == "float16"
    assert loaded.layers[-1].variable_dtype == "float32"


def test_a_keras_file_of_keras_2_says_what_to_do(tmp_path):
    import zipfile

    path = tmp_path / "old.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "2.15.0"}')
        config = {"module": "keras.src.engine", "class_name": "Functional"}
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(ValueError, match="by Keras 2.15.0.*'name.h5'"):
        files.load_model(path)
