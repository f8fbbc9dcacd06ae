"""Recurrent layers with `stateful=True`: files with a state of their own."""

import keras
import numpy as np
import pytest
from files import needs_onnx, on_tensorflow
from keras import layers
from models import numpy

import kprune
from kprune.exporting import litert


def _model(**arguments):
    return keras.Sequential(
        [
            keras.Input((6, 8), batch_size=1),
            layers.LSTM(4, stateful=True, **arguments),
            layers.Dense(2),
        ]
    )


def _x(samples=1):
    generator = np.random.default_rng(0)
    return generator.normal(size=(samples, 6, 8)).astype("float32")


def _states(model):
    return [numpy(state) for state in model.layers[0].states]


@pytest.mark.parametrize("name", ["model", "model.tflite", "model.keras"])
@pytest.mark.parametrize("calls", [0, 1])
def test_the_models_own_state_stays(tmp_path, name, calls):
    model = _model()
    for _ in range(calls):
        model(_x())
    before = _states(model)
    result = kprune.export(model, tmp_path / name)
    assert result.largest_difference < 1e-5
    np.testing.assert_array_equal(_states(model), before)


def _tflite(path):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path)).get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    return lambda x: run(**{name: x})["output_0"]


def _saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def run(x, loaded=loaded):
        return loaded.serve(tf.constant(x)).numpy()

    return run


@pytest.mark.parametrize(
    ("name", "load"), [("model", _saved_model), ("model.tflite", _tflite)]
)
def test_a_file_goes_on_from_its_state(tmp_path, name, load):
    model = _model()
    kprune.export(model, tmp_path / name)
    run = load(tmp_path / name)
    expected = [numpy(model(_x())) for _ in range(3)]
    assert np.abs(expected[0] - expected[2]).max() > 1e-3
    received = [run(_x()) for _ in range(3)]
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_every_run_of_a_check_starts_anew(tmp_path):
    model = _model()
    path = tmp_path / "model.tflite"
    kprune.export(model, path)
    run = litert.load(path, model, None)
    first, second = run([_x()]), run([_x()])
    np.testing.assert_array_equal(first, second)
    assert np.abs(first).max() > 0


@on_tensorflow
def test_int8_of_several_batches(tmp_path):
    model = _model(unroll=True)
    result = kprune.export(
        model,
        tmp_path / "model.tflite",
        quantize="int8",
        representative_data=_x(8),
    )
    assert result.largest_difference < 0.1
    assert not np.any(_states(model))


@needs_onnx
def test_onnx_has_no_state(tmp_path):
    with pytest.raises(ValueError, match="keeps no state.*initial_state"):
        kprune.export(_model(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
