"""The entry of the command `kprune`: it reads the arguments first.

It lies beside the package, since importing anything from a package runs the
package, and with `kprune` come Keras and TensorFlow, which takes seconds.
"""

import importlib.util
import sys


def main() -> int:
    """Runs the command.

    Returns:
        Integer. The exit code, as of `kprune.command_line.main`.
    """
    spec = importlib.util.find_spec("kprune")
    if spec is None or spec.loader is None:
        raise ImportError("The package `kprune` is not beside its command.")
    # Modules in it can be imported before the package itself is run.
    sys.modules["kprune"] = package = importlib.util.module_from_spec(spec)
    from kprune.command_line import run
    from kprune.command_line.arguments import parser

    options = parser().parse_args()
    spec.loader.exec_module(package)
    return run(options)
