"""Models that Keras 2 saved as `.h5` files, in words that Keras 3 knows.

Keras 3 reads such files, but neither the arguments that it has dropped nor
how a model was called inside of another: without this no file loads that has a
depthwise, separable or transposed convolution, a recurrent or attention layer,
or a nested model.
"""

import inspect
import json
import pathlib
import shutil

import keras

# What Keras 2 wrote down of every layer of a kind, with the only value that
# means what Keras 3 computes without it. Another value stays, and is refused.
_IMPLIED = {
    "groups": 1,
    "kernel_constraint": None,
    "kernel_regularizer": None,
    "noise_shape": None,
    # Keras 3 takes the name for the function `keras.layers.dot`.
    "score_mode": "dot",
    "softmax_robust_masking": False,
    "time_major": False,
}
# What has no effect on what a loaded model computes.
_IDLE = (
    "kernel_initializer",
    "key_shape",
    "query_shape",
    "rng_type",
    "trainable",
    "value_shape",
)
_MODELS = ("Functional", "Model", "Sequential")


class NotConverted(ValueError):
    """An `.h5` file holds nothing that Keras 3 can go on with."""


def convert_h5(path: pathlib.Path, copy: pathlib.Path) -> None:
    """Copies an `.h5` file, with a config that Keras 3 reads.

    Layers get names without `/`, which Keras 3 does not allow. The weights
    are found by their order, so they stay as they are.

    Args:
        path: `pathlib.Path` of the file. One of Keras 3 is copied as it is.
        copy: `pathlib.Path` of the copy.

    Raises:
        NotConverted: If the file holds no model, or one that Keras 3 would
            compute other numbers with.
        OSError: If it is damaged.
    """
    import h5py

    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise NotConverted(
                f"'{path}' holds weights and no model. Make the model as it "
                f"was, call `model.load_weights('{path}')`, and pass that, or "
                "what `model.save('name.keras')` writes of it."
            )
        config = json.loads(config)
        version = str(file.attrs.get("keras_version", ""))
        is_old = version.split(".")[0] in ("1", "2")
        for name, inner in _configs(config):
            axis = inner.get("axis")
            if isinstance(axis, list) and len(axis) > 1:
                raise NotConverted(
                    f"'{path}' has '{name}' with the axes {axis}, which Keras "
                    "loses when it reads an `.h5` file. Save the model as a "
                    "`.keras` file."
                )
            if is_old and "hard_sigmoid" in inner.values():
                raise NotConverted(
                    f"'{path}', which Keras {version} wrote, has '{name}' with "
                    "the activation 'hard_sigmoid'. That is another function "
                    "in Keras 3, so the model would compute other numbers. "
                    "Train it with another one, such as 'sigmoid'."
                )
        if is_old:
            # Bytes, for which HDF5 has no limit of 64 KB.
            changed = json.dumps(_converted(config)).encode()
            file.attrs["model_config"] = changed


def _configs(config):
    """Yields the name and the config of all that a config has in it."""
    if isinstance(config, dict):
        inner = config.get("config")
        if isinstance(inner, dict):
            yield inner.get("name"), inner
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _configs(part)


def _converted(config):
    """A config, or a part of it, with what Keras 3 takes."""
    if isinstance(config, list):
        return [_converted(part) for part in config]
    if not isinstance(config, dict):
        return config
    config = {key: _converted(part) for key, part in config.items()}
    if "class_name" in config and isinstance(config.get("config"), dict):
        kind, inner = config["class_name"], config["config"]
        if kind == "Policy":
            return inner["name"]
        if kind in _MODELS and "output_layers" in inner:
            _convert_calls(inner)
        if hasattr(keras.layers, kind):
            config["config"] = _taken(getattr(keras.layers, kind), inner)
        for named in (config, config["config"]):
            if isinstance(named.get("name"), str):
                named["name"] = _without_slash(named["name"])
    return config


def _without_slash(name: str) -> str:
    return name.replace("/", "_")


def _taken(kind, config: dict) -> dict:
    """A layer's config without what Keras 3 does not take."""
    arguments = _arguments(kind)
    return {
        key: value
        for key, value in config.items()
        if not (key in _IMPLIED and value == _IMPLIED[key])
        and not (key in _IDLE and key not in arguments)
    }


def _arguments(kind) -> set[str]:
    """The names of the arguments that a class of layers takes."""
    names: set[str] = set()
    for part in kind.__mro__:
        if "__init__" in vars(part):
            parameters = inspect.signature(part.__init__).parameters
            names.update(parameters)
            kinds = {parameter.kind for parameter in parameters.values()}
            # Without `**kwargs` nothing goes on to the class above.
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
    return names


def _convert_calls(config: dict) -> None:
    """Writes down the calls of a functional model as Keras 3 does.

    Keras 2 counts from 1 how often a model was called, and from 0 of other
    layers; Keras 3 does so of functional models, and where it names outputs
    only.
    """
    kinds = {
        _without_slash(x["config"]["name"]): x["class_name"]
        for x in config["layers"]
    }
    for layer in config["layers"]:
        layer["inbound_nodes"] = [
            _call(node, kinds) for node in layer["inbound_nodes"]
        ]

    def shifted(part):
        if _is_reference(part):
            name, index, number = part
            name = _without_slash(name)
            return [name, index - (kinds[name] == "Sequential"), number]
        if isinstance(part, dict):
            return {key: shifted(value) for key, value in part.items()}
        return [shifted(value) for value in part]

    config["input_layers"] = shifted(config["input_layers"])
    config["output_layers"] = shifted(config["output_layers"])


def _call(node: list, kinds: dict) -> dict | list:
    """One call of a layer, as Keras 3 writes it down."""

    def tensors(part):
        if _is_reference(part):
            name, index, number = part
            name = _without_slash(name)
            history = [name, index - (kinds[name] in _MODELS), number]
            # Shape and dtype are not looked at.
            about = {"shape": [], "dtype": "float32", "keras_history": history}
            return {"class_name": "__keras_tensor__", "config": about}
        if isinstance(part, dict):
            return {key: tensors(value) for key, value in part.items()}
        if isinstance(part, list):
            return [tensors(value) for value in part]
        return part

    if not all(isinstance(reference, list) for reference in node):
        return node  # of an operation that Keras 3 has no layer for
    first = [tensors(reference[:3]) for reference in node]
    return {
        "args": [first[0] if len(first) == 1 else first],
        "kwargs": tensors(node[0][3]) if len(node[0]) > 3 else {},
    }


def _is_reference(part) -> bool:
    """Whether it names an output: layer, which of its calls, which output."""
    is_triple = isinstance(part, list) and len(part) == 3
    return is_triple and isinstance(part[0], str)
