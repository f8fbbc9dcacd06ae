"""The command `kprune`, before the package imports anything."""

import os
import sys
import sysconfig


def begin(parent: str) -> None:
    """Reads the arguments where the process is the command.

    Python runs a package before anything in it, and with this one come Keras
    and TensorFlow, which takes seconds. So that help and wrong arguments are
    answered at once this comes first. In any other process it does nothing.

    Args:
        parent: String. The folder that the package lies in.
    """
    if _is_module():
        # `python -m` puts the current folder on the import path: no file in
        # it may stand for a module.
        here = os.getcwd()
        if sys.path[0] == here != os.path.realpath(parent):
            del sys.path[0]
    elif not _is_script():
        return
    from kprune.command_line.arguments import parser

    parser().parse_args()


def _is_module() -> bool:
    """Whether this is `python -m kprune`."""
    # While Python looks for the module to run, "-m" is the program's name.
    # The name of the module is what comes before the arguments.
    if sys.argv[:1] != ["-m"]:
        return False
    module = sys.orig_argv[-len(sys.argv)]
    return module == "kprune" or (
        module.startswith("-") and module.endswith("mkprune")
    )


def _is_script() -> bool:
    """Whether this is the script `kprune` that was installed with Python."""
    script = os.path.realpath(sys.argv[0]) if sys.argv and sys.argv[0] else ""
    installed = os.path.join(sysconfig.get_path("scripts"), "kprune")
    return os.path.splitext(script)[0] == os.path.realpath(installed)
