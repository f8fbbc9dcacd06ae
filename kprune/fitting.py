"""Setting the masks that are planned, and fitting what stays in one walk."""

import contextlib
import math
import warnings
from collections.abc import Iterator

import numpy as np

from kprune.choosing import Wish, mask_of
from kprune.observing import requests
from kprune.observing.samples import Batch
from kprune.planning import Plan
from kprune.reconstruction import Reconstruction
from kprune.reconstruction.repairing import Repair
from kprune.reconstruction.sites import KernelSite, look
from kprune.restoring import restored

# How many samples: to choose by, a rough fit serves as well.
_SAMPLES = 256


def fit(plan: Plan, batches: list[Batch], verbose: int = 0) -> Reconstruction:
    """Sets the masks of a plan, and fits what stays.

    A criterion that asks for `gram` chooses the mask of a kernel where that is
    fitted.

    Args:
        plan: A `Plan`.
        batches: List of `Batch`.
        verbose: As `kprune.reconstruct` takes it.

    Returns:
        `kprune.reconstruction.Reconstruction`.
    """
    on_the_way = _on_the_way(plan, batches)

    def choose(site, gram, kernel):
        wish = on_the_way.get(id(site.weight.variable))
        if wish is None:
            return None
        scorer = plan.scorer.reading(site.weight, gram, kernel)
        return mask_of(site.weight, wish, None, scorer)

    plan.assign(frozenset(on_the_way))
    repair = Repair(plan.model, batches, verbose=verbose, choose=choose)
    return repair.run()


@contextlib.contextmanager
def halfway(plan: Plan, batches: list[Batch]) -> Iterator[None]:
    """Has a model pruned and fitted half as far as a plan goes, for a while.

    Of what is there each half leaves the same share.

    Args:
        plan: A `Plan`.
        batches: List of `Batch`.
    """
    counts = np.cumsum([len(batch) for batch in batches])
    some = batches[: 1 + np.count_nonzero(counts < _SAMPLES)]
    with restored(plan.model):
        with warnings.catch_warnings():
            # The fit that counts says it if there are few.
            warnings.simplefilter("ignore", UserWarning)
            fit(plan.planner.at(1.0 - math.sqrt(1.0 - plan.sparsity)), some)
        yield


def _on_the_way(plan: Plan, batches: list[Batch]) -> dict[int, Wish]:
    """The wishes of kernels whose masks are chosen where they are fitted.

    By the ids of their variables.
    """
    asked = requests.names(plan.scorer.criterion, "criterion")
    if "gram" not in asked:
        return {}
    seen = look(plan.model, batches[0].x, lifted=False)
    fitted = {
        id(site.weight.variable)
        for site in seen.sites
        if isinstance(site, KernelSite)
    }
    return {
        id(weight.variable): wish
        for wish, is_whole in zip(plan.wishes, plan.in_groups)
        for weight in wish.kernels
        if not is_whole and id(weight.variable) in fitted
    }
