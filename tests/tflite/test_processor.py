"""How the CPU that checks a file is described."""

import pytest

from kprune.tflite import processor


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu sse2 avx avx2", "x86_64 with AVX: off"),
        ("AMD64", None, "AMD64: off where it has AVX"),
        ("x86_64", "fpu sse2 ssse3", "x86_64 without AVX: on"),
        ("aarch64", "asimd", "aarch64: on"),
        ("arm64", None, "arm64: on"),
    ],
)
def test_description(tmp_path, monkeypatch, machine, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"processor : 0\nflags\t: {flags}\n")
    monkeypatch.setattr(processor, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    cpu, state = expected.split(": ")
    assert processor.description() == f"{cpu}: XNNPACK's sparse kernels {state}"
