"""The command `kprune`: what the functions of the same names do, on files.

Nothing is imported before the arguments are read that takes time.
"""

import importlib
import json
import os
import sys

from kprune.command_line.arguments import parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: List of strings; `None` takes those of the process.

    Returns:
        Integer. The exit code: 0, or 1 if the work failed (and the reason is
        on standard error). By custom wrong arguments exit with 2, and it is
        130 if interrupted and 141 if nobody reads what is printed.

    Example:

    ```
    kprune report pruned.keras --dense dense.keras
    kprune export pruned.keras pruned.tflite --quantize float16
    kprune cost pruned.tflite --reference dense.tflite --json
    ```
    """
    return run(parser().parse_args(arguments))


def run(options) -> int:
    """Does what the arguments say.

    Args:
        options: What `arguments.parser` made of them.

    Returns:
        Integer. The exit code, as of `main`.
    """
    import keras

    from kprune.command_line import commands
    from kprune.command_line.progress import Steps

    if not options.safe:
        keras.config.enable_unsafe_deserialization()
    # Modules of the user lie where he calls the command.
    own = [os.getcwd()] if options.imports else []
    sys.path[:0] = own
    try:
        for module in options.imports:
            importlib.import_module(module)
        with Steps() as steps:
            result, text = getattr(commands, options.command)(options, steps)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"kprune: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("kprune: interrupted", file=sys.stderr)
        return 130
    finally:
        for folder in own:
            sys.path.remove(folder)
    try:
        shown = json.dumps(result, indent=2) if options.json else text
        print(shown, flush=True)
    except BrokenPipeError:
        # Who reads has enough, such as `head`. Python must not write again
        # when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a process that SIGPIPE ends
    return 0
