"""Giving a model its weights and masks back."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np

from kprune import weights


@contextlib.contextmanager
def restored(model: keras.Model) -> Iterator[None]:
    """Gives a model its weights and masks back, whatever happens.

    Args:
        model: `keras.Model`.
    """
    give_back = _remembered(model)
    try:
        yield
    finally:
        give_back()


@contextlib.contextmanager
def all_or_nothing(model: keras.Model) -> Iterator[None]:
    """Gives a model its weights and masks back where something fails.

    Args:
        model: `keras.Model`.
    """
    give_back = _remembered(model)
    try:
        yield
    except BaseException:
        give_back()
        raise


def _remembered(model) -> Callable[[], None]:
    variables = model.variables
    values = [np.copy(weights.to_numpy(variable)) for variable in variables]

    def give_back():
        for variable, value in zip(variables, values):
            variable.assign(value)

    return give_back
