"""Representative data: every way to give it, and what does not fit."""

import keras
import numpy as np
import pytest
from files import on_tensorflow
from keras import layers

import kprune
from kprune.exporting import representative

pytestmark = on_tensorflow


def _small():
    return keras.Sequential(
        [keras.Input((8,), name="x"), kprune.PrunableDense(4)]
    )


def _two_inputs():
    image = keras.Input((4, 4, 1), name="image")
    token = keras.Input((3,), dtype="int32", name="my token")
    table = layers.Embedding(2, 4)
    x = [layers.Flatten()(image), layers.Flatten()(table(token))]
    x = layers.Concatenate()(x)
    return keras.Model(
        {"image": image, "my token": token}, kprune.PrunableDense(5)(x)
    )


def _data(samples=6):
    generator = np.random.default_rng(0)
    return {
        "image": generator.normal(size=(6, 4, 4, 1))[:samples],
        "my token": generator.integers(2, size=(6, 3))[:samples],
    }


def _x(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _raises():
    yield _x(2, 8)
    raise FileNotFoundError("no image 3")


def _raises_value_error():
    raise ValueError("bad label")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "needs `representative_data`: some hundred"),
        (_x(0, 8), "is empty"),
        ([], "is empty"),
        (lambda: [], "is empty"),
        (_x(3, 7), r"shape \(samples, 8\). Received: \(3, 7\)"),
        (_x(8), r"shape \(samples, 8\). Received: \(8,\)"),
        ([_x(8), _x(8)], r"shape \(samples, 8\). Received: \(8,\)"),
        (np.full((2, 8), "a"), "'x' must hold float32.*Received: <U1"),
        (np.full((2, 8), None), "'x' must hold float32.*Received: object"),
        (np.full((2, 8), np.nan), "'x' has nan or infinite values"),
        (np.full((2, 8), np.inf), "'x' has nan or infinite values"),
        (_raises, "raised FileNotFoundError: no image 3"),
        (_raises(), "raised FileNotFoundError: no image 3"),
        (_raises_value_error, "`representative_data` raised ValueError: bad"),
        (5, "`representative_data` raised TypeError"),
        ({"y": _x(2, 8)}, r"names \['x'\]. Received: \['y'\]"),
        ([5], "must give 1 arrays.*Received: 5"),
        ([[_x(2, 8), _x(2, 8)]], "must give 1 arrays.*Received: 2 of them"),
    ],
)
def test_representative_data_that_does_not_fit(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        kprune.export(
            _small(),
            tmp_path / "model.tflite",
            quantize="int8",
            representative_data=data,
        )
    assert not list(tmp_path.iterdir())


def test_representative_data_of_several_inputs_that_does_not_fit(tmp_path):
    def export(data):
        kprune.export(
            _two_inputs(),
            tmp_path / "model.tflite",
            quantize="int8",
            representative_data=data,
        )

    data = _data()
    with pytest.raises(ValueError, match=r"as many samples.*\[6, 5\]"):
        export({**data, "my token": data["my token"][:5]})
    with pytest.raises(ValueError, match="'my token' must hold int32"):
        export({**data, "my token": data["my token"] * 0.5})
    with pytest.raises(ValueError, match="must give 2 arrays.*Received: 3 of"):
        export([[data["image"], data["my token"], data["image"]]])


class Sequence(keras.utils.PyDataset):
    """Keras's own datasets of batches, which do not end by themselves."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = {key: x[2 * index : 2 * index + 2] for key, x in _data().items()}
        return part, np.zeros(2)


def _dataset():
    import tensorflow as tf

    data = {key: x.astype("float32") for key, x in _data().items()}
    data["my token"] = data["my token"].astype("int32")
    dataset = tf.data.Dataset.from_tensor_slices((data, np.zeros(6)))
    return dataset.batch(2).repeat()


@pytest.mark.parametrize(
    "data",
    [
        _data,
        lambda: list(_data().values()),
        lambda: [list(_data(1).values())] * 3,
        lambda: iter([_data(2), _data(3)]),
        lambda: [(list(_data().values()), np.zeros(6))],
        lambda: lambda: [_data()],
        lambda: Sequence(),
        _dataset,
    ],
    ids=[
        *("dict", "list", "rows", "iterator", "with labels", "callable"),
        *("PyDataset", "tf.data, endless"),
    ],
)
def test_ways_to_give_representative_data(data):
    model = _two_inputs()
    shapes = [(1, *tensor.shape[1:]) for tensor in model.inputs]
    batches = representative.batches_of(model, shapes, data())
    image, token = batches[0]
    np.testing.assert_array_equal(image, _data()["image"][:1].astype("float32"))
    np.testing.assert_array_equal(token, _data()["my token"][:1])
    assert (image.dtype, token.dtype) == ("float32", "int32")
    assert len(batches) <= 500


def test_int8_of_several_inputs(tmp_path):
    result = kprune.export(
        _two_inputs(),
        tmp_path / "model.tflite",
        quantize="int8",
        representative_data=_data(),
    )
    assert result.largest_difference < 0.1


def test_samples_of_several_lengths(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None, 8), name="x"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    for size in (1, 3):
        with pytest.raises(ValueError, match=r"need the same shape.*\(4, 8\)"):
            kprune.export(
                model,
                tmp_path / "model.tflite",
                quantize="int8",
                input_signature=(size, None, 8),
                representative_data=[_x(4, 6, 8), _x(4, 4, 8)],
            )
    assert not list(tmp_path.iterdir())
