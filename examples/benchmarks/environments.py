"""Virtual environments of other libraries, to compare kprune with."""

import os
import pathlib
import subprocess
import sys
import venv

FOLDER = pathlib.Path.home() / ".cache" / "kprune-benchmarks"


def make(folder: pathlib.Path, packages: list[str]) -> pathlib.Path:
    """Makes a virtual environment, unless it is there.

    Args:
        folder: Where.
        packages: List of strings, as pip takes them.

    Returns:
        The path of its interpreter.
    """
    python = folder / (
        "Scripts/python.exe" if os.name == "nt" else "bin/python"
    )
    # Written last: an installation that was interrupted is made again.
    installed = folder / "installed.txt"
    listed = "\n".join(packages)
    if not installed.exists() or installed.read_text() != listed:
        print(f"Installing {', '.join(packages)} in {folder}", file=sys.stderr)
        venv.create(folder, symlinks=os.name != "nt", with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *packages], check=True
        )
        installed.write_text(listed)
    return python
