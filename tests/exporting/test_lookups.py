"""Models that look up strings and integers in a vocabulary."""

import pathlib

import keras
import numpy as np
import pytest
from files import contents, on_tensorflow
from keras import layers
from models import numpy

import kprune
from kprune.command_line import main

WORDS = ["red", "green", "blue"]


def _model(lookup, dtype):
    return keras.Sequential(
        [
            keras.Input((3,), dtype=dtype),
            lookup,
            layers.Embedding(8, 4),
            layers.Flatten(),
            kprune.PrunableDense(2),
        ]
    )


def _strings(**arguments):
    arguments = {"vocabulary": WORDS, **arguments}
    return _model(layers.StringLookup(**arguments), "string")


def _integers(**arguments):
    return _model(
        layers.IntegerLookup(vocabulary=[50, 60, 70], **arguments), "int64"
    )


def _text():
    text = layers.TextVectorization(max_tokens=8, output_sequence_length=4)
    text.adapt(np.array(["red green", "green blue"]))
    return keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            text,
            layers.Embedding(8, 4),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def _names():
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int64"),
            layers.StringLookup(vocabulary=WORDS, invert=True),
        ]
    )


STRINGS = np.array([["red", "blue", "none"]], object)
INTEGERS = np.array([[50, 70, 1]])


@on_tensorflow
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (_strings, STRINGS),
        (lambda: _strings(num_oov_indices=0), STRINGS[:, [0, 1, 1]]),
        (_integers, INTEGERS),
        (lambda: _integers(num_oov_indices=0), INTEGERS[:, [0, 1, 1]]),
        (_text, np.array([["blue none red"]], object)),
        (_names, np.array([[0, 1, 3]])),
    ],
    ids=["strings", "known", "integers", "known integers", "text", "names"],
)
def test_saved_model_and_keras(tmp_path, make, x):
    import tensorflow as tf

    model = make()
    expected = numpy(model(tf.constant(x)))
    for name in 2 * ["model"] + 2 * ["model.keras"]:
        result = kprune.export(model, tmp_path / name)
        assert result.largest_difference < 1e-5
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    received = loaded.serve(tf.constant(x)).numpy()
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for outputs in (received, numpy(loaded(tf.constant(x)))):
        if outputs.dtype == object:
            assert (outputs == expected).all()
        else:
            np.testing.assert_allclose(outputs, expected, atol=1e-5)


@on_tensorflow
def test_a_vocabulary_of_a_file_is_replaced_with_its_model(tmp_path):
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("\n".join(WORDS))
    plain = kprune.strip(_strings())
    lookup = layers.StringLookup(vocabulary=str(vocabulary))
    model = keras.Sequential([plain.inputs[0], lookup, *plain.layers[1:]])
    for _ in range(2):
        kprune.export(model, tmp_path / "model")
    assert (tmp_path / "model" / "assets" / "words.txt").is_file()
    own = tmp_path / "model" / "assets" / "mine.txt"
    own.write_text("precious")
    with pytest.raises(ValueError, match=r"\['assets/mine.txt'\]"):
        kprune.export(model, tmp_path / "model")
    assert own.read_text() == "precious"


@on_tensorflow
def test_tflite_of_strings(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model = _strings()
    for _ in range(2):
        kprune.export(model, tmp_path / "model.tflite")
    interpreter = Interpreter(str(tmp_path / "model.tflite"))
    run = interpreter.get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    received = run(**{name: STRINGS})["output_0"]
    np.testing.assert_allclose(received, numpy(model(STRINGS)), atol=1e-5)
    assert kprune.export(_names(), tmp_path / "names.tflite").bytes


@on_tensorflow
def test_tflite_of_integers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lookups in front of the model"):
        kprune.export(_integers(), tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="takes strings.*quantized to int8"):
        kprune.export(
            _strings(),
            tmp_path / "model.tflite",
            quantize="int8",
            representative_data=STRINGS,
        )
    assert not list(tmp_path.iterdir())


@on_tensorflow
def test_other_texts_are_another_output(tmp_path):
    from kprune.exporting.checking import Check

    check = Check(_names(), [[np.array([[1, 2, 3]])]])
    ((expected,),) = check.expected
    assert check.difference(lambda inputs: [expected]) == 0
    with pytest.raises(RuntimeError, match="differs by 1,"):
        check.difference(lambda inputs: [expected[:, ::-1]])


@on_tensorflow
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _integers().save("integers.keras")
    kprune.strip(_strings()).save("strings.keras")
    assert main(["compact", "strings.keras", "small.keras"]) == 0
    assert main(["export", "integers.keras", "saved"]) == 0
    before = contents(pathlib.Path())
    assert main(["export", "integers.keras", "model.tflite"]) == 1
    assert "kprune: error: " in capsys.readouterr().err
    assert contents(pathlib.Path()) == before


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="has strings"
)
def test_strings_elsewhere_than_on_tensorflow(tmp_path):
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        kprune.export(_strings(), tmp_path / "model")


def test_integers_on_every_backend(tmp_path):
    result = kprune.export(_integers(), tmp_path / "model")
    assert result.largest_difference < 1e-5


@on_tensorflow
@pytest.mark.parametrize("kind", [layers.StringLookup, layers.IntegerLookup])
def test_a_learned_vocabulary_stays(kind):
    is_text = kind is layers.StringLookup
    words = np.array(WORDS if is_text else [50, 60, 70])
    lookup = kind()
    model = _model(lookup, "string" if is_text else "int64")
    early = kprune.strip(model)
    lookup.adapt(words)
    x = keras.ops.convert_to_tensor([words, words[::-1]])
    expected = numpy(model(x))
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    made = kprune.strip(model)
    np.testing.assert_allclose(numpy(made(x)), expected, atol=1e-6)
    early.layers[0].adapt(words)
    np.testing.assert_allclose(numpy(early(x)), expected, atol=1e-6)
