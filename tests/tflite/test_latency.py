"""Latency of .tflite files against a reference, in LiteRT's interpreter."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.tflite import latency

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the files are the same, and are written faster here",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A net, and one of a sixteenth of its multiply-accumulates."""
    folder = tmp_path_factory.mktemp("latency")
    for name, filters in (("dense", 128), ("pruned", 32)):
        model = keras.Sequential(
            [
                keras.Input((16, 16, filters)),
                layers.Conv2D(filters, 3, padding="same"),
            ]
        )
        kprune.export(model, folder / f"{name}.tflite")
    return folder / "dense.tflite", folder / "pruned.tflite"


def test_a_smaller_net_is_faster_and_the_control_is_not(files):
    dense, pruned = files
    timed = latency.measure(pruned, dense, rounds=15)
    assert timed.rounds == 15
    # The counts differ by 16; the machine may be busy with other things.
    assert timed.ratio.median < 0.5
    assert 0.5 < timed.control.median < 2
    for ratio in (timed.ratio, timed.control):
        assert 0 < ratio.low <= ratio.median <= ratio.high
    assert timed.seconds < timed.reference_seconds


def test_no_time_without_a_reference_beside_it(files):
    dense, pruned = files
    cost = kprune.cost(pruned, reference=dense)
    timed = cost.latency
    lines = str(cost).splitlines()
    (line,) = [line for line in lines if "Latency" in line]
    assert str(timed.ratio) in line
    (line,) = [line for line in lines if "of itself" in line]
    assert str(timed.control) in line
    (line,) = [line for line in lines if "Milliseconds" in line]
    assert f"{1000 * timed.reference_seconds:.3f}" in line
    as_dict = json.loads(json.dumps(cost.to_dict()))
    assert as_dict["latency"]["control"]["low"] == timed.control.low
    assert kprune.cost(pruned).latency is None


def test_a_ratio_is_the_median_of_paired_rounds(monkeypatch, files):
    # The machine slows down in between; every round has the same ratio.
    durations = iter(np.repeat([1e-2, 1e-2, 1e-2, 4e-2, 5e-2], 3))
    monkeypatch.setattr(latency, "_run", lambda *_: float(next(durations)))
    timed = latency.measure(*files, rounds=4)
    assert timed.ratio.median == timed.control.low == timed.control.high == 1
    assert timed.seconds == timed.reference_seconds == pytest.approx(2.5e-2)


@pytest.mark.parametrize("index", [0, 1])
def test_a_file_that_is_missing_or_damaged(tmp_path, files, index):
    damaged = tmp_path / "cut.tflite"
    damaged.write_bytes(files[0].read_bytes()[:1000])
    for path, message in (
        (damaged, "cut.tflite' is a damaged"),
        (tmp_path / "none.tflite", "There is no file"),
    ):
        paths = list(files)
        paths[index] = path
        with pytest.raises(ValueError, match=message):
            latency.measure(*paths)


def test_only_the_batch_of_a_file_can_be_open(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None, None, 3), name="image"),
            layers.Conv2D(2, 3, padding="same"),
        ]
    )
    path = tmp_path / "open.tflite"
    kprune.export(model, path)
    with pytest.raises(ValueError, match="with `input_signature`") as raised:
        latency.load(path)
    assert "image" in str(raised.value)
    assert "of shape (1, None, None, 3)" in str(raised.value)
    kprune.export(model, path, input_signature=(None, 8, 8, 3))
    (detail,) = latency.load(path).get_input_details()
    assert list(detail["shape"]) == [1, 8, 8, 3]


def test_inputs_of_every_type(tmp_path):
    tokens = keras.Input((4,), dtype="int32")
    other = keras.Input((3,))
    x = layers.Flatten()(layers.Embedding(2, 3)(tokens))
    y = layers.Dense(2)(layers.Concatenate()([x, other]))
    kprune.export(keras.Model([tokens, other], y), tmp_path / "mixed.tflite")
    latency.load(tmp_path / "mixed.tflite").invoke()
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    kprune.export(
        model,
        tmp_path / "integer.tflite",
        quantize="int8",
        representative_data=np.ones((3, 4), "float32"),
        integer_io=True,
    )
    interpreter = latency.load(tmp_path / "integer.tflite")
    (detail,) = interpreter.get_input_details()
    assert detail["dtype"] == np.int8
    assert np.ptp(interpreter.get_tensor(detail["index"])) > 0
