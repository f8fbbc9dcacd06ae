"""kprune: prune Keras 3 models, with training or without; ship them small.

    schedule(progress)            -> sparsity            how much, when
    allocation(layers, sparsity)  -> sparsity per layer  shared out how
    criterion(kernel)             -> scores              which weights matter
    granularity(scores, sparsity) -> mask                in what shape they go
    PrunableLayer                 holds the masks        multiplies by them

and four verbs: `prune` sets the masks, `reconstruct` fits what stays without
training, `strip` cuts out what went, `export` writes a file.
"""

import os as _os

from kprune import as_command as _as_command

_as_command.begin(_os.path.dirname(_os.path.dirname(__file__)))

from kprune import allocations as allocations
from kprune import criteria as criteria
from kprune import granularities as granularities
from kprune import plots as plots
from kprune import schedules as schedules
from kprune import structure as structure
from kprune import testing as testing
from kprune.budgets import Budget as Budget
from kprune.callbacks import PruningScheduler as PruningScheduler
from kprune.conversion import make_prunable as make_prunable
from kprune.exporting import ExportResult as ExportResult
from kprune.exporting import export as export
from kprune.final_epochs import OnceFrozen as OnceFrozen
from kprune.layers import PrunableLayer as PrunableLayer
from kprune.measuring.costs import Cost as Cost
from kprune.measuring.costs import cost as cost
from kprune.measuring.pruning_report import PruningReport as PruningReport
from kprune.measuring.reporting import report as report
from kprune.progress import Pruner as Pruner
from kprune.pruning import prune as prune
from kprune.reconstruction import Reconstruction as Reconstruction
from kprune.reconstruction import recalibrate as recalibrate
from kprune.reconstruction import reconstruct as reconstruct
from kprune.searching import SearchResult as SearchResult
from kprune.searching import search as search
from kprune.sensitivities import sensitivity as sensitivity
from kprune.sensitivity_results import Sensitivity as Sensitivity
from kprune.shorthands import PrunableConv2D as PrunableConv2D
from kprune.shorthands import PrunableDense as PrunableDense
from kprune.stripping import strip as strip
from kprune.structure.removal import compact as compact
from kprune.tflite.sparse_inference import (
    SparseInferenceCheck as SparseInferenceCheck,
)
from kprune.tflite.sparse_inference import (
    check_sparse_inference as check_sparse_inference,
)
from kprune.zeros import sparsity as sparsity
