"""Files and backups of the version that called wrappers `prunable_<name>`."""

import pathlib
import shutil

import keras
import numpy as np
import pytest
import written_before
from written_before import MODELS, backup, inputs, recorded, train

import kprune
from kprune.prunable import prunable_layers

_ARCHIVE = pathlib.Path(__file__).parent / "fixtures" / "written_before.zip"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written_before")
    shutil.unpack_archive(_ARCHIVE, folder)
    return folder


def _assert_as_recorded(model, written, name, tolerance=1e-5):
    expected = np.load(written / f"{name}.npz")
    received = recorded(model, inputs(name))
    assert list(received) == list(expected)
    for key, array in received.items():
        if array.dtype == bool:
            np.testing.assert_array_equal(array, expected[key])
        else:
            np.testing.assert_allclose(array, expected[key], atol=tolerance)
    masks = [a for a in received.values() if a.dtype == bool]
    assert not all(mask.all() for mask in masks)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_file(written, name):
    model = keras.saving.load_model(written / f"{name}.keras")
    _assert_as_recorded(model, written, name)
    if name != "subclassed":
        # The names are those in the file, so that scripts go on.
        assert any(map(_is_old, prunable_layers(model)))
    x = inputs(name)
    stripped = kprune.strip(model)
    for one, other in zip(
        keras.tree.flatten(model(x)), keras.tree.flatten(stripped(x))
    ):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(one),
            keras.ops.convert_to_numpy(other),
            atol=1e-5,
        )
    assert not any(map(_is_old, stripped.layers))
    before = kprune.sparsity(model)
    train(model, x, [], epochs=1)
    assert kprune.sparsity(model) == pytest.approx(before)


def _is_old(layer):
    return layer.name.startswith("prunable_")


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_weights(written, name):
    model = MODELS[name][0]()
    assert not any(map(_is_old, prunable_layers(model)))
    model.load_weights(written / f"{name}.weights.h5")
    _assert_as_recorded(model, written, name)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's checkpoints"
)
@pytest.mark.parametrize("name", written_before.WITH_CHECKPOINT)
def test_a_checkpoint_of_tensorflow(written, name):
    import tensorflow as tf

    model = MODELS[name][0]()
    checkpoint = tf.train.Checkpoint(model=model)
    status = checkpoint.read(str(written / f"{name}.tf"))
    status.assert_existing_objects_matched()
    _assert_as_recorded(model, written, name)


class _Epochs(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(epoch)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_goes_on_from_its_backup(written, tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(written / name, folder)
    keras.utils.set_random_seed(1)
    model = MODELS[name][0]()
    epochs = _Epochs()
    train(model, inputs(name), [backup(str(folder)), epochs])
    done = written_before.INTERRUPTED_AFTER
    assert epochs.seen == list(range(done, written_before.EPOCHS))
    # As the training that was not interrupted ended, there and then.
    _assert_as_recorded(model, written, name, tolerance=1e-3)
