"""Rules of layers that look up rows of a table."""

from keras import layers

from kprune.structure.rules.registry import register_rule


@register_rule(layers.Embedding)
def embedding(walk, call):
    """Rows are looked up; their channels are a new last axis."""
    return [_look_up(walk, call)]


@register_rule(layers.ReversibleEmbedding)
def reversible_embedding(walk, call):
    """Forwards it is an Embedding, in reverse a kernel that reads."""
    if call.named().get("reverse", False):
        return [_reverse(walk, call)]
    axes = _look_up(walk, call)
    (channels,) = axes.values()
    table = walk.variable(call.layer, "reverse_embeddings")
    walk.bind(call.layer, table, 0, channels.slots, "in")
    return [axes]


def _look_up(walk, call) -> dict:
    (x,) = call.inputs
    layer = call.layer
    walk.freeze(x.axes, f"'{layer.name}' takes it for the number of a row")
    table = walk.variable(layer, "embeddings")
    channels = walk.look_up(layer, table, 1)
    walk.resize(layer, "output_dim", channels.slots)
    return {len(x.shape): channels}


def _reverse(walk, call) -> dict:
    """The last axis is read; the rows, which are words, stay."""
    (x,) = call.inputs
    layer = call.layer
    last = len(x.shape) - 1
    channels = x.axes.get(last)
    tied = walk.variable(layer, "embeddings")
    own = walk.variable(layer, "reverse_embeddings")
    if channels is None:
        walk.hold(layer, tied, 1)
        walk.hold(layer, own, 0)
    else:
        walk.bind(layer, tied, 1, channels.slots, "in")
        walk.bind(layer, own, 0, channels.slots, "in")
        walk.resize(layer, "output_dim", channels.slots)
        if walk.weigh:
            kernel, axis = (tied, 1) if own is None else (own, 0)
            words = walk.fresh_frozen(1, f"'{layer.name}' makes words").slots
            linked = (walk.value(kernel) != 0).any(axis=1 - axis)[:, None]
            walk.read(layer, kernel, axis, channels, words, linked)
    return {axis: c.varying() for axis, c in x.axes.items() if axis != last}
