"""The inputs and outputs of a file: their order, names and shapes."""

import itertools
import keyword
import numbers
import re

import keras

from kprune import keras_internals


def keras_names(model: keras.Model) -> list[str]:
    """The names of the inputs' layers, which a `.keras` file keeps.

    Args:
        model: A Sequential or Functional model.

    Returns:
        List of strings, one per input.
    """
    return [keras_internals.input_layer(tensor).name for tensor in model.inputs]


def names_of(model: keras.Model) -> list[str]:
    """Names of the inputs that every format can take.

    Args:
        model: A Sequential or Functional model.

    Returns:
        List of strings, one per input: Keras's own, with an underscore for
        what TensorFlow does not allow in a name.
    """
    return _valid(keras_names(model), "input")


def output_names_of(model: keras.Model) -> list[str]:
    """Names of the outputs that every format can take.

    Args:
        model: A Sequential or Functional model.

    Returns:
        List of strings, one per output: the keys of a dict of outputs, as
        `names_of` changes them, else `output_0` and so on.
    """
    struct = keras_internals.outputs_struct(model)
    paths = [path for path, _ in keras.tree.flatten_with_path(struct)]
    if isinstance(struct, dict) and all(len(path) == 1 for path in paths):
        return _valid([str(key) for (key,) in paths], "output")
    return [f"output_{index}" for index in range(len(paths))]


def _valid(names: list[str], prefix: str) -> list[str]:
    """The names as TensorFlow and Python's arguments allow them, each once."""
    valid: list[str] = []
    for name in names:
        name = re.sub(r"[^A-Za-z0-9_]", "_", name)
        if not name[:1].isalpha() or keyword.iskeyword(name) or name == "self":
            name = f"{prefix}_{name}"
        # TensorFlow's arguments do not differ by upper and lower case only.
        taken = {other.lower() for other in valid}
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        candidates = itertools.chain([name], numbered)
        valid.append(next(c for c in candidates if c.lower() not in taken))
    return valid


def in_order(model: keras.Model, given: dict, argument: str) -> list:
    """What a dict holds for each input, in the order of the inputs.

    Args:
        model: A Sequential or Functional model.
        given: Dict with the keys that the model takes, or with the names of
            its inputs.
        argument: String. Whose value it is, for the message.

    Returns:
        List with one item per input.

    Raises:
        ValueError: If the keys are others.
    """
    struct = keras_internals.inputs_struct(model)
    keys = keras_names(model)
    if isinstance(struct, dict) and set(given) == set(struct):
        key_of = {id(tensor): key for key, tensor in struct.items()}
        keys = [key_of[id(tensor)] for tensor in model.inputs]
    if set(given) != set(keys):
        raise ValueError(
            f"`{argument}` must have the names {keys}. "
            f"Received: {sorted(map(str, given))}"
        )
    return [given[key] for key in keys]


def shapes_of(model: keras.Model, batch_size: int | None, given) -> list:
    """The shape of each input of what is written.

    Args:
        model: A Sequential or Functional model.
        batch_size: Integer, or `None` for any: where nothing is given.
        given: What the user asked for: one shape, or a list or dict of shapes
            as the model takes its inputs, each a tuple that starts with the
            batch size or a `keras.InputSpec`; `None` leaves it to kprune.

    Returns:
        List of tuples of integers and `None`, one per input of the model.

    Raises:
        ValueError: If the shapes do not fit the model's inputs.
    """
    if given is None:
        # A model may have a batch size of its own.
        return [
            (tensor.shape[0] or batch_size, *tensor.shape[1:])
            for tensor in model.inputs
        ]
    if isinstance(given, dict):
        given = in_order(model, given, "input_signature")
    elif isinstance(given, keras.InputSpec) or _is_shape(given):
        given = [given]
    shapes = [getattr(spec, "shape", spec) for spec in _items(given)]
    if len(shapes) != len(model.inputs) or not all(map(_is_shape, shapes)):
        raise ValueError(
            "`input_signature` must give a shape for each of "
            f"{keras_names(model)}: the batch size "
            "first, integers above 0 or None. "
            f"Received: {given!r}"
        )
    names = keras_names(model)
    for shape, tensor, name in zip(shapes, model.inputs, names):
        fits = len(shape) == len(tensor.shape) and all(
            size is None or own is None or size == own
            for size, own in zip(shape, tensor.shape)
        )
        if not fits:
            raise ValueError(
                f"`input_signature` has the shape {tuple(shape)} for "
                f"'{name}', which takes {tuple(tensor.shape)}. "
                "Batch sizes come first."
            )
    return [
        tuple(None if size is None else int(size) for size in shape)
        for shape in shapes
    ]


def _items(given) -> list:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _is_shape(given) -> bool:
    return isinstance(given, (list, tuple)) and all(
        size is None
        or (
            isinstance(size, numbers.Integral)
            and not isinstance(size, bool)
            and int(size) > 0
        )
        for size in given
    )
