"""Contract checks for criteria, schedules, granularities and allocations.

Each check runs an object on a spread of inputs and raises `AssertionError`
with the input, what was expected and what was received. One line in a test of
your own tells whether kprune can work with what you wrote:

    def test_my_criterion():
        kprune.testing.check_criterion(my_criterion)
"""

import functools
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from kprune import allocations, criteria, granularities, schedules
from kprune.allocations import Allocation
from kprune.criteria import Criterion
from kprune.granularities import Granularity
from kprune.observing import requests
from kprune.received import is_real
from kprune.schedules import Schedule
from kprune.trials import SHAPES as SHAPES
from kprune.trials import SPARSITIES as SPARSITIES
from kprune.trials import arrays, ask, layer_lists


def check_criterion(
    criterion: Criterion | str, *, shapes: Sequence[tuple] = SHAPES
) -> None:
    """Checks that a criterion does what pruning relies on.

    The scores must be finite real numbers, one for each weight, and the same
    each time. The kernel must stay as it was. Tried are kernels with
    different weights, with ties, all equal and all zero.

    Args:
        criterion: As `kprune.criteria.get` takes it.
        shapes: Sequence of tuples. The shapes of the kernels to try.

    Raises:
        AssertionError: If the criterion breaks the contract.
        ValueError: If there is no such criterion.

    Example:

    >>> kprune.testing.check_criterion(lambda kernel: kernel**2)
    >>> kprune.testing.check_criterion(lambda kernel: 1 / np.abs(kernel))
    Traceback (most recent call last):
    AssertionError: Criterion <...> on ... with ties must return finite ...
    """
    criterion = criteria.get(criterion)
    sees_matrices = "gram" in requests.names(criterion, "criterion")
    for filling, kernel in arrays(shapes):
        if sees_matrices:
            kernel = kernel.reshape(1, -1, kernel.shape[-1])
        given = kernel.copy()
        with np.errstate(all="ignore"):  # the message below says it all
            scores = np.array(ask(criterion, "criterion", given))
            again = np.array(ask(criterion, "criterion", kernel.copy()))
        where = f"Criterion {criterion!r} on a kernel of {filling}"
        expect = functools.partial(_expect, where)
        changed = np.sum(given != kernel)
        expect(not changed, "not change it", f"{changed} changed weights")
        expect(
            scores.shape == kernel.shape and scores.dtype.kind in "fiu",
            f"return real numbers of shape {kernel.shape}",
            f"{scores.dtype} of shape {scores.shape}",
        )
        wrong = np.sum(~np.isfinite(scores))
        expect(not wrong, "return finite scores", f"{wrong} nan or infinite")
        same = np.array_equal(scores, again)
        expect(same, "return the same each time", "other scores")


def check_schedule(schedule: Schedule | float | str) -> None:
    """Checks that a schedule does what pruning relies on.

    It must return a sparsity in `[0, 1)` at every progress in `[0, 1]`, the
    same each time, and always the final one from its `end` on: there the masks
    are frozen.

    Args:
        schedule: As `kprune.schedules.get` takes it.

    Raises:
        AssertionError: If the schedule breaks the contract.
        ValueError: If there is no such schedule.

    Example:

    >>> kprune.testing.check_schedule(lambda progress: 0.9 * progress)
    >>> kprune.testing.check_schedule(lambda progress: progress)
    Traceback (most recent call last):
    AssertionError: Schedule <...> at progress 1.0 must return a float in [0...
    """
    schedule = schedules.get(schedule)
    end = getattr(schedule, "end", 1.0)
    _expect(
        f"Schedule {schedule!r}",
        is_real(end) and 0 <= end <= 1,
        "have an `end` in [0, 1], or none",
        f"end={end!r}",
    )
    end = float(end)
    grid = {step / 100 for step in range(101)}
    grid |= {epoch / 7 for epoch in range(8)}
    grid |= {end, max(end - 1e-9, 0.0)}
    values = {}
    for progress in sorted(grid):
        values[progress] = value = schedule(progress)
        _expect(
            f"Schedule {schedule!r} at progress {progress}",
            is_real(value) and 0 <= value < 1,
            "return a float in [0, 1)",
            f"{value!r}",
        )
    # Backwards, so that a schedule that remembers its calls shows.
    for progress in sorted(grid, reverse=True):
        value, again = values[progress], schedule(progress)
        where = f"Schedule {schedule!r} at progress {progress}"
        expect = functools.partial(_expect, where)
        same = again == value
        expect(same, "return the same each time", f"{value} and {again}")
        expect(
            progress < end or value == values[end],
            f"have its final sparsity {values[end]}, from its end {end} on",
            f"{value}",
        )


def check_granularity(
    granularity: Granularity | str, *, shapes: Sequence[tuple] = SHAPES
) -> None:
    """Checks that a granularity does what pruning relies on.

    The mask must be boolean and of the shape of the scores, keep all weights
    at sparsity 0 and at least one at any other, be the same each time, and
    never have fewer zeros at a higher sparsity. It must not be upside down:
    True keeps, and a higher score means keep. The scores must stay as they
    were. Tried are scores that differ, with ties, all equal and all zero.

    Args:
        granularity: As `kprune.granularities.get` takes it.
        shapes: Sequence of tuples. The shapes of the kernels to try, for a
            granularity that is made for some only.

    Raises:
        AssertionError: If the granularity breaks the contract.
        ValueError: If there is no such granularity.

    Example:

    >>> def above_quantile(scores, sparsity):
    ...     return scores > np.quantile(scores, sparsity)
    >>> kprune.testing.check_granularity(kprune.granularities.NM(1, 4))
    >>> kprune.testing.check_granularity(above_quantile)
    Traceback (most recent call last):
    AssertionError: Granularity <...> on ... must keep all weights...
    """
    granularity = granularities.get(granularity)
    for filling, scores in arrays(shapes):
        scores = np.abs(scores)
        mirrored = scores.max() - scores
        before = 0
        for sparsity in SPARSITIES:
            expect = functools.partial(
                _expect,
                f"Granularity {granularity!r} on scores of {filling}, at "
                f"sparsity {sparsity},",
            )
            mask = _check_mask(granularity, scores, sparsity, expect)
            other = _check_mask(granularity, mirrored, sparsity, expect)
            zeros = np.sum(~mask)
            expect(
                zeros >= before,
                "not have fewer zeros than at a lower sparsity",
                f"{zeros} zeros, and {before} at the lower one",
            )
            before = zeros
            # A fixed pattern gains from the scores what it loses from their
            # mirror image; one that follows the scores gains from the two.
            expect(
                _gain(scores, mask) + _gain(mirrored, other) > -1e-6,
                "keep the higher scores",
                "a mask that keeps the lower ones",
            )


