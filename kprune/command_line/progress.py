"""Showing how far a command is."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Steps:
    """A progress bar on standard error, which a pipe does not show."""

    def __init__(self):
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def begin(self, description, of=1):
        """Ends the step before, if any, and begins one of so many."""
        if not self._progress.tasks:
            self._progress.add_task(description, total=of)
            return
        self._progress.update(
            self._progress.task_ids[0], description=description, advance=1
        )

    @contextlib.contextmanager
    def giving_way(self) -> Iterator[int]:
        """Leaves its place to a bar of Keras's, for the time of the context.

        Yields:
            Integer. The `verbose` to pass: 1 on a terminal, else 0.
        """
        self._progress.stop()
        # What a command found goes to standard output, and nothing else.
        with contextlib.redirect_stdout(sys.stderr):
            yield int(not self._progress.disable)
        self._progress.start()
