"""Building a model again, layer by layer, with other layers in place."""

import itertools
import tempfile
import warnings

import keras
from keras import ops

from kprune import keras_internals
from kprune.prunable import unwrapped
from kprune.structure.functions import config_with_functions

# They keep a vocabulary.
LOOKUPS = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)


def clone(layer, config: dict | None = None):
    """A new layer like `layer`, not built and without its weights.

    Args:
        layer: A Keras layer.
        config: Dict of what is to differ in its config.

    Returns:
        The new layer; the same one if it is of a subclass of Lambda, which
        can be made from anything.
    """
    if type(layer) is keras.layers.Lambda:
        return _clone_lambda(layer)
    if isinstance(layer, keras.layers.Lambda):
        return layer
    whole = config_with_functions(layer)
    new = type(layer).from_config(_unbuilt({**whole, **(config or {})}))
    if isinstance(layer, LOOKUPS) and layer.get_vocabulary(
        include_special_tokens=False
    ):
        # A vocabulary that was learned is in no config.
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            new.load_assets(folder)
    return new


def _clone_lambda(layer):
    """A new Lambda, whose functions cannot be read from a config."""
    return keras.layers.Lambda(
        layer.function,
        output_shape=keras_internals.lambda_output_shape(layer),
        mask=layer.mask,
        arguments=layer.arguments,
        **keras.layers.Layer.get_config(layer),
    )


def _clone_operation(operation):
    """A new operation like one that is no layer, in no graph yet.

    One operation in the graphs of two models would keep the weights of the
    one in memory as long as the other lives.
    """
    new = object.__new__(type(operation))
    vars(new).update(vars(operation))
    keras.Operation.__init__(new, name=operation.name)
    return new


def _unbuilt(config):
    """A config without the shapes that layers in it were built with."""
    if isinstance(config, dict):
        is_layer = "class_name" in config
        return {
            key: _unbuilt(value)
            for key, value in config.items()
            if not (is_layer and key == "build_config")
        }
    if isinstance(config, list):
        return [_unbuilt(item) for item in config]
    return config


def padded(layer, width: int, new_width: int, rank: int, dtype: str):
    """A model in which a layer sees zeros where channels went.

    Args:
        layer: A layer that is not built, whose output has the shape of its
            input and whose weights are those of the old width.
        width: Integer: the length of the last axis that the layer gets.
        new_width: Integer: the length that the model takes and returns.
        rank: Integer: the rank of its input, the batch axis included.
        dtype: String: the dtype of its input.

    Returns:
        `keras.Model` of the layer's name: pad, the layer, slice.
    """
    inputs = keras.Input((None,) * (rank - 2) + (new_width,), dtype=dtype)
    grown = [(0, 0)] * (rank - 1) + [(0, width - new_width)]
    outputs = layer(ops.pad(inputs, grown))[..., :new_width]
    return keras.Model(inputs, outputs, name=layer.name)


class Rebuilder:
    """Rebuilds models with `replace(layer)` in place of each layer.

    A layer or nested model that is used in several places is rebuilt once.

    Args:
        replace: Callable from a layer to a new one that is not built.
        new_config: Callable from an operation to a dict of what is to differ
            in its config.
        new_arguments: Callable `(call, args, kwargs) -> (args, kwargs)`: the
            arguments of a call in the new model, from the old ones with the
            new model's tensors in place.
    """

    def __init__(
        self,
        replace,
        new_config=lambda operation: {},
        new_arguments=lambda call, args, kwargs: (args, kwargs),
    ):
        self._replace = replace
        self._new_config = new_config
        self._new_arguments = new_arguments
        self._new = {}
        self._replaced = []

    def rebuild(self, model, inputs: list | None = None):
        """Builds a Sequential or Functional model again.

        Args:
            model: A built Sequential or Functional model.
            inputs: List of the symbolic tensors that it will be called with,
                where their shapes can differ from the model's inputs.

        Returns:
            A model of the same kind and name, its weights not yet copied.
        """
        new_inputs = [
            _new_input(old, like)
            for old, like in zip(model.inputs, inputs or model.inputs)
        ]
        if keras_internals.is_custom_class(model):
            warnings.warn(
                f"Model '{model.name}' is of the class "
                f"{type(model).__name__}; it comes back as a plain model, "
                "without the methods of that class.",
                stacklevel=3,
            )
        if isinstance(model, keras.Sequential):
            return self._sequential(model, new_inputs)
        values = dict(zip(map(id, model.inputs), new_inputs))
        names = set()
        for call in keras_internals.calls(model):
            tensors = [values[id(tensor)] for tensor in call.inputs]
            args, kwargs = self._new_arguments(call, *call.fill_in(values))
            outputs = self._operation(call.operation, tensors, names)(
                *args, **kwargs
            )
            for old, new in zip(call.outputs, keras.tree.flatten(outputs)):
                values[id(old)] = new

        def new_tensor(old):
            return values[id(old)]

        return keras.Model(
            keras.tree.map_structure(
                new_tensor, keras_internals.inputs_struct(model)
            ),
            keras.tree.map_structure(
                new_tensor, keras_internals.outputs_struct(model)
            ),
            name=model.name,
        )

    def copy_weights(self, value=ops.convert_to_numpy) -> None:
        """Gives every rebuilt layer its weights.

        Args:
            value: Callable from a variable of an old layer to the array that
                the new layer's variable gets.

        Raises:
            ValueError: If a shape does not fit, with the variable's name.
        """
        for old, new in self._replaced:
            targets = unwrapped(new).weights
            sources = unwrapped(old).weights
            for source, target in zip(sources, targets, strict=True):
                array = value(source)
                if tuple(array.shape) != tuple(target.shape):
                    raise ValueError(
                        f"'{source.path}' was to become {array.shape}, but "
                        f"the rebuilt layer '{new.name}' has "
                        f"{tuple(target.shape)}. The rule of "
                        f"{type(unwrapped(old)).__name__} does not say all "
                        "that changes with its channels."
                    )
                target.assign(array)
            if isinstance(new, keras.layers.Normalization) and targets:
                new.finalize_state()

    def _sequential(self, model, new_inputs):
        (tensor,) = new_inputs
        rebuilt = []
        names = set()
        for layer in model.layers:
            rebuilt.append(self._operation(layer, [tensor], names))
            tensor = rebuilt[-1](tensor)
        return keras.Sequential([*new_inputs, *rebuilt], name=model.name)

    def _operation(self, operation, tensors, names):
        """What stands in the place of an operation in the new model."""
        if id(operation) not in self._new:
            if keras_internals.has_graph(operation):
                new = self.rebuild(operation, tensors)
            elif isinstance(operation, keras.layers.Layer):
                new = self._replace(operation)
                if new is not operation:
                    new.name = _unused(new.name, names)
                names.add(new.name)
                self._replaced.append((operation, new))
            elif changes := self._new_config(operation):
                config = {**operation.get_config(), **changes}
                new = type(operation).from_config(config)
            else:
                new = _clone_operation(operation)
            self._new[id(operation)] = new
        return self._new[id(operation)]


def _unused(name: str, names: set) -> str:
    """The name, numbered if taken: a flattened model has several scopes."""
    numbered = (f"{name}_{index}" for index in itertools.count(1))
    return next(n for n in itertools.chain([name], numbered) if n not in names)


def _new_input(old, like):
    """An input like `old`, as long along each known axis as `like` is."""
    config = keras_internals.input_layer(old).get_config()
    shape = [
        None if size is None else new
        for size, new in zip(old.shape, like.shape, strict=True)
    ]
    return keras.layers.InputLayer(**{**config, "batch_shape": shape}).output