def _check_mask(granularity, scores, sparsity, expect) -> np.ndarray:
    given = scores.copy()
    mask = np.array(ask(granularity, "granularity", given, sparsity))
    changed = np.sum(given != scores)
    expect(not changed, "not change them", f"{changed} changed scores")
    expect(
        mask.dtype == bool and mask.shape == scores.shape,
        f"return a boolean mask of shape {scores.shape}",
        f"{mask.dtype} of shape {mask.shape}",
    )
    zeros = np.sum(~mask)
    expect(sparsity or not zeros, "keep all weights", f"{zeros} zeros")
    expect(mask.any(), "keep at least one weight", f"{zeros} zeros, all")
    again = ask(granularity, "granularity", scores.copy(), sparsity)
    same = np.array_equal(mask, again)
    expect(same, "return the same each time", "another mask")
    return mask


def check_allocation(allocation: Allocation | str) -> None:
    """Checks that an allocation does what pruning relies on.

    It must return one sparsity in `[0, 1)` per layer, the same each time, and
    zeros at sparsity 0. The layers must stay as they were. Tried are one layer
    and three of different shapes, with different weights and all equal ones.
    `over_groups`, if it has one, must do the same for classes of groups.

    Args:
        allocation: As `kprune.allocations.get` takes it.

    Raises:
        AssertionError: If the allocation breaks the contract.
        ValueError: If there is no such allocation.

    Example:

    >>> kprune.testing.check_allocation("global")
    >>> kprune.testing.check_allocation(lambda layers, sparsity: [sparsity])
    Traceback (most recent call last):
    AssertionError: Allocation <...> for 3 layers at ... must return 3 sparsi...
    """
    allocation = allocations.get(allocation)
    for layers in layer_lists():
        before = [_state(layer) for layer in layers]
        for sparsity in SPARSITIES:
            expect = functools.partial(
                _expect,
                f"Allocation {allocation!r} for {len(layers)} layers at "
                f"sparsity {sparsity}",
            )
            ask_again = functools.partial(
                ask, allocation, "allocation", layers[:], sparsity
            )
            _check_shares(ask_again, sparsity, len(layers), expect)
            for layer, state in zip(layers, before):
                expect(
                    all(map(np.array_equal, state, _state(layer))),
                    "not change a layer",
                    f"other weights or masks in '{layer.name}'",
                )
    if getattr(allocation, "over_groups", None) is not None:
        _check_over_groups(allocation)


def _check_over_groups(allocation) -> None:
    """Checks the shares of classes of groups, one layer each."""
    layers = next(layer_lists())
    shapes = [(8,), (5,), (1,)]
    for found in zip(*(arrays([shape]) for shape in shapes)):
        scores = [of_class for _, of_class in found]
        scores[0][0] = -np.inf
        for sparsity in SPARSITIES:
            expect = functools.partial(
                _expect,
                f"`over_groups` of allocation {allocation!r} for classes with "
                f"the scores {scores} at sparsity {sparsity}",
            )
            offers = {
                "final_sparsity": lambda: 0.9,
                "layers": lambda: layers,
                "least": lambda: [2, 1, 1],
                "macs": lambda: [10.0, 1.0, 3.0],
                "makers": lambda: [(layer,) for layer in layers],
                "progress": lambda: 0.5,
            }
            given = [of_class.copy() for of_class in scores]
            ask = functools.partial(
                requests.answer,
                allocation.over_groups,
                "allocation over groups",
                given,
                sparsity,
                offers=offers,
            )
            _check_shares(ask, sparsity, 3, expect)
            same = all(map(np.array_equal, given, scores))
            expect(same, "not change the scores", "other scores")


def _check_shares(ask, sparsity, count, expect) -> None:
    shares = ask()
    is_list = isinstance(shares, Iterable)
    expect(is_list, "return a list of sparsities", f"{shares}")
    shares, again = list(shares), list(ask())
    expect(
        len(shares) == count and all(is_real(s) and 0 <= s < 1 for s in shares),
        f"return {count} sparsities in [0, 1)",
        f"{shares}",
    )
    expect(sparsity or not any(shares), "return zeros", f"{shares}")
    same = shares == again
    expect(same, "return the same each time", f"{shares} and {again}")


def _expect(where: str, holds, expected: str, received: str) -> None:
    if not holds:
        raise AssertionError(f"{where} must {expected}. Received: {received}")


def _gain(scores, mask) -> float:
    """How much higher the kept scores are on average than the others."""
    if mask.all():
        return 0.0
    scores = scores.astype(np.float64)
    return scores[mask].mean() - scores[~mask].mean()


def _state(layer) -> list:
    return [keras.ops.convert_to_numpy(v) for v in layer.variables]
