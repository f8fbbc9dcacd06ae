"""Following channels through the calls of a model."""

import keras

from kprune import keras_internals, layers
from kprune.structure import flattening
from kprune.structure.records import Axes, LayerCall, Tensor
from kprune.structure.rules import registry


class Follower:
    """Goes through a model's calls, each after those that it needs.

    Args:
        walk: The `Walk` to which the rules say what they find.
    """

    def __init__(self, walk):
        self._walk = walk
        self._is_inside_masked = False
        # For each class why its layers are not traced through.
        self._closed = {}

    def follow_all(self, model: keras.Model) -> None:
        """Follows the channels of a model, whose outputs keep theirs.

        Args:
            model: A built Sequential or Functional model.
        """
        outputs = self._outputs(model, [{} for _ in model.inputs])
        makers = {
            id(tensor): call.operation.name
            for call in keras_internals.calls(model)
            for tensor in call.outputs
        }
        for tensor, axes in zip(model.outputs, outputs):
            name = makers.get(id(tensor))
            reason = f"it is an output of the model ('{name}')"
            self._walk.freeze(axes, reason)

    def _outputs(self, model, inputs: list[Axes]) -> list[Axes]:
        traced = {
            id(tensor): self._tensor(tensor, axes)
            for tensor, axes in zip(model.inputs, inputs)
        }
        for call in keras_internals.calls(model):
            outputs = self._apply(call, traced)
            for tensor, axes in zip(call.outputs, outputs):
                traced[id(tensor)] = self._tensor(tensor, axes)
        return [traced[id(tensor)].axes for tensor in model.outputs]

    def _tie_calls(self, model, inputs) -> None:
        """A nested model takes tensors of the same lengths at every call."""
        for place, tensor in enumerate(inputs):
            for axis in range(1, len(tensor.shape)):
                key = ("inputs", place, axis)
                if axis in tensor.axes:
                    self._walk.resize(model, key, tensor.axes[axis].slots)
                else:
                    self._walk.hold(model, model, key)

    def _tensor(self, tensor, axes) -> Tensor:
        for channels in axes.values():
            self._walk.spans[id(channels.slots)] = channels.slots
        # A nested model's own graph does not know what it is called with.
        has_mask = self._is_inside_masked or keras_internals.has_mask(tensor)
        return Tensor(tuple(tensor.shape), axes, tensor.dtype, has_mask)

    def _apply(self, call, traced) -> list[Axes]:
        operation = call.operation
        if isinstance(operation, layers.PrunableLayer):
            for name, variable in operation.maskable.items():
                mask = operation.masks[name]
                self._walk.masks.setdefault(id(variable), mask)
            operation = operation.layer
        self._walk.visited[id(operation)] = operation
        inputs = tuple(traced[id(tensor)] for tensor in call.inputs)
        if keras_internals.has_graph(operation):
            outside = self._is_inside_masked
            # What comes beside the inputs is a mask.
            count = len(operation.inputs)
            self._is_inside_masked = len(inputs) > count or any(
                x.has_mask for x in inputs
            )
            inputs, masks = inputs[:count], inputs[count:]
            self._freeze_masks(operation, masks)
            self._tie_calls(operation, inputs)
            outputs = self._outputs(operation, [x.axes for x in inputs])
            self._is_inside_masked = outside
            return outputs
        rule = registry.rule_for(operation)
        refusal = None if rule is None else self._walk.refusal(operation)
        if rule is None or refusal is not None:
            reason = refusal or self._no_rule(operation, call)
            self._walk.refuse(operation, inputs, reason)
            return [{} for _ in call.outputs]
        args, kwargs = call.fill_in(traced)
        shapes = tuple(tuple(tensor.shape) for tensor in call.outputs)
        key = id(call.outputs[0])
        seen = LayerCall(operation, args, kwargs, shapes, key)
        self._freeze_masks(operation, seen.masks)
        outputs = rule(self._walk, seen)
        registry.check_outputs(operation, rule, outputs, shapes)
        for axes in outputs:
            reason = f"'{operation.name}' puts it in the batch's place"
            self._walk.freeze({0: axes.pop(0)} if 0 in axes else {}, reason)
        if len(seen.inputs) > 1:
            self._walk.merge(operation, outputs)
        return outputs

    def _freeze_masks(self, operation, masks) -> None:
        for mask in masks:
            reason = f"'{operation.name}' takes it for a mask"
            self._walk.freeze(mask.axes, reason)

    def _no_rule(self, operation, call) -> str:
        """The reason that goes with a call without a rule."""
        kind = type(operation)
        if kind not in self._closed:
            fresh = {
                id(x): keras.Input(batch_shape=x.shape, dtype=x.dtype)
                for x in call.inputs
            }
            args, kwargs = call.fill_in(fresh)
            self._closed[kind] = flattening.why_closed(operation, args, kwargs)
        why = self._closed[kind]
        opened = f" and its call cannot be traced ({why})" if why else ""
        return registry.no_rule(operation) + opened
