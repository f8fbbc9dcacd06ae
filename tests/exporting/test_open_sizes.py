"""Models that leave the sizes of their inputs open."""

import keras
import numpy as np
import pytest
from files import on_tensorflow
from keras import layers

import kprune
from kprune.exporting import checking


def _net(width, pooling=None):
    """A net that has no output for images smaller than `width`."""
    inputs = keras.Input((None, None, 1))
    x = layers.Conv2D(2, 2, strides=2)(inputs)
    x = layers.Conv2D(2, width // 2)(x)
    return keras.Model(inputs, pooling()(x) if pooling else x)


@pytest.mark.parametrize(
    "pooling",
    [None, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D],
)
def test_sizes_grow_until_there_is_an_output(pooling):
    model = _net(98, pooling)
    (x,) = checking.random_batch(model, [(None, None, None, 1)])
    assert x.shape == (2, 128, 128, 1)
    (x,) = checking.random_batch(model, [(1, 100, None, 1)])
    assert x.shape == (1, 100, 128, 1)


def test_a_table_of_positions_is_short():
    inputs = keras.Input((None,), dtype="int32")

    class Positions(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(20, 4))

        def compute_output_shape(self, shape):
            return (*shape, 4)

        def call(self, x):
            table = keras.ops.convert_to_tensor(self.table)
            positions = keras.ops.slice(
                table, (0, 0), (keras.ops.shape(x)[1], 4)
            )
            return positions + keras.ops.cast(x, "float32")[..., None]

    model = keras.Model(inputs, Positions()(inputs))
    (x,) = checking.random_batch(model, [(None, None)])
    assert x.shape == (2, 16)


@on_tensorflow
@pytest.mark.parametrize("name", ["model", "model.tflite", "model.keras"])
def test_a_net_that_needs_large_images_is_exported(tmp_path, name):
    result = kprune.export(
        _net(98, layers.GlobalAveragePooling2D), tmp_path / name
    )
    assert result.largest_difference < 1e-5


@pytest.mark.parametrize("name", ["model", "model.tflite", "model.keras"])
def test_a_net_for_which_no_size_fits(tmp_path, name):
    with pytest.raises(
        ValueError, match=r"sizes of its inputs open(?s:.*)`input_signature`"
    ) as caught:
        kprune.export(_net(400), tmp_path / name)
    assert "kprune.strip(model).save(path)" in str(caught.value)
    assert not list(tmp_path.iterdir())


@on_tensorflow
def test_a_signature_helps(tmp_path):
    result = kprune.export(
        _net(400), tmp_path / "model", input_signature=(1, 402, 402, 1)
    )
    assert result.largest_difference < 1e-4


def test_weights_that_are_nan_are_named(tmp_path):
    model = _net(10)
    model.layers[-1].bias.assign(np.full(2, np.nan))
    with pytest.raises(RuntimeError, match="nan weights"):
        kprune.export(model, tmp_path / "model.keras")
