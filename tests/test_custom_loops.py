"""The examples of training loops without `fit`, that of this backend."""

import pathlib
import runpy

import keras
import numpy as np
import pytest
from models import assert_equal_outputs, numpy

import kprune
from kprune.prunable import prunable_layers

LOOPS = pathlib.Path(__file__).parent.parent / "examples" / "custom_loops"


@pytest.fixture(scope="module")
def loop():
    """What the example has when it is through, by its names."""
    backend = keras.backend.backend()
    try:
        return runpy.run_path(str(LOOPS / f"loop_in_{backend}.py"))
    finally:
        if backend == "torch":
            import torch

            # The example sets it for its process, which here has other tests.
            torch.set_flush_denormal(False)


def _masked_values(layers):
    """What is stored behind the mask of each kernel."""
    return [
        numpy(kernel)[~numpy(layer.masks[name])]
        for layer in layers
        for name, kernel in layer.kernels.items()
    ]


def test_the_loss_goes_down_and_the_sparsity_follows_the_schedule(loop):
    assert loop["losses"][-1] < 0.5 * loop["losses"][0]
    # 0.9 * (1 - (1 - progress / 0.5) ** 3)
    expected = [0.5203125, 0.7875, 0.8859375, *[0.9] * 5]
    assert loop["sparsities"] == pytest.approx(expected, abs=1e-4)
    # 235,200, 30,000 and 1,000 weights: at 0.9 all counts are whole.
    assert loop["sparsities"][3:] == [0.9] * 5
    layers = prunable_layers(loop["model"])
    assert [layer.sparsity for layer in layers] == [0.9] * 3


def test_strip_gives_true_zeros_and_equal_outputs(loop):
    model, x = loop["model"], loop["x_test"][:50]
    assert_equal_outputs(model, loop["stripped"], x, tolerance=1e-5)
    predicted = loop["predicted"]
    assert np.mean(predicted == loop["y_test"]) > 0.85
    same_shapes = kprune.strip(model, compact=False)
    for layer in prunable_layers(model):
        kernel = numpy(same_shapes.get_layer(layer.layer.name).kernel)
        mask = numpy(layer.masks["kernel"])
        assert (kernel[~mask] == 0).all() and (kernel[mask] != 0).all()


def test_frozen_masks_hold_in_further_training(loop):
    model, layers = loop["model"], prunable_layers(loop["model"])
    assert not np.concatenate(_masked_values(layers)).any()
    masks = [numpy(layer.masks["kernel"]) for layer in layers]
    for _ in range(2):
        before = [numpy(layer.layer.kernel).copy() for layer in layers]
        loop["train_epoch"]()
        assert kprune.sparsity(model) == 0.9
        for layer, mask, kernel in zip(layers, masks, before):
            np.testing.assert_array_equal(numpy(layer.masks["kernel"]), mask)
            assert (numpy(layer.layer.kernel) != kernel)[mask].mean() > 0.5
        assert loop["pruner"].update(model, 1.0)
        assert not np.concatenate(_masked_values(layers)).any()
