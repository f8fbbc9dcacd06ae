"""The channel graph: a model's groups, printable, with reasons."""

import collections
import dataclasses
from typing import Any

import keras
import numpy as np

from kprune import keras_internals
from kprune.received import check_model
from kprune.structure import flattening
from kprune.structure.records import Binding, Merge
from kprune.structure.slots import Groups
from kprune.structure.walk import Walk


@dataclasses.dataclass(frozen=True)
class ChannelGraph:
    """Which channels of a model must be kept or cut together.

    Made by `kprune.structure.channel_graph`. `str(graph)` lists the groups.

    Args:
        groups: The `Groups`: connected sets of channels, and why some stay.
        bindings: Tuple of `Binding`: which axis of which variable holds them.
        merges: Tuple of `Merge`: which calls make one tensor of several.
        visited: Frozen set of the ids of the layers that are in the graph,
            those without channels too.
        padded: Frozen set of the ids of the layers that pad what is left of
            their inputs, so that their weights keep their length.
    """

    groups: Groups
    bindings: tuple[Binding, ...]
    merges: tuple[Merge, ...]
    visited: frozenset
    padded: frozenset = frozenset()

    def has_layer(self, layer: Any) -> bool:
        """Whether a layer is in the graph, and not hidden in another layer."""
        return id(layer) in self.visited

    def groups_of(
        self, variable: keras.Variable, axis: int
    ) -> np.ndarray | None:
        """The groups along one axis of a variable, `None` if it has none."""
        for binding in self.bindings:
            if binding.variable is variable and binding.axis == axis:
                return self.groups.of_slot[binding.slots]
        return None

    def has_free_filters(self, layer: Any) -> bool:
        """Whether any output channel of a layer can be cut."""
        return any(
            not self.groups.frozen[self.groups.of_slot[binding.slots]].all()
            for binding in self.bindings
            if binding.layer is layer and binding.role == "out"
        )

    def frozen_reasons(self, layer: Any) -> list[str]:
        """Why output channels of a layer stay; empty if all can be cut."""
        found: dict[str, None] = {}
        for binding in self.bindings:
            if binding.layer is layer and binding.role == "out":
                for group in self.groups.of_slot[binding.slots]:
                    reason = self.groups.reason(group)
                    if reason is not None:
                        found[reason] = None
        return list(found)

    def to_dict(self) -> dict:
        """Returns the groups as a dict of plain Python values, as of JSON."""
        return {
            "groups": [
                {
                    "group": group,
                    "members": members,
                    "stays": self.groups.reason(group),
                }
                for group, members in self._members().items()
            ]
        }

    def __str__(self) -> str:
        lines = []
        for group, members in self._members().items():
            reason = self.groups.reason(group)
            stays = "" if reason is None else f" (stays: {reason})"
            lines.append(f"group {group}{stays}: {', '.join(members)}")
        return "\n".join(lines)

    def _members(self) -> dict[int, list[str]]:
        """What has a channel of each group, in the order of the model."""
        makers = {id(b.layer) for b in self.bindings if b.role == "out"}
        members: dict[int, dict[str, None]] = collections.defaultdict(dict)
        merges = collections.defaultdict(list)
        for merge in self.merges:
            merges[merge.after].append(merge)
        for index, binding in enumerate((*self.bindings, None)):
            for merge in merges[index]:
                for group in np.unique(self.groups.of_slot[merge.slots]):
                    members[int(group)][merge.layer.name] = None
            if binding is None:
                break
            layer, along = binding.layer, self.groups.of_slot[binding.slots]
            name = f"{layer.name}.{binding.variable.name} {binding.role}"
            for place, group in enumerate(along):
                if binding.role != "through":
                    members[int(group)][f"{name} {place}"] = None
                elif id(layer) not in makers:
                    members[int(group)][layer.name] = None
        return {group: list(members[group]) for group in sorted(members)}


def channel_graph(
    model: keras.Model, *, pad_layer_norm: bool = False
) -> ChannelGraph:
    """Finds which channels of a model must be kept or cut together.

    Args:
        model: A built model, with prunable layers or plain. A subclassed one
            is flattened by a symbolic call.
        pad_layer_norm: Boolean. Whether what a LayerNormalization normalizes
            over can be cut; see `kprune.granularities.Filter`.

    Returns:
        A `ChannelGraph`.

    Raises:
        ValueError: If the model has no graph that can be read: it is not
            built, or subclassed with a call that cannot be traced.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((3,)),
    ...     keras.layers.Dense(1, name="a"),
    ...     keras.layers.Dense(1, name="b"),
    ... ])
    >>> for line in str(kprune.structure.channel_graph(model)).splitlines():
    ...     print(line.partition(" (")[0])
    group 0: a.kernel out 0, b.kernel in 0
    group 1
    """
    model = readable(model, "read the structure of")
    walk = Walk(model, weigh=False, pad_layer_norm=pad_layer_norm)
    return ChannelGraph(
        walk.table.solve(),
        tuple(walk.bindings.values()),
        tuple(walk.merges),
        frozenset(walk.visited),
        frozenset(walk.padded),
    )


def readable(model: Any, verb: str) -> keras.Model:
    """The model itself, or the functional model that a subclassed one makes.

    Args:
        model: Anything.
        verb: String. What was to be done with it, for the message.

    Returns:
        A built Sequential or Functional model.

    Raises:
        ValueError: If it is no Keras model, is not built, or is subclassed
            and cannot be flattened.
    """
    check_model(model, verb)
    if keras_internals.has_graph(model):
        return model
    if isinstance(model, keras.Sequential) or not model.built:
        raise ValueError(
            f"Cannot {verb} model '{model.name}': it is not built, so its "
            "shapes are unknown. Start it with `keras.Input(shape)`, call it "
            "on data, or call `model.build(input_shape)` first."
        )
    try:
        return flattening.flatten(model)
    except ValueError as error:
        raise ValueError(
            f"Cannot {verb} model '{model.name}' of the subclass "
            f"{type(model).__name__}: it has no graph of layers that can be "
            f"read. {error} Use Keras layers and `keras.ops` only in `call`, "
            "or make a functional model of it: `inputs = keras.Input(shape); "
            "model = keras.Model(inputs, model.call(inputs))`."
        ) from error


def readable_or_none(model: keras.Model) -> keras.Model | None:
    """As `readable`, but `None` where there is no graph to read.

    Args:
        model: A built `keras.Model`.

    Returns:
        A built Sequential or Functional model, or `None`.
    """
    try:
        return readable(model, "read the structure of")
    except ValueError:
        return None
