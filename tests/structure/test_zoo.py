"""Architectures of `keras.applications`, made smaller with equal outputs."""

import architectures
import keras
import pytest
from models import EXACT_MEAN

pytestmark = pytest.mark.usefixtures("float64")

# What is left of the parameters at most; LayerNormalization keeps the width
# of ConvNeXt.
MOST = {0.25: 0.65, 0.5: 0.37, 0.9: 0.06}
MOST_OF_CONVNEXT = {0.25: 0.78, 0.5: 0.56, 0.9: 0.19}
# Each takes up to 12 GB, so CI runs them one after the other.
LARGE = ("ConvNeXt", "VGG")
ONE_BY_ONE = pytest.mark.xdist_group("large")
# A small one and a typical one; the slow test has all.
QUICK = ["MobileNetV2", "ResNet50"]
# Where the stripped model is also saved, and pruned again.
USED_AGAIN = [0.5]
if keras.backend.backend() == "jax":
    # It compiles every operation for every shape, which takes minutes a net.
    QUICK, USED_AGAIN = ["MobileNetV2"], []


def assert_shrinks(architecture, size, sparsities):
    is_convnext = architecture.startswith("ConvNeXt")
    most = MOST_OF_CONVNEXT if is_convnext else MOST
    rows = architectures.shrink(architecture, sparsities, size, USED_AGAIN)
    for row in rows:
        assert row.is_exact(EXACT_MEAN), row
        is_used_again = row.reloaded is not None and row.again is not None
        assert is_used_again == (row.sparsity in USED_AGAIN), row
        # A budget of half of the multiply-accumulates leaves next to no less.
        assert not is_used_again or 0.99 < row.budget <= 1, row
        assert row.is_small or row.sparsity != 0.5, row
        assert row.parameters <= most[row.sparsity], row
        assert row.channels == 1 or is_convnext, row


@pytest.mark.parametrize("architecture", QUICK)
def test_some_architectures(architecture):
    assert_shrinks(architecture, 64, [0.5])


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=ONE_BY_ONE if name.startswith(LARGE) else ())
        for name in architectures.ARCHITECTURES
    ],
)
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="other backends compute means or products in float32",
)
def test_all_architectures(architecture):
    assert_shrinks(architecture, 64, list(MOST))
