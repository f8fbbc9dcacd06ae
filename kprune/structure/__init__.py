"""Structure: which channels go together, and how they are removed."""

from kprune.structure.graph import ChannelGraph as ChannelGraph
from kprune.structure.graph import channel_graph as channel_graph
from kprune.structure.rules.registry import register_rule as register_rule
