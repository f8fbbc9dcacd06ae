"""Showing how far a command is."""

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
