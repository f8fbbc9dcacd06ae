"""Structure: which channels go together, and how they are removed.

A rule for a layer of one's own, made with `register_rule`, gets a `Walk` and a
`LayerCall` with the `Tensor`s that go in, and returns `Channels`.
"""

from kprune.structure.by_hand import remove as remove
from kprune.structure.graph import ChannelGraph as ChannelGraph
from kprune.structure.graph import channel_graph as channel_graph
from kprune.structure.records import LayerCall as LayerCall
from kprune.structure.records import Tensor as Tensor
from kprune.structure.rules.registry import register_rule as register_rule
from kprune.structure.slots import Channels as Channels
from kprune.structure.walk import Walk as Walk
