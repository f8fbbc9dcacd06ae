"""The rules: importing this package registers them all."""

# Importing a module of rules registers them.
from kprune.structure.rules import (  # noqa: F401
    activations,
    applications,
    attention,
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
    recurrent,
    reducing,
    reshaping,
    wrapping,
)
