"""Rules: how channels go through each operation.

A rule is a callable `rule(walk, call)`, registered for a class of layers or
operations. It gets a `kprune.structure.walk.Walk` to write down what it finds
and a `LayerCall`, and returns one dict per output, from axis to `Channels`.
An operation without a rule freezes what it reads: never a guess.
"""

_RULES = {}


def register_rule(*kinds):
    """Registers a rule for classes of layers or operations.

    The rule holds for subclasses too, unless they have a `call` of their own.

    Args:
        *kinds: Classes.

    Returns:
        A decorator.

    Example:

    ```python
    class Double(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    @kprune.structure.register_rule(Double)
    def double(walk, call):
        (x,) = call.inputs
        return [{axis: c.varying() for axis, c in x.axes.items()}]
    ```
    """

    def register(rule):
        for kind in kinds:
            _RULES[kind] = rule
        return rule

    return register


def rule_for(operation):
    """The rule of an operation, `None` where there is none.

    Args:
        operation: A layer or an operation.

    Returns:
        A callable or `None`.
    """
    kind = type(operation)
    for base in kind.__mro__:
        if base in _RULES:
            return _RULES[base] if kind.call is base.call else None
    return None


def no_rule(operation) -> str:
    """The reason that goes with an operation without a rule."""
    return f"'{operation.name}' ({type(operation).__name__}) has no rule"


# Importing a module of rules registers them.
from kprune.structure.rules import (  # noqa: E402, F401
    activations,
    applications,
    contracting,
    dense,
    elementwise,
    embeddings,
    indexing,
    kernels,
    merging,
    normalization,
    passing,
    rearranging,
    reducing,
    reshaping,
)
