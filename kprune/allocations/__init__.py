"""Allocations: how a sparsity is shared out over the layers.

An allocation is any callable that maps a sequence of prunable layers and a
sparsity to one sparsity per layer. It is also the place for control per layer:

    def allocation(layers, sparsity):
        # Convolutions lose half as much as the rest.
        return [
            sparsity / 2 if isinstance(layer, kprune.PrunableConv2D)
            else sparsity
            for layer in layers
        ]

A dict from names of layers to sparsities is one as well, see `PerLayer`:
`allocation={"conv1": 0.2, "logits": 0.0}`.
"""

from kprune.allocations.by_sensitivity import BySensitivity as BySensitivity
from kprune.allocations.capped import Capped as Capped
from kprune.allocations.erdos_renyi import ErdosRenyi as ErdosRenyi
from kprune.allocations.lamp import Lamp as Lamp
from kprune.allocations.names import Allocation as Allocation
from kprune.allocations.names import get as get
from kprune.allocations.names import uniform as uniform
from kprune.allocations.one_threshold import Global as Global
from kprune.allocations.per_layer import PerLayer as PerLayer
