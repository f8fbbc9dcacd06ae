"""Functions in the configs of layers."""

import types

import keras


def config_with_functions(layer: keras.layers.Layer) -> dict:
    """A layer's config with its functions in the place of their names.

    A function that is not registered does not come back from its name, and
    Keras has no name for a `functools.partial`, nor for any object that is
    called.

    Args:
        layer: A Keras layer.

    Returns:
        Dict.
    """
    attributes = vars(layer)
    nameless = {
        name: value
        for name, value in attributes.items()
        if not name.startswith("_") and _is_nameless(value)
    }
    attributes.update(dict.fromkeys(nameless, keras.activations.linear))
    try:
        config = layer.get_config()
    finally:
        attributes.update(nameless)
    # What a user's own method returns need not be a dict.
    for name in config if isinstance(config, dict) else ():
        value = getattr(layer, name, None)
        if name in nameless or isinstance(value, types.FunctionType):
            config[name] = value
    return config


def _is_nameless(value) -> bool:
    """Whether a value is called as a function, and is none."""
    is_known = isinstance(value, (type, keras.layers.Layer))
    is_named = hasattr(value, "__name__") or hasattr(value, "get_config")
    return callable(value) and not is_known and not is_named
