"""Rules of attention layers."""

import math

import numpy as np
from keras import layers

from kprune import keras_internals
from kprune.structure.records import Axes
from kprune.structure.rules.arguments import operand
from kprune.structure.rules.registry import register_rule
from kprune.structure.slots import Channels, unknown

# The axes of all kernels that project to heads; those of biases lack the
# first. The kernel of the output has the heads and the width of a head first.
_HEADS, _WIDTH = 1, 2


@register_rule(layers.MultiHeadAttention)
def multi_head_attention(walk, call):
    """Heads, key width, value width and output width go on their own."""
    layer = call.layer
    query, key, value = _attended(call)
    parts = keras_internals.attention_projections(layer)
    last = len(query.shape) - 1
    reason = _refusal(walk, parts)
    ranks = {len(x.shape) for x in (query, key, value)}
    if len(ranks) > 1 or not all(0 < a < last for a in layer.attention_axes):
        # Between the batch and the channels the axes only have to agree.
        reason = f"'{layer.name}' attends over more than places"
    if reason:
        return _stay(walk, call, reason)
    _freeze_places(walk, call, (query, key, value), last)
    kernels, _ = _variables(walk, parts)
    heads = walk.produce(layer, kernels["query"], _HEADS)
    _freeze_masked(walk, call, heads, len(layer.attention_axes))
    compared = walk.produce(layer, kernels["query"], _WIDTH)
    carried = walk.produce(layer, kernels["value"], _WIDTH)
    axes = {
        "query": (heads, compared),
        "key": (heads, compared),
        "value": (heads, carried),
        "gate": (heads, carried),
    }
    made = _project(walk, layer, parts, axes, (query, key, value))
    _compare(walk, layer, parts, axes, repeats=1)
    if len(compared) == len(carried):
        # On JAX the fused attention wants values as wide as keys.
        walk.balance(compared, carried)
    walk.resize(layer, "num_heads", heads)
    walk.resize(layer, "key_dim", compared)
    walk.resize(layer, "value_dim", carried)
    output = _combine(walk, layer, parts, made[_HEADS], made[_WIDTH])
    outputs = [{last: output}]
    size = kernels["output"].shape[2:]
    if len(size) > 1:
        reason = f"'{layer.name}' makes several axes of it"
        walk.table.freeze(output.slots, reason)
        outputs = [{}]
    else:
        walk.resize(layer, "output_shape", output.slots, _count)
    if last in query.axes:
        # Keras takes the width of the query where no other is given.
        slots = query.axes[last].slots
        walk.resize(layer, ("output_shape",), slots, _or(size))
    if len(call.output_shapes) > 1:
        outputs.append(_scores(walk, layer, heads, last))
    return outputs


@register_rule(layers.GroupQueryAttention)
def group_query_attention(walk, call):
    """A head of keys and values goes with all heads of queries that use it.

    One number in the config is the width of keys and of values, so they go
    together; the output is as wide as the query.
    """
    layer = call.layer
    query, key, value = _attended(call)
    parts = keras_internals.attention_projections(layer)
    last = len(query.shape) - 1
    reason = _refusal(walk, parts)
    if reason:
        return _stay(walk, call, reason)
    _freeze_places(walk, call, (query, key, value), last)
    kernels, _ = _variables(walk, parts)
    groups = walk.produce(layer, kernels["key"], _HEADS)
    width = walk.produce(layer, kernels["key"], _WIDTH)
    repeats = layer.num_query_heads // layer.num_key_value_heads
    repeated = np.repeat(np.arange(len(groups)), repeats)
    heads = groups[repeated]
    _freeze_masked(walk, call, heads, attention_axes=1)
    axes = {
        "query": (heads, width),
        "key": (groups, width),
        "value": (groups, width),
        "gate": (heads, width),
    }
    made = _project(walk, layer, parts, axes, (query, key, value))
    _compare(walk, layer, parts, axes, repeats)
    walk.resize(layer, "num_query_heads", heads)
    walk.resize(layer, "num_key_value_heads", groups)
    walk.resize(layer, "head_dim", width)
    output = _combine(
        walk, layer, parts, made[_HEADS].take(repeated), made[_WIDTH]
    )
    for tensor in (query, value):
        if last in tensor.axes:
            walk.tie(tensor.axes[last].slots, output.slots)
        else:
            reason = f"'{layer.name}' keeps the width of what it reads"
            walk.table.freeze(output.slots, reason)
    outputs = [{last: output}]
    if len(call.output_shapes) > 1:
        outputs.append(_scores(walk, layer, heads, last))
    return outputs


