"""Rules of operations that act along axes: means, sums, softmax."""

from kprune.keras_internals import operation_classes
from kprune.structure.rules.arguments import normalized
from kprune.structure.rules.registry import register_rule


@register_rule(*operation_classes("Max", "Amax", "Min", "Amin"))
def extreme(walk, call):
    """The extreme of a constant is that constant, or the initial value."""
    axes = _reduced(walk, call)
    if getattr(call.layer, "initial", None) is not None:
        axes = {axis: channels.varying() for axis, channels in axes.items()}
    return [axes]


@register_rule(*operation_classes("Mean", "Median"))
def mean(walk, call):
    """The mean of a constant is that constant."""
    return [_reduced(walk, call)]


@register_rule(*operation_classes("Prod", "Var"))
def zero_of_zeros(walk, call):
    """Zeros make a zero."""
    axes = _reduced(walk, call)
    return [{axis: channels.zeros_only() for axis, channels in axes.items()}]


@register_rule(
    *operation_classes("All", "Any", "Argmax", "Argmin", "CountNonzero"),
    *operation_classes("Logsumexp"),
)
def other_reduction(walk, call):
    """Nothing is known of what comes out."""
    axes = _reduced(walk, call)
    return [{axis: channels.varying() for axis, channels in axes.items()}]


@register_rule(*operation_classes("Sum"))
def total(walk, call):
    """A sum over channels is exact where those that go are 0."""
    (x,) = call.inputs
    for axis in normalized(call.layer.axis, len(x.shape)):
        if axis in x.axes:
            walk.sum_over(call.layer, x.axes[axis])
    axes = _without(x, call.layer)
    return [{axis: channels.zeros_only() for axis, channels in axes.items()}]


def _reduced(walk, call) -> dict:
    """The axes behind a reduction that freezes what it reduces over."""
    (x,) = call.inputs
    _freeze_along(walk, call, call.layer.axis)
    return _without(x, call.layer)


def _without(x, operation) -> dict:
    """The axes of a tensor that a reduction leaves."""
    gone = normalized(operation.axis, len(x.shape))
    kept = getattr(operation, "keepdims", False)
    return {
        axis if kept else axis - sum(g < axis for g in gone): channels
        for axis, channels in x.axes.items()
        if axis not in gone
    }


@register_rule(
    *operation_classes("Argsort", "Cumprod", "Cumsum", "LogSoftmax"),
    *operation_classes("Softmax", "Sort", "Sparsemax"),
)
def along_an_axis(walk, call):
    """Mixes what lies along its axis; the other axes pass."""
    (x,) = call.inputs
    if call.layer.axis is None:
        _freeze_along(walk, call, None)
        return [{}]
    along = _freeze_along(walk, call, call.layer.axis)
    return [
        {
            axis: channels.varying()
            for axis, channels in x.axes.items()
            if axis not in along
        }
    ]


def _freeze_along(walk, call, axis) -> tuple:
    """Freezes the channels along axes, and returns these axes."""
    (x,) = call.inputs
    along = normalized(axis, len(x.shape))
    reason = f"'{call.layer.name}' ({type(call.layer).__name__}) mixes channels"
    walk.freeze({a: c for a, c in x.axes.items() if a in along}, reason)
    return along
