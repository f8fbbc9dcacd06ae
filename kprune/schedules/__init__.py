"""Schedules: how sparse the model is to be, and when.

A schedule is any callable that maps the training progress, a float in
`[0, 1]`, to a sparsity, a float in `[0, 1)`. The built-in ones are frozen
dataclasses. Masks are frozen from the first update at which the progress has
reached the attribute `end` of the schedule (1.0 for a callable without one):
what remains of the training fine-tunes the weights that are left. A schedule
that is above 0 at progress 0 is heard before the first step.
"""

from kprune.schedules.contract import Schedule as Schedule
from kprune.schedules.contract import end as end
from kprune.schedules.contract import validate_progress as validate_progress
from kprune.schedules.contract import validate_sparsity as validate_sparsity
from kprune.schedules.contract import validate_target as validate_target
from kprune.schedules.identifiers import get as get
from kprune.schedules.joining import _Joined as _Joined  # as pickles name it
from kprune.schedules.joining import join as join
from kprune.schedules.jumps import Constant as Constant
from kprune.schedules.jumps import OneShot as OneShot
from kprune.schedules.ramps import Cosine as Cosine
from kprune.schedules.ramps import Linear as Linear
from kprune.schedules.ramps import Polynomial as Polynomial
