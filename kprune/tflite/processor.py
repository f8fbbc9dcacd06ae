"""The CPU that runs files here, as XNNPACK sees it."""

import pathlib
import platform

_X86 = ("amd64", "i386", "i686", "x86", "x86_64")
_CPUINFO = pathlib.Path("/proc/cpuinfo")


def description() -> str:
    """Names this CPU, and whether XNNPACK's sparse kernels are on.

    They are off on every x86 CPU with AVX, so that a sparse-encoded file that
    runs right there says nothing about a phone.

    Returns:
        String.
    """
    machine = platform.machine()
    if machine.lower() not in _X86:
        return f"{machine}: XNNPACK's sparse kernels on"
    if not _CPUINFO.exists():
        return f"{machine}: XNNPACK's sparse kernels off where it has AVX"
    if "avx" in _CPUINFO.read_text().split():
        return f"{machine} with AVX: XNNPACK's sparse kernels off"
    return f"{machine} without AVX: XNNPACK's sparse kernels on"