@register_rule(layers.AdditiveAttention, layers.Attention)
def attention(walk, call):
    """Queries and keys are summed over without weights, values pass."""
    layer = call.layer
    query, value, *key = call.named()["inputs"]
    key = key[0] if key else value
    last = len(query.shape) - 1
    _freeze_places(walk, call, (query, key, value), last)
    asked, found = query.axes.get(last), key.axes.get(last)
    scale = walk.variable(layer, "scale")
    if isinstance(layer, layers.AdditiveAttention) or (
        layer.score_mode == "concat"
    ):
        # The hyperbolic tangent of a sum.
        zero_once = np.logical_and
    else:
        zero_once = np.logical_or
    if scale is not None and len(scale.shape) == 0:
        scale = None
    if asked is None or found is None:
        walk.hold(layer, scale, 0)
        for channels in filter(None, (asked, found)):
            reason = f"'{layer.name}' compares it with what cannot be cut"
            walk.table.freeze(channels.slots, reason)
    else:
        walk.tie(asked.slots, found.slots)
        walk.bind(layer, scale, 0, asked.slots)
        zero = zero_once(asked.constants == 0, found.constants == 0)
        if scale is not None and walk.weigh:
            zero |= walk.value(scale) == 0
        constants = np.where(zero, 0.0, np.nan)
        walk.sum_over(layer, Channels(asked.slots, constants))
    passed = {}
    if last in value.axes:
        passed = {last: value.axes[last].zeros_only()}
    return [passed, *({} for _ in call.output_shapes[1:])]


def _attended(call) -> tuple:
    """The query, the key and the value of a call."""
    given = call.named()
    key = given.get("key")
    return (
        given["query"],
        given["value"] if key is None else key,
        given["value"],
    )


def _refusal(walk, parts) -> str | None:
    """Why the projections cannot be cut, `None` if they can."""
    reasons = map(walk.refusal, parts.values())
    return next(filter(None, reasons), None)


def _stay(walk, call, reason) -> list:
    """What a call returns of which nothing is cut."""
    walk.refuse(call.layer, call.inputs, reason)
    return [{} for _ in call.output_shapes]


def _freeze_places(walk, call, attended, last) -> None:
    """All that is labelled stays but the channels of what is attended."""
    for tensor in attended:
        reason = f"'{call.layer.name}' attends over this axis"
        walk.freeze(tensor.axes, reason, but=last)


def _freeze_masked(walk, call, heads, attention_axes: int) -> None:
    """Heads that have a mask of their own stay."""
    given = call.named()
    mask = given.get("attention_mask")
    if mask is None:
        return
    shape = operand(mask).shape
    has_heads = len(shape) == len(given["query"].shape) + attention_axes
    if has_heads and shape[-2 * attention_axes - 1] != 1:
        reason = f"'{call.layer.name}' has a mask for each head"
        walk.table.freeze(heads, reason)


def _variables(walk, parts) -> tuple[dict, dict]:
    """The kernels and the biases of the projections."""
    kernels = {p: walk.variable(sub, "kernel") for p, sub in parts.items()}
    biases = {p: walk.variable(sub, "bias") for p, sub in parts.items()}
    return kernels, biases


def _project(walk, layer, parts, axes, attended) -> dict:
    """Reads the query, the key and the value; returns the projected value."""
    query, key, value = attended
    read = {"query": query, "key": key, "gate": query, "value": value}
    kernels, biases = _variables(walk, parts)
    made: Axes = {}
    for part in ("query", "key", "gate", "value"):
        if part not in parts:
            continue
        for axis, slots in zip((_HEADS, _WIDTH), axes[part]):
            walk.bind(layer, kernels[part], axis, slots)
        last = len(read[part].shape) - 1
        made = walk.project(
            layer,
            kernels[part],
            {0: read[part].axes.get(last)},
            (_HEADS, _WIDTH),
            biases[part],
            {_HEADS: _HEADS - 1, _WIDTH: _WIDTH - 1},
        )
    return made


def _compare(walk, layer, parts, axes, repeats) -> None:
    """The scores: in each head a sum over the products of query and key.

    They are divided by the root of the number of terms, so that the query
    makes up for those that go.
    """
    kernels, biases = _variables(walk, parts)
    heads, compared = axes["query"]
    for variable in (kernels["query"], biases["query"]):
        walk.rescale(layer, variable, compared, _root_of_share)
    if walk.weigh:
        asked, found = (
            _filled(walk, kernels[part], biases[part])
            for part in ("query", "key")
        )
        linked = asked & np.repeat(found, repeats, axis=0)
        channels = Channels(compared, unknown(len(compared)))
        walk.read(layer, kernels["query"], _WIDTH, channels, heads, linked.T)


def _combine(walk, layer, parts, heads, carried) -> Channels:
    """Projects the values, weighted by their scores, to the output.

    The weights of a head sum to one, and a gate multiplies, so that only
    values of zero are the same behind them.
    """
    kernels, biases = _variables(walk, parts)
    made = walk.project(
        layer,
        kernels["output"],
        {0: heads.zeros_only(), 1: carried.zeros_only()},
        (2,),
        biases["output"],
        {2: 0},
    )
    return made[2]


def _scores(walk, layer, heads, last) -> dict:
    """The axes of the scores that a layer returns on demand."""
    if last > 2:
        # Keras gives the symbolic scores another rank than the real ones.
        reason = f"'{layer.name}' returns the scores of this head"
        walk.table.freeze(heads, reason)
        return {}
    return {1: Channels(heads, unknown(len(heads)))}


def _filled(walk, kernel, bias) -> np.ndarray:
    """Where in `(heads, width)` a projection is not zero everywhere."""
    filled = (walk.value(kernel) != 0).any(axis=0)
    return filled if bias is None else filled | (walk.value(bias) != 0)


def _root_of_share(count, kept) -> float:
    return math.sqrt(kept / count)


def _count(_, keep) -> tuple:
    return (int(np.count_nonzero(keep)),)


def _or(size):
    return lambda old, keep: old or size
