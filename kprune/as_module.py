"""`python -m kprune`, before the package imports anything."""

import os
import sys


def begin(parent: str) -> None:
    """Takes the current folder off the import path, and reads the arguments.

    Python runs a package before its `__main__`, and `python -m` puts the
    current folder on the import path. So that no file in it stands for a
    module, and help and wrong arguments are answered at once, this comes
    first. In any other process it does nothing.

    Args:
        parent: String. The folder that the package lies in.
    """
    # While Python looks for the module to run, "-m" is the program's name.
    # The name of the module is what comes before the arguments.
    if sys.argv[:1] != ["-m"]:
        return
    module = sys.orig_argv[-len(sys.argv)]
    if module != "kprune" and not (
        module.startswith("-") and module.endswith("mkprune")
    ):
        return
    here = os.getcwd()
    if sys.path[0] == here != os.path.realpath(parent):
        del sys.path[0]
    from kprune.command_line.arguments import parser

    parser().parse_args()
