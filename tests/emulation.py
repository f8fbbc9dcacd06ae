"""Other CPUs than this one, by emulation.

XNNPACK takes its kernels for sparse weights where a CPU has no AVX. On ARM
that is so without emulation.
"""

import os
import pathlib
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest

_NAMES = ("qemu-x86_64", "qemu-x86_64-static")
_EMULATOR = next(filter(None, map(shutil.which, _NAMES)), None)
_IS_ARM = platform.machine().lower() in ("aarch64", "arm64")

# `.ci/run` installs it.
needs_emulator = pytest.mark.skipif(
    not (_EMULATOR or _IS_ARM),
    reason="needs qemu-x86_64 (Debian's qemu-user), a CPU without AVX",
)


def outputs_without_avx(folder, x):
    """Runs the `.tflite` files of a folder, all in one emulated process.

    Args:
        folder: `pathlib.Path`.
        x: Array, the one input of each; files of fewer channels get the first.

    Returns:
        Dict from the name of a file, without suffix, to a list of arrays.
    """
    np.save(folder / "input.npy", x)
    python = os.path.realpath(sys.executable)
    emulator = [] if _IS_ARM else [_EMULATOR, "-cpu", "Nehalem"]
    program = pathlib.Path(__file__).with_name("emulated.py")
    paths = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [*emulator, python, program, folder],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        timeout=300,
    )
    found = {}
    with np.load(folder / "outputs.npz") as arrays:
        for key in sorted(arrays):
            found.setdefault(key.rpartition("/")[0], []).append(arrays[key])
    return found
