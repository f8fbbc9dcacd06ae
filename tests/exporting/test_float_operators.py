"""What of an int8 file computes with floats, and is said to."""

import keras
import numpy as np
from files import on_tensorflow
from keras import layers

import kprune

pytestmark = on_tensorflow


def _note(path, model, x, **arguments):
    result = kprune.export(
        model, path, quantize="int8", representative_data=x, **arguments
    )
    return result.note


def _x(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_an_operator_without_an_int8_kernel(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 4, 2)),
            layers.Conv3D(3, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    path, x = tmp_path / "model.tflite", _x(8, 4, 4, 4, 2)
    assert _note(path, model, x).endswith("With floats: CONV_3D.")
    note = _note(path, model, x, sparse=True)
    assert note.startswith("A sparse file is not smaller: ")
    assert note.endswith("With floats: CONV_3D.")


def test_files_that_are_all_int8_have_no_note(tmp_path):
    path = tmp_path / "model.tflite"
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    assert not _note(path, model, _x(8, 8, 8, 3))
    assert not _note(path, model, _x(8, 8, 8, 3), integer_io=True)
    # Numbers of words stay integers of 32 bits, which are no floats.
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Embedding(2, 4),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    words = np.random.default_rng(0).integers(2, size=(8, 3))
    assert not _note(path, model, words)
