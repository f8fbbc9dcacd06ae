"""Rules: how channels go through each operation.

A rule is a callable `rule(walk, call)`, registered for a class of layers or
operations. It gets a `kprune.structure.Walk` to write down what it finds and a
`kprune.structure.LayerCall`, and returns one dict per output, from axis to
`kprune.structure.Channels`.
An operation without a rule freezes what it reads: never a guess.
"""

import itertools
from collections.abc import Callable

from kprune.structure.records import Axes

Rule = Callable[..., list[Axes]]

_RULES: dict[type, Rule] = {}

# What a subclass may define anew and still compute the same.
_ALWAYS_OWN = {"from_config", "get_config"}


def register_rule(*kinds: type) -> Callable[[Rule], Rule]:
    """Registers a rule for classes of layers or operations.

    The rule holds for subclasses too, unless they have methods of their own
    in place of inherited ones, but for the constructor and the config's.
    Masks, which Keras may pass to any layer, are not among `call.inputs` but
    in `call.masks`.

    Args:
        *kinds: Classes.

    Returns:
        A decorator.

    Example:

    >>> class Double(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2 * x
    >>> @kprune.structure.register_rule(Double)
    ... def double(walk, call):
    ...     (x,) = call.inputs
    ...     return [{axis: c.varying() for axis, c in x.axes.items()}]
    >>> model = keras.Sequential([
    ...     keras.Input((3,)),
    ...     keras.layers.Dense(4, name="a"),
    ...     Double(name="twice"),
    ...     keras.layers.Dense(2, name="b"),
    ... ])
    >>> graph = kprune.structure.channel_graph(model)
    >>> graph.has_free_filters(model.get_layer("a"))
    True
    """

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            _RULES[kind] = rule
        return rule

    return register


def rule_for(operation) -> Rule | None:
    """The rule of an operation, `None` where there is none.

    Args:
        operation: A layer or an operation.

    Returns:
        A callable or `None`.
    """
    kind = type(operation)
    for base in kind.__mro__:
        if base in _RULES:
            return None if overrides(kind, base) else _RULES[base]
    return None


def overrides(kind: type, base: type) -> bool:
    """Whether a class computes anything in another way than its base.

    Args:
        kind: A class.
        base: A class that it derives from, or the same.

    Returns:
        Boolean.
    """
    own = itertools.takewhile(lambda c: c is not base, kind.__mro__)
    return any(
        hasattr(base, name)
        for derived in own
        for name in vars(derived)
        if not name.startswith("__") and name not in _ALWAYS_OWN
    )


def no_rule(operation) -> str:
    """The reason that goes with an operation without a rule."""
    return f"'{operation.name}' ({type(operation).__name__}) has no rule"


def check_outputs(operation, rule, outputs, shapes) -> None:
    """Raises unless a rule returned what a rule has to return.

    Args:
        operation: The layer or operation.
        rule: Its rule.
        outputs: What the rule returned.
        shapes: Tuple of the shapes of the operation's outputs.

    Raises:
        ValueError: With the names of the rule and the operation.
    """
    expected = (
        f"The rule `{getattr(rule, '__name__', rule)}` of "
        f"{type(operation).__name__} must return a list of {len(shapes)} "
        "dicts, one an output, from an axis to its `Channels`"
    )
    if not isinstance(outputs, list) or len(outputs) != len(shapes):
        raise ValueError(f"{expected}. Received: {outputs!r}")
    for axes, shape in zip(outputs, shapes):
        if not isinstance(axes, dict):
            raise ValueError(f"{expected}. Received: {axes!r}")
        for axis, channels in axes.items():
            if not 0 <= axis < len(shape) or len(channels) != shape[axis]:
                raise ValueError(
                    f"{expected}. Received: {len(channels)} channels for axis "
                    f"{axis} of an output of shape {shape} of "
                    f"'{operation.name}'."
                )
