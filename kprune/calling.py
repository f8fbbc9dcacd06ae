"""Calling a layer on behalf of another, with other values for its weights."""

import functools

import keras


class Scope(keras.StatelessScope):
    """Gives variables other values, and keeps what is assigned to any.

    To those as well that Keras lists with no layer, such as the states of a
    stateful recurrent layer. Losses are collected.

    Args:
        values: List of pairs of a `keras.Variable` and a tensor of its shape
            and dtype.
    """

    def __init__(self, values):
        super().__init__(collect_losses=True)
        # Not checked again by Keras, which shows in eager steps.
        self.state_mapping = {id(variable): value for variable, value in values}
        self._assigned = {}

    @property
    def assigned(self):
        return list(self._assigned.values())

    def add_update(self, update):
        variable, _ = update
        self._assigned[id(variable)] = variable
        super().add_update(update)

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            # On JAX a model is called in a scope that has all values.
            value = self.original_scope.get_current_value(variable)
        return value


def like(method, call):
    """`call` with the signature of `method`."""

    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        return call(*args, **kwargs)

    return wrapper


def as_symbols(arguments):
    """A structure of arguments with symbols in place of its tensors."""
    return keras.tree.map_structure(_as_symbol, arguments)


def _as_symbol(x):
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        dtype = keras.backend.standardize_dtype(x.dtype)
        return keras.KerasTensor(tuple(x.shape), dtype=dtype)
    return x
