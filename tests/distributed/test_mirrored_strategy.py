"""tf.distribute.MirroredStrategy over two virtual CPUs."""

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("a strategy of TensorFlow", allow_module_level=True)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_two_replicas(start, check, equal_on_all_devices, criterion):
    script = ["mirrored_strategy.py", "--devices", "2"]
    results = start([*script, "--criterion", criterion], [{}])
    equal_on_all_devices(results, 2)
    check(results, criterion)
