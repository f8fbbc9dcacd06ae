"""Granularities: in what shape weights go.

A granularity is any callable that maps the scores of a kernel and a sparsity
to a mask of the shape of the scores: True keeps the weight. The scores come as
`(..., inputs, outputs)`, whatever the layer's kind: gates and axes of space
first, inputs before outputs in transposed convolutions too, and one input for
each output of a depthwise convolution. What else it needs it asks for by the
names of keyword-only parameters, see `kprune.observing.requests`.

What is special about one it declares by attributes:

- `whole_groups`, true: in a model whose graph can be read it chooses among
  *groups*, a filter together with every slice that has to go with it (see
  `kprune.structure`). It is called with the groups' scores as one row.
- `pool(scores, axis)`: how slices of a kernel are scored as a whole, one score
  for each index along the axis. Without it `mean_square` is taken.
"""

from kprune.granularities.block import Block as Block
from kprune.granularities.filters import Filter as Filter
from kprune.granularities.names import Granularity as Granularity
from kprune.granularities.names import get as get
from kprune.granularities.nm import NM as NM
from kprune.granularities.pooling import mean_square as mean_square
from kprune.granularities.unstructured import Unstructured as Unstructured
