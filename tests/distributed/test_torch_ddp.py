"""DistributedDataParallel of torch in two processes."""

import keras
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("a wrapper of torch", allow_module_level=True)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_two_processes(start, check, equal_on_all_devices, port, criterion):
    environments = [
        {
            # What torchrun sets.
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": "2",
            "RANK": str(process),
            "OMP_NUM_THREADS": "1",
        }
        for process in range(2)
    ]
    results = start(["torch_ddp.py", "--criterion", criterion], environments)
    equal_on_all_devices(results, 2)
    check(results, criterion)
