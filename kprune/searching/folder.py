"""Trials that are kept on disk, so that a search can go on after a kill."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kprune import files
from kprune.searching.results import Trial

_ROWS = "trials.json"


class Folder:
    """The finished trials of one search, and the weights of its best model.

    A row is written once the weights are, and each file is complete before it
    is moved into place: whatever ends the process, what is there fits.

    Args:
        path: The folder. It is made.
        settings: Dict of plain values that tell this search from others.

    Raises:
        ValueError: If another search is kept there, what is there is damaged,
            or nothing can be written there.
    """

    def __init__(self, path: str | os.PathLike, settings: dict[str, Any]):
        self._path = pathlib.Path(path)
        self._settings = settings
        # The trial whose weights are there.
        self._kept: int | None = None
        if self._path.exists() and not self._path.is_dir():
            raise ValueError(
                f"'{path}' is no folder. `path` is one that the trials of a "
                "search are kept in: choose another."
            )
        if not (self._path / _ROWS).exists():
            # What cannot be written is known before anything is computed.
            self._write([])

    def keep(
        self, rows: list[Trial], best: int | None, model: keras.Model | None
    ) -> None:
        """Keeps what is finished; where that fails, a warning says so.

        Args:
            rows: List of `Trial`, first that of the dense model.
            best: Integer. Which of them is the best so far, if any.
            model: Its model.
        """
        try:
            if model is not None and best != self._kept:
                weights = self._weights(best)
                with files.temporary_folder(weights) as temporary:
                    model.save_weights(temporary / weights.name)
                    files.move(temporary / weights.name, weights)
            self._write(rows)
        except (OSError, RuntimeError, ValueError) as error:
            # The disk may be full: HDF5 says so in its own ways. What is in
            # memory is still there.
            warnings.warn(
                f"Trial {len(rows) - 1} could not be kept in '{self._path}': "
                f"{error}\nThe search goes on. If it is interrupted, what was "
                "not kept is computed again.",
                stacklevel=3,
            )
            return
        if self._kept not in (None, best):
            self._weights(self._kept).unlink(missing_ok=True)
        self._kept = best

    def load(self, number: int, model: keras.Model) -> None:
        """Loads the weights of a trial.

        Args:
            number: Integer, counted from 1.
            model: A copy of the model that is searched.
        """
        weights = self._weights(number)
        try:
            model.load_weights(weights)
        except (OSError, RuntimeError, ValueError) as error:
            raise self._damaged(f"'{weights.name}': {error}") from error
        self._kept = number

    def _weights(self, number: int | None) -> pathlib.Path:
        return self._path / f"trial_{number}.weights.h5"

    def _write(self, rows: list[Trial]) -> None:
        kept = {
            "settings": self._settings,
            "trials": [dataclasses.asdict(trial) for trial in rows],
        }
        path = self._path / _ROWS
        with files.temporary_folder(path) as temporary:
            (temporary / _ROWS).write_text(json.dumps(kept, indent=1))
            files.move(temporary / _ROWS, path)

    def read(self) -> list[Trial]:
        """The rows that are kept, first that of the dense model.

        Returns:
            List of `Trial`, empty where no trial was finished.

        Raises:
            ValueError: If they are of another search, or damaged.
        """
        try:
            kept = json.loads((self._path / _ROWS).read_text())
            before = dict(kept["settings"])
            trials = [Trial(**row) for row in kept["trials"]]
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise self._damaged(f"'{_ROWS}': {error}") from error
        if not trials:
            return []
        # As they are once they went through JSON.
        settings = json.loads(json.dumps(self._settings))
        others = [
            name
            for name in {**before, **settings}
            if before.get(name) != settings.get(name)
        ]
        if others:
            raise ValueError(
                f"'{self._path}' holds the trials of another search: "
                f"{_listed(others, before)} there, and here "
                f"{_listed(others, settings)}. Choose another folder, or "
                "remove this one."
            )
        return trials

    def _damaged(self, what: str) -> ValueError:
        return ValueError(
            f"What is kept in '{self._path}' cannot be read: {what}. Remove "
            "the folder to search anew, or choose another."
        )


def _listed(names: Iterable[str], settings: dict) -> str:
    return ", ".join(f"{name}={settings.get(name)!r}" for name in names)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """What tells arrays from others.

    Args:
        arrays: Iterable of arrays.

    Returns:
        String.
    """
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def told(member: Any) -> str:
    """What tells a member of a family from others, in any process.

    Args:
        member: A criterion, a granularity, an allocation or a loss.

    Returns:
        String.
    """
    return re.sub(" at 0x[0-9a-f]+", "", repr(member))
