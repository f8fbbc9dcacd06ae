"""What a layer can save together with itself."""

import operator
from typing import Self

import keras

register = keras.saving.register_keras_serializable(package="kprune")


class Savable:
    """Saves and loads with the layer that it was given to."""

    def get_config(self) -> dict:
        """Returns the arguments of the constructor as a dict."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """Returns the granularity that `get_config` describes."""
        return cls(**config)


def positive(name: str, value) -> int:
    """The value of an argument that must be a positive integer."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return number
