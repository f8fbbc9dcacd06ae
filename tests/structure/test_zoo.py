"""Architectures of `keras.applications`, made smaller with equal outputs."""

import keras
import pytest
import zoo
from models import EXACT_MEAN

pytestmark = pytest.mark.usefixtures("float64")

SPARSITIES = (0.25, 0.5, 0.9)
# What is left of the parameters and the multiply-accumulates at most.
BARS = {0.25: (0.65, 0.63), 0.5: zoo.SIZE_BARS, 0.9: (0.06, 0.05)}
QUICK = ("DenseNet121", "EfficientNetB0", "MobileNetV2", "ResNet50")


def assert_shrinks(architecture, size, sparsities):
    for row in zoo.shrink(architecture, sparsities, size):
        assert row.is_exact(EXACT_MEAN), row
        is_convnext = architecture.startswith("ConvNeXt")
        if not is_convnext:
            parameters, macs = BARS[row.sparsity]
            assert row.parameters <= parameters and row.macs <= macs, row
            assert row.channels == 1
        elif row.sparsity == 0.5:
            parameters, macs = zoo.CONVNEXT_BARS
            assert row.parameters <= parameters and row.macs <= macs, row


@pytest.mark.parametrize("architecture", QUICK)
def test_some_architectures(architecture):
    assert_shrinks(architecture, 32, [0.5])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="other backends compute means or products in float32",
)
def test_all_architectures(architecture):
    assert_shrinks(architecture, 64, SPARSITIES)
