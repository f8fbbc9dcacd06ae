"""Single weights, compared with those of their own output."""

import keras
import numpy as np
import pytest
from keras import layers
from models import numpy

import kprune
from kprune.granularities import Unstructured
from kprune.prunable import weights_of

WITHIN = Unstructured(per_output=True)


def test_in_numbers():
    scores = np.array([[9.0, 1.0, 5.0], [8.0, 3.0, 5.0], [7.0, 2.0, 5.0]])
    keep = [[True, False, True], [True, True, True], [False, True, False]]
    # floor(3 * 0.5) of each output; of equal scores the later one.
    np.testing.assert_array_equal(WITHIN(scores, 0.5), keep)
    assert WITHIN(scores, 0.3).all()
    one = WITHIN(scores, 0.99)
    assert one.sum(axis=0).tolist() == [1, 1, 1]
    assert one[0, 0] and one[1, 1] and one[0, 2]
    integers = np.array([[2, 250], [1, 3]], np.uint8)
    assert WITHIN(integers, 0.5).tolist() == [[True, True], [False, False]]
    kprune.testing.check_granularity(WITHIN)


@pytest.mark.filterwarnings("ignore:Nothing was pruned")
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.29, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Dense(7), (10,)),
        (layers.Conv2D(6, 3), (8, 8, 4)),
        (layers.Conv2D(6, 3, groups=2), (8, 8, 4)),
        (layers.Conv2DTranspose(6, 3), (8, 8, 4)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4)),
        (layers.SeparableConv1D(5, 3), (8, 4)),
        (layers.EinsumDense("abc,cde->abde", (None, 3, 4)), (5, 6)),
        (layers.LSTM(4), (5, 6)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_share_holds_within_each_output(layer, shape, sparsity):
    model = keras.Sequential([keras.Input(shape), kprune.PrunableLayer(layer)])
    kprune.prune(model, sparsity, granularity=WITHIN)
    (wrapped,) = model.layers
    for weight in weights_of(wrapped):
        mask = weight.outputs_last(numpy(weight.mask))
        mask = mask.reshape(-1, mask.shape[-1])
        values = weight.outputs_last(np.abs(weight.value()))
        values = values.reshape(mask.shape)
        removed = kprune.ranking.removed_count(len(mask), sparsity)
        assert (np.sum(~mask, axis=0) == removed).all()
        assert weight.outputs == mask.shape[1]
        highest_gone = np.where(mask, -1, values).max(axis=0)
        lowest_kept = np.where(mask, values, np.inf).min(axis=0)
        assert (highest_gone <= lowest_kept).all()


def test_with_a_criterion_that_sees_the_whole_kernel():
    model = keras.Sequential([keras.Input((9,)), kprune.PrunableDense(5)])
    kprune.prune(
        model,
        0.34,
        criterion=lambda kernel: np.abs(kernel - kernel.mean()),
        granularity=WITHIN,
    )
    mask = numpy(model.layers[0].masks["kernel"])
    assert (np.sum(~mask, axis=0) == 3).all()


def test_what_is_gone_for_good_counts():
    model = keras.Sequential([keras.Input((10,)), kprune.PrunableDense(4)])
    pruner = kprune.Pruner(lambda progress: 0.8 * progress, granularity=WITHIN)
    gone = None
    for progress in (0.25, 0.5, 0.75, 1.0):
        pruner.update(model, progress)
        mask = numpy(model.layers[0].masks["kernel"])
        assert (np.sum(~mask, axis=0) == int(10 * 0.8 * progress)).all()
        assert gone is None or not (mask & gone).any()
        gone = ~mask


def test_it_saves_and_files_of_before_load(tmp_path):
    assert WITHIN.get_config() == {"per_output": True}
    assert Unstructured.from_config({}) == Unstructured()
    layer = kprune.PrunableDense(4, granularity=WITHIN)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].granularity == WITHIN
    before = {
        "module": "kprune.granularities",
        "class_name": "Unstructured",
        "config": {},
        "registered_name": "kprune>Unstructured",
    }
    assert keras.saving.deserialize_keras_object(before) == Unstructured()


def test_the_option_is_checked():
    with pytest.raises(ValueError, match="`per_output` must be.*per_output=1"):
        Unstructured(per_output=1)
