"""Rules of operations that act on each element alone, or on equal places."""

import functools

import keras
import numpy as np

from kprune.keras_internals import operation_classes
from kprune.structure.records import Tensor
from kprune.structure.rules.activations import elementwise
from kprune.structure.rules.broadcasting import (
    merge,
    operands_of,
    product,
    strict,
    varying,
)
from kprune.structure.rules.registry import register_rule

_SMOOTH = operation_classes(
    *("Absolute", "Arcsinh", "Arctan", "Celu", "Copy", "Cos", "Cosh"),
    *("Elu", "Erf", "Exp", "Exp2", "Expm1", "Gelu", "HardSigmoid"),
    *("HardSilu", "HardTanh", "LeakyRelu", "LogSigmoid", "Mish", "NanToNum"),
    *("Negative", "ReLU", "Relu", "Relu6", "Selu", "Sigmoid", "Silu", "Sin"),
    *("Sinh", "SoftShrink", "Softplus", "Softsign", "SparsePlus"),
    *("SparseSigmoid", "Square", "Squareplus", "StopGradient", "Tanh"),
    *("TanhShrink", "OnesLike", "ZerosLike"),
)

_STEPPED = operation_classes(
    *("Ceil", "Floor", "HardShrink", "Isfinite", "Isinf", "Isnan"),
    *("LogicalNot", "Round", "SaturateCast", "Sign", "Threshold", "Trunc"),
)

# Where a function and its slope are finite. A masked channel elsewhere would
# be infinite or nan, which no zero weight behind it undoes.
_DOMAINS = {
    ("Cbrt", "Reciprocal"): lambda x: x != 0,
    ("Log", "Log10", "Log2", "Rsqrt", "Sqrt"): lambda x: x > 0,
    ("Log1p",): lambda x: x > -1,
    ("Arccos", "Arcsin", "Arctanh", "Erfinv"): lambda x: abs(x) < 1,
    ("Arccosh",): lambda x: x > 1,
    ("Tan",): lambda x: abs(x) < 1.5,
}


@register_rule(*_SMOOTH)
def smooth(walk, call):
    """A function of each element alone."""
    return [elementwise(call.inputs[0].axes, _finite(call.layer))]


@register_rule(*_STEPPED)
def stepped(walk, call):
    """A function with steps: rounding decides on which side a constant is."""
    return [_varying(call.inputs[0].axes)]


@register_rule(*operation_classes("Cast"))
def cast(walk, call):
    """A cast to a float type keeps constants."""
    if keras.backend.is_float_dtype(call.layer.dtype):
        return smooth(walk, call)
    return stepped(walk, call)


@register_rule(*operation_classes("Clip"))
def clip(walk, call):
    """Bounds that are numbers hold for each element alone."""
    if np.ndim(call.layer.x_min) == np.ndim(call.layer.x_max) == 0:
        return smooth(walk, call)
    (x,) = call.inputs
    walk.freeze(x.axes, f"'{call.layer.name}' has a bound for each channel")
    return [{}]


def _limited(walk, call, domain):
    """A function that is finite only on a part of the numbers."""
    (x,) = call.inputs
    _guard(walk, call, x.axes, domain)
    return [elementwise(x.axes, _finite(call.layer))]


for _names, _domain in _DOMAINS.items():
    register_rule(*operation_classes(*_names))(
        functools.partial(_limited, domain=_domain)
    )

_BINARY = {
    "Add": strict(np.add),
    "Logaddexp": strict(np.logaddexp),
    "Maximum": strict(np.maximum),
    "Minimum": strict(np.minimum),
    "Multiply": product,
    "Subtract": strict(np.subtract),
    # Rounding decides on which side of a step a constant is.
    "Equal": varying,
    "Greater": varying,
    "GreaterEqual": varying,
    "Less": varying,
    "LessEqual": varying,
    "LogicalAnd": varying,
    "LogicalOr": varying,
    "LogicalXor": varying,
    "NotEqual": varying,
}


def _binary(walk, call, combine):
    """A function of two tensors ties equal positions."""
    return [merge(walk, call, operands_of(call.named()), combine)]


for _name, _combine in _BINARY.items():
    register_rule(*operation_classes(_name))(
        functools.partial(_binary, combine=_combine)
    )


@register_rule(*operation_classes("Divide", "TrueDivide", "DivideNoNan"))
def divide(walk, call):
    """A quotient, where what divides is not 0 once it is masked."""
    return _divided(walk, call, _quotient)


@register_rule(*operation_classes("FloorDivide", "Mod"))
def divide_in_steps(walk, call):
    """A whole quotient or what remains of it."""
    return _divided(walk, call, varying)


def _divided(walk, call, combine):
    operands = operands_of(call.named())
    if isinstance(operands["x2"], Tensor):
        _guard(walk, call, operands["x2"].axes, lambda x: x != 0)
    return [merge(walk, call, operands, combine)]


def _quotient(parts):
    zero = (parts[0] == 0) & (parts[1] != 0)
    return np.where(zero, 0.0, strict(np.divide)(parts))


@register_rule(*operation_classes("Power"))
def power(walk, call):
    """A power; but for whole exponents the base must be above 0."""
    operands = operands_of(call.named())
    base, exponent = operands["x1"], operands["x2"]
    whole = not isinstance(exponent, Tensor) and bool(
        (exponent == np.floor(exponent)).all() and (exponent >= 0).all()
    )
    if isinstance(base, Tensor):
        if not whole:
            _guard(walk, call, base.axes, lambda x: x > 0)
    elif not (base > 0).all():
        reason = f"'{call.layer.name}' has a base that is not above 0"
        walk.freeze(exponent.axes, reason)
    return [merge(walk, call, operands, strict(np.power))]


@register_rule(*operation_classes("Where"))
def where(walk, call):
    """A choice between two tensors ties equal positions of all three."""
    operands = operands_of(call.named())
    if len(operands) == 3:
        return [merge(walk, call, operands, _chosen)]
    for tensor in call.inputs:
        reason = f"'{call.layer.name}' looks for places"
        walk.freeze(tensor.axes, reason)
    return [{} for _ in call.output_shapes]


def _chosen(parts):
    condition, one, other = parts
    known = np.where(condition != 0, one, other)
    both = np.where(one == other, one, np.nan)
    return np.where(np.isnan(condition), both, known)


def _guard(walk, call, axes: dict, domain) -> None:
    """Freezes channels that are not known to be in a function's domain."""
    for channels in axes.values():
        outside = ~domain(channels.constants)
        if walk.weigh:
            # What varies is as it was: nothing more is masked from here on.
            outside &= ~np.isnan(channels.constants)
        reason = f"'{call.layer.name}' may not be finite where it is masked"
        walk.table.freeze(channels.slots[outside], reason)


def _finite(function):
    """The function with nan, for unknown, in the place of infinities."""

    def finite(x):
        y = function(x)
        return keras.ops.where(keras.ops.isfinite(y), y, float("nan"))

    return finite


def _varying(axes: dict) -> dict:
    return {axis: channels.varying() for axis, channels in axes.items()}
