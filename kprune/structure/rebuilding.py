"""Building a model again, layer by layer, with other layers in place."""

import itertools
import warnings

import keras
from keras import ops

from kprune import keras_internals
from kprune.prunable import unwrapped
from kprune.structure.cloning import (
    cannot_be_made_again,
    clone_operation,
    freeze_as,
    parts,
)


class Rebuilder:
    """Rebuilds models with `replace(layer)` in place of each layer.

    A layer or nested model that is used in several places, or that other
    layers hold, is rebuilt once.

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
        # What is called in place of an operation,
        self._new = {}
        # and the new layer for each old one, without wrappers, held ones too.
        self._made = {}
        self._models = []
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
        fresh: list = []
        for call in keras_internals.calls(model):
            tensors = [values[id(tensor)] for tensor in call.inputs]
            args, kwargs = self._new_arguments(call, *call.fill_in(values))
            new = self._operation(call.operation, tensors, fresh)
            outputs = new(*args, **kwargs)
            for old, new in zip(call.outputs, keras.tree.flatten(outputs)):
                values[id(old)] = new

        def new_tensor(old):
            return values[id(old)]

        _number_names(fresh)
        return self._model_made(
            model,
            keras.Model(
                keras.tree.map_structure(
                    new_tensor, keras_internals.inputs_struct(model)
                ),
                keras.tree.map_structure(
                    new_tensor, keras_internals.outputs_struct(model)
                ),
                name=model.name,
            ),
        )

    def copy_weights(self, value=ops.convert_to_numpy) -> None:
        """Gives every rebuilt layer its weights.

        Args:
            value: Callable from a variable of an old layer to the array that
                the new layer's variable gets.

        Raises:
            ValueError: If a shape does not fit, with the variable's name, or
                if two layers shared a variable and do not any more.
        """
        targets: dict = {}
        sources: dict = {}
        for old, new in self._replaced:
            old, new = _with_equal_weights(old, new)
            if len(old.weights) != len(new.weights):
                problem = (
                    f"it had {len(old.weights)} weights, and the one made "
                    f"again has {len(new.weights)}"
                )
                raise ValueError(cannot_be_made_again(old, problem))
            for source, target in zip(old.weights, new.weights):
                # One variable stays one variable, and two stay two.
                if (
                    targets.setdefault(id(source), target) is not target
                    or sources.setdefault(id(target), source) is not source
                ):
                    raise ValueError(_shared_otherwise(old, source))
                array = value(source)
                if tuple(array.shape) != tuple(target.shape):
                    raise ValueError(_misfit(old, source, array, target))
                target.assign(array)
            if isinstance(new, keras.layers.Normalization) and new.weights:
                new.finalize_state()
        # Outer ones first: it is passed on to all that is inside.
        for old, new in reversed(self._models):
            new.trainable = old.trainable
        for old, new in self._replaced:
            new.trainable = old.trainable
            freeze_as(*_with_equal_weights(old, new))

    def _sequential(self, model, new_inputs) -> keras.Model:
        (tensor,) = new_inputs
        rebuilt: list = []
        fresh: list = []
        for layer in model.layers:
            rebuilt.append(self._operation(layer, [tensor], fresh))
            tensor = rebuilt[-1](tensor)
        _number_names(fresh)
        return self._model_made(
            model,
            keras.Sequential([*new_inputs, *rebuilt], name=model.name),
        )

    def _model_made(self, old, new):
        self._models.append((old, new))
        self._made[id(old)] = new
        return new

    def _operation(self, operation, tensors, fresh):
        """What stands in the place of an operation in the new model.

        Args:
            operation: The old operation.
            tensors: List of the symbolic tensors that it is called with.
            fresh: List that a layer made here is appended to.
        """
        if id(operation) not in self._new:
            new = self._new[id(operation)] = self._rebuilt(operation, tensors)
            if isinstance(new, keras.layers.Layer) and new is not operation:
                fresh.append(new)
        return self._new[id(operation)]

    def _rebuilt(self, operation, tensors):
        if isinstance(operation, keras.layers.Layer):
            old = unwrapped(operation)
            new = self._made.get(id(old))
            if new is None and keras_internals.has_graph(operation):
                return self.rebuild(operation, tensors)
            if new is None:
                new = self._replace(operation)
                keras_internals.share_scope(new, old)
                self._keep_sharing(old, unwrapped(new))
            self._replaced.append((operation, new))
            return new
        if changes := self._new_config(operation):
            config = {**operation.get_config(), **changes}
            return type(operation).from_config(config)
        return clone_operation(operation)

    def _keep_sharing(self, old, new):
        """Lets a layer hold what stands for the layers that the old one held.

        The config that it was made from has copies of them.
        """
        if new is old:
            return
        keras_internals.share_scope(new, old)
        self._made[id(old)] = new
        copies = {}
        for held, copy in parts(old, new):
            made = self._made.setdefault(id(held), copy)
            if made is not copy:
                copies[copy] = made
        if copies:
            keras_internals.replace_layers(new, copies)


def _number_names(new_layers) -> None:
    """Numbers names that are taken: a flattened model has several scopes.

    After they were called, so that their variables keep the paths.
    """
    names = set()
    for layer in new_layers:
        numbered = (f"{layer.name}_{index}" for index in itertools.count(1))
        candidates = itertools.chain([layer.name], numbered)
        name = next(name for name in candidates if name not in names)
        names.add(name)
        if name != layer.name:
            layer.name = unwrapped(layer).name = name


def _with_equal_weights(old, new) -> tuple:
    """Both with their masks if both have them, else both without."""
    if unwrapped(old) is not old and unwrapped(new) is not new:
        return old, new
    return unwrapped(old), unwrapped(new)


def _misfit(old, source, array, target) -> str:
    if array.shape == tuple(source.shape):
        return cannot_be_made_again(
            old,
            f"'{source.path}' has the shape {array.shape}, and that of the "
            f"one made again {tuple(target.shape)}",
        )
    return (
        f"'{source.path}' was to become {array.shape}, but the rebuilt layer "
        f"'{old.name}' has {tuple(target.shape)}. The rule of "
        f"{type(old).__name__} does not say all that changes with its channels."
    )


def _shared_otherwise(layer, variable) -> str:
    return (
        f"Layer '{layer.name}' shares '{variable.path}' with another layer in "
        "one of the two models and not in the other, since what they hold in "
        "common was not found among their attributes. Set it on each of them, "
        "as `self.shared = shared`, or within a list or dict."
    )


def _new_input(old, like):
    """An input like `old`, as long along each known axis as `like` is."""
    config = keras_internals.input_layer(old).get_config()
    shape = [
        None if size is None else new
        for size, new in zip(old.shape, like.shape, strict=True)
    ]
    return keras.layers.InputLayer(**{**config, "batch_shape": shape}).output
