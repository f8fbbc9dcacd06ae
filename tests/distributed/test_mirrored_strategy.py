"""tf.distribute.MirroredStrategy over two virtual CPUs."""

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("a strategy of TensorFlow", allow_module_level=True)


def test_two_replicas(start, check, equal_on_all_devices):
    results = start(["mirrored_strategy.py", "--devices", "2"], [{}])
    equal_on_all_devices(results, 2)
    check(results)
