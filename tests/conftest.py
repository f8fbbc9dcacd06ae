"""What all tests share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state and no other names."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    """Runs a test in float64, so that equality can be asked at 1e-9."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
