"""keras.distribution: two virtual devices, and two processes."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("Keras distributes on JAX only", allow_module_level=True)

TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


@pytest.fixture
def two_processes(port):
    return [
        {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(process),
            "XLA_FLAGS": "",
        }
        for process in range(2)
    ]


def test_data_parallel_on_two_devices(start, check, equal_on_all_devices):
    results = start(["keras_distribution.py"], [TWO_DEVICES])
    equal_on_all_devices(results, 2)
    check(results)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_data_parallel_in_two_processes(
    start, check, equal_on_all_devices, two_processes, criterion
):
    script = ["keras_distribution.py", "--criterion", criterion]
    results = start(script, two_processes)
    equal_on_all_devices(results, 2)
    check(results, criterion)


def _assert_halves(digits, results):
    """Asserts that the two devices hold the halves of the hidden layer."""
    devices = [
        copy for printed, _ in results for copy in printed["devices"].values()
    ]
    assert len(devices) == 2
    _, arrays = results[0]
    for half, device in enumerate(devices):
        for kind in ("masks", "weights"):
            parts = [arrays[f"{kind}_{index}"] for index in range(6)]
            for hidden in (2, 3):
                parts[hidden] = np.split(parts[hidden], 2, axis=-1)[half]
            assert device[kind] == digits.fingerprint(parts)


def test_model_parallel_on_two_devices(digits, start, check):
    script = ["keras_distribution.py", "--parallel", "model"]
    results = start(script, [TWO_DEVICES])
    _assert_halves(digits, results)
    check(results)


@pytest.mark.slow
def test_model_parallel_in_two_processes(digits, start, check, two_processes):
    script = ["keras_distribution.py", "--parallel", "model"]
    results = start(script, two_processes)
    _assert_halves(digits, results)
    check(results)
