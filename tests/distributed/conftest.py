"""Starts the scripts of examples/distributed, and what they must reach."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

import kprune

SCRIPTS = pathlib.Path(__file__).parents[2] / "examples" / "distributed"
# Of a run of some seconds; what hangs is killed.
SECONDS = 120
# In float64 a gradient that is summed in another order moves no weight over
# the threshold. On torch Keras's matmul computes in float32 whatever the dtype
# is; there the weights next to a threshold are 2e-6 apart, and the same
# weights of two runs 2e-7.
ROUNDING = 1e-5 if keras.backend.backend() == "torch" else 1e-12


@pytest.fixture
def digits(monkeypatch):
    """The module that the scripts share."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import digits

    return digits


@pytest.fixture
def start(tmp_path, float64):
    """Runs a script in float64, one process for each environment, at once.

    Returns:
        Callable from the arguments and the environments to a list of tuples:
        what each process printed and the arrays that it saved.
    """

    (tmp_path / "keras.json").write_text('{"floatx": "float64"}')
    shared = {**os.environ, "KERAS_HOME": str(tmp_path), "JAX_ENABLE_X64": "1"}

    def run(arguments, environments):
        processes = []
        try:
            for index, environment in enumerate(environments):
                path = tmp_path / f"{index}.npz"
                with open(tmp_path / f"{index}.err", "w") as errors:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, *arguments, "--save", path],
                            cwd=SCRIPTS,
                            env={**shared, **environment},
                            stdout=subprocess.PIPE,
                            stderr=errors,
                            text=True,
                        )
                    )
            outputs = [p.communicate(timeout=SECONDS)[0] for p in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        results = []
        for index, (process, output) in enumerate(zip(processes, outputs)):
            errors = (tmp_path / f"{index}.err").read_text()
            assert process.returncode == 0, errors[-3000:]
            (line,) = [x for x in output.splitlines() if x.startswith("{")]
            with np.load(tmp_path / f"{index}.npz") as arrays:
                results.append((json.loads(line), dict(arrays)))
        return results

    return run


@pytest.fixture
def port():
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def check(digits):
    """Compares what processes printed and saved with a run on one device.

    That run is `fit` in this process, on the same batches.
    """

    def compare(results, criterion="magnitude"):
        model = digits.build_compiled()
        x, y = digits.load()
        history = model.fit(
            x,
            y,
            batch_size=digits.BATCH_SIZE,
            epochs=digits.EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=[
                kprune.PruningScheduler(
                    digits.SPARSITY, **digits.members(criterion)
                )
            ],
        )
        variables = digits.masks_and_weights(model)
        masks, weights = (
            [kprune.weights.to_numpy(v) for v in variables[kind]]
            for kind in ("masks", "weights")
        )
        for printed, arrays in results:
            assert printed["sparsity"] == history.history["sparsity"]
            _check_zeros(printed, arrays)
            _check_close(arrays, masks, weights)
        _, first = results[0]
        for _, other in results[1:]:
            assert first.keys() == other.keys()
            for name, array in first.items():
                assert np.array_equal(array, other[name]), name

    return compare


def _of(arrays, kind):
    return [arrays[f"{kind}_{i}"] for i in range(len(arrays) // 3)]


def _check_zeros(printed, arrays):
    # 12 of 16 filters, and floor(0.8 n) of the n weights of each Dense.
    conv, _, hidden, _, logits, _ = _of(arrays, "masks")
    assert [(~mask).sum() for mask in (conv, hidden, logits)] == [
        12 * 9,
        int(0.8 * hidden.size),
        int(0.8 * logits.size),
    ]
    assert printed["stripped_sparsity"] == printed["sparsity"][-1]
    for mask, weight, stripped in zip(
        _of(arrays, "masks"), _of(arrays, "weights"), _of(arrays, "stripped")
    ):
        assert not stripped[~mask].any()
        assert np.array_equal(stripped[mask], weight[mask])


def _check_close(arrays, masks, weights):
    for ours, theirs in zip(masks, _of(arrays, "masks"), strict=True):
        assert np.array_equal(ours, theirs)
    for ours, theirs in zip(weights, _of(arrays, "weights"), strict=True):
        assert ours == pytest.approx(theirs, rel=0, abs=ROUNDING)


@pytest.fixture
def equal_on_all_devices():
    """Asserts that all devices of all processes hold the same bits."""

    def compare(results, count):
        copies = [
            copy
            for printed, _ in results
            for copy in printed["devices"].values()
        ]
        assert len(copies) == count
        assert all(copy == copies[0] for copy in copies)

    return compare
