"""The accuracy in a report: what can be given as data, and what cannot."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.measuring.accuracy import accuracies

X = np.eye(3, dtype="float32")[[0, 1, 2, 0, 1]]
Y = np.array([0, 1, 2, 1, 1])


def _model(function=lambda x: 5 * x):
    x = keras.Input((3,))
    same = layers.Dense(3, kernel_initializer="identity")(x)
    return keras.Model(x, function(same), name="net")


def _others():
    """A model that is right in four of five cases, and one in one."""
    return [_model(), _model(lambda x: ops.roll(x, 1, axis=-1))]


class _Batches(keras.utils.PyDataset):
    def __init__(self, count):
        super().__init__()
        self.num = count

    @property
    def num_batches(self):
        return self.num

    def __getitem__(self, index):
        part = slice(2 * index, 2 * index + 2)
        return X[part], Y[part]


def _dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (X, Y),
        lambda: [X, Y],
        lambda: (X, Y[:, None]),
        lambda: (X, Y.astype("float64")),
        lambda: (X, np.eye(3)[Y]),
        lambda: (X, 0.1 + 0.7 * np.eye(3)[Y]),  # soft labels
        lambda: _dataset().batch(2),
        lambda: _Batches(3),
        lambda: [(X[:2], Y[:2]), (X[2:], Y[2:])],
        lambda: ((X[i : i + 1], Y[i : i + 1]) for i in range(5)),
    ],
)
def test_kinds_of_data(make):
    assert accuracies(_others(), make()) == [0.8, 0.2]


def test_a_report_on_batches():
    x = keras.Input((3,))
    dense = keras.Model(x, layers.Dense(3, name="logits")(x))
    dense.get_layer("logits").kernel.assign(np.eye(3))
    report = kprune.report(dense, dense=dense, data=_dataset().batch(2))
    assert report.comparison.accuracy.to_dict() == {
        "dense": 0.8,
        "pruned": 0.8,
        "ratio": 1.0,
    }


def _two_outputs(x):
    return [2 * x, 3 * x]


@pytest.mark.parametrize(
    ("function", "make", "message"),
    [
        (None, lambda: 3, r"tuple `\(x, y\)`.*Received: int"),
        (None, lambda: "data.npz", "Received: str that gives a str"),
        (None, lambda: (X, Y, Y), "Received: tuple"),
        (None, lambda: [(X, Y, Y)], "gives a tuple of length 3"),
        (None, lambda: _dataset().batch(2).repeat(), "`data` has no end"),
        (None, lambda: _Batches(None), "`data` has no end"),
        (None, lambda: (X[:0], Y[:0]), "`data` is empty"),
        (None, lambda: [], "`data` is empty"),
        (None, lambda: (X[:, :2], Y), r"'net' cannot .* of shape \(5, 2\)"),
        (None, lambda: [(X[:, :2], Y)], r"'net' cannot .* of shape \(5, 2\)"),
        (None, lambda: (X, Y[:2]), r"x of 5 samples and y of shape \(2,\)"),
        (None, lambda: (X, [[0, 1], [2]]), "`y` must be an array"),
        (None, lambda: (X, np.array(list("abcab"))), "classes as numbers"),
        (_two_outputs, lambda: (X, Y), "'net' with 2 outputs"),
        (None, lambda: (X, Y + 0.25), "regression .* Received: y with 0.25"),
        (None, lambda: (X, Y * np.nan), "regression .* Received: y with nan"),
        (None, lambda: (X, np.eye(3)[Y] * np.nan), "Received: y with nan"),
        (lambda x: x / 0, lambda: (X, Y), "10 of 15 scores .* 'net' are nan"),
    ],
)
def test_bad_data(function, make, message):
    model = _model(function) if function else _model()
    with pytest.raises(ValueError, match=message):
        accuracies([model], make())


@pytest.mark.parametrize("batched", [False, True])
def test_samples_as_lists_of_numbers(batched):
    data = (1000 * X.tolist(), 1000 * Y.tolist())
    with pytest.raises(ValueError, match="must be an array") as raised:
        accuracies([_model()], [data] if batched else data)
    assert "Received: a list of numbers" in str(raised.value)
    assert len(str(raised.value)) < 200
