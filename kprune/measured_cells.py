"""Scores that a file keeps, so that an interrupted measurement goes on."""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune import criteria, files, weights
from kprune.choosing import Wish

_KIND = "kprune.sensitivity"


class MeasuredCells:
    """Scores by layer and sparsity, each kept in a file once it is known.

    Args:
        path: Path of a JSON file, which may be there already; `None` keeps
            them in memory alone.
        settings: Mapping of plain values: what they depend on.

    Raises:
        ValueError: If the file is something else, or belongs to other
            settings.
    """

    def __init__(
        self, path: str | os.PathLike | None, settings: Mapping[str, Any]
    ):
        self._path = None if path is None else pathlib.Path(path)
        self._settings = dict(settings)
        self._found: dict[tuple[str, float], float] = {}
        if self._path is None:
            return
        files.check_place(self._path)
        if self._path.exists():
            self._read(self._path)

    def __contains__(self, cell: tuple[str, float]) -> bool:
        return cell in self._found

    def __getitem__(self, cell: tuple[str, float]) -> float:
        return self._found[cell]

    def keep(self, name: str, sparsity: float, score: float) -> None:
        """Keeps a score, and writes the file anew.

        Args:
            name: String: the name of the layer, `""` for the dense model.
            sparsity: Float.
            score: Float.

        Raises:
            OSError: If the file cannot be written; what it held stays.
        """
        self._found[name, sparsity] = score
        if self._path is None:
            return
        content = {
            "kind": _KIND,
            "settings": self._settings,
            "scores": [[*cell, found] for cell, found in self._found.items()],
        }
        with files.temporary_folder(self._path) as folder:
            written = folder / "scores.json"
            written.write_text(json.dumps(content, indent=1), encoding="utf-8")
            files.move(written, self._path)

    def _read(self, path) -> None:
        files.check_is_file(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["kind"] != _KIND:
                raise ValueError(f"its kind is {content['kind']!r}")
            settings = dict(content["settings"])
            self._found = {
                (str(name), float(sparsity)): float(score)
                for name, sparsity, score in content["scores"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"'{path}' holds no scores of `kprune.sensitivity` "
                f"({type(error).__name__}: {error}), and is not replaced. "
                "Choose another path, or remove it."
            ) from error
        other = [
            name
            for name in {**settings, **self._settings}
            if settings.get(name) != self._settings.get(name)
        ]
        if other:
            names = " and ".join(f"`{name}`" for name in other)
            raise ValueError(
                f"'{path}' holds scores that were measured with another "
                f"{names}, and is not replaced. Choose another path, or remove "
                "it."
            )


def settings_of(
    model: keras.Model,
    wishes: list[Wish],
    *,
    criterion: Any,
    batches: Any,
    **others: Any,
) -> dict[str, Any]:
    """What scores depend on, as plain values that can be compared.

    Args:
        model: `keras.Model`.
        wishes: List of `Wish`: the layers, and in what shape they lose.
        criterion: As `kprune.prune` takes it.
        batches: List of `Batch`: the data; `None` without.
        **others: Further arguments.

    Returns:
        Dict.
    """
    return {
        "model": _digest(map(weights.to_numpy, model.weights)),
        "granularity": {
            wish.layer.name: _said(wish.granularity) for wish in wishes
        },
        "criterion": _said(criteria.get(criterion)),
        "data": batches
        and _digest(
            keras.tree.flatten([[b.x, b.y, b.sample_weight] for b in batches])
        ),
        **{name: _said(value) for name, value in others.items()},
    }


def _said(value) -> str:
    """A member in words that are the same in another process."""
    name = getattr(value, "__qualname__", None)
    return name or re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _digest(arrays) -> str:
    """A hash of arrays, their shapes and types included."""
    found = hashlib.sha256()
    for array in arrays:
        if array is not None:
            array = np.ascontiguousarray(array)
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(array.tobytes())
    return found.hexdigest()
