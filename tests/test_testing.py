"""Each contract check passes what is right and fails on each kind of wrong."""

import itertools
import re

import numpy as np
import pytest

import kprune
from kprune import (
    allocations,
    criteria,
    granularities,
    ranking,
    schedules,
    testing,
)


def fails(check, broken, *messages):
    with pytest.raises(AssertionError) as error:
        check(broken)
    text = str(error.value)
    for message in messages:
        assert re.search(message, text), text
    # What was expected and what was received, and of which object.
    assert " must " in text and " Received: " in text
    assert repr(broken) in text


def at_random(shape):
    return np.random.default_rng().random(shape)


@pytest.mark.parametrize(
    "criterion",
    [
        "magnitude",
        "random",
        criteria.Random(3),
        np.square,
        lambda kernel: kernel,
        lambda kernel: np.zeros(kernel.shape, np.int64),
    ],
)
def test_criteria_that_keep_the_contract(criterion):
    testing.check_criterion(criterion)


def overwrite(kernel):
    return np.abs(kernel, out=kernel)


def normalized(kernel):
    return (kernel - kernel.mean()) / kernel.std()


@pytest.mark.parametrize(
    "broken, message",
    [
        (overwrite, "must not change it"),
        (normalized, "all equal, must return finite scores"),
        (np.log, "must return finite scores.*nan or infinite"),
        (np.ravel, r"real numbers of shape \(16, 8\).*of shape \(128,\)"),
        (np.sum, r"of shape \(16, 8\).*of shape \(\)"),
        (lambda kernel: kernel > 0, "real numbers of shape.*bool"),
        (lambda kernel: kernel * 1j, "real numbers of shape.*complex"),
        (lambda kernel: kernel.astype(str), "real numbers of shape.*<U"),
        (lambda kernel: None, "real numbers of shape.*object"),
        (lambda kernel: at_random(kernel.shape), "the same each time"),
    ],
)
def test_criteria_that_break_the_contract(broken, message):
    fails(testing.check_criterion, broken, "^Criterion ", message)


@pytest.mark.parametrize(
    "schedule",
    [
        0.0,
        0.9,
        *["constant", "cosine", "linear", "oneshot", "polynomial"],
        schedules.OneShot(0.5, at=0.0),
        schedules.OneShot(0.5, at=1.0),
        schedules.Linear(0.3, 0.8, begin=0.25, end=1 / 3),
        schedules.join([0.3, schedules.Linear(0.8, 0.3, 0.6, 0.9)], [0.6]),
        schedules.join([0.3, lambda progress: 0.4 * progress], [0.6]),
        lambda progress: 0.5 * progress,
        lambda progress: np.float32(0.5),
    ],
)
def test_schedules_that_keep_the_contract(schedule):
    testing.check_schedule(schedule)


class Ending:
    """A schedule with any `end`, in a straight line to the very end."""

    def __init__(self, end):
        self.end = end

    def __call__(self, progress):
        return 0.9 * progress


class Counting:
    """A schedule that goes by its calls and not by the progress."""

    def __init__(self):
        self.calls = 0

    def __call__(self, progress):
        self.calls += 1
        return min(self.calls / 1000, 0.9)


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda progress: progress, r"progress 1.0 must.*\[0, 1\).*: 1.0"),
        (lambda progress: progress - 0.5, r"progress 0.0 .*: -0.5"),
        (lambda progress: float("nan"), r"float in \[0, 1\).*: nan"),
        (lambda progress: None, r"float in \[0, 1\).*: None"),
        (lambda progress: "0.5", r"float in \[0, 1\).*: '0.5'"),
        (lambda progress: np.array([0.5]), r"\[0, 1\).*: array\(\[0.5\]\)"),
        (lambda progress: False, r"float in \[0, 1\).*: False"),
        (lambda progress: 80 * progress, r"0.02 must .*\[0, 1\).*: 1.6"),
        (lambda progress: float(at_random(())), "the same each time"),
        (Counting(), "the same each time"),
        (Ending(0.5), "final sparsity 0.45, from its end 0.5 on.*: 0.9"),
        (Ending(1.5), r"have an `end` in \[0, 1\], or none.*end=1.5"),
        (Ending(-0.1), "have an `end` in.*end=-0.1"),
        (Ending(None), "have an `end` in.*end=None"),
        (Ending(float("nan")), "have an `end` in.*end=nan"),
    ],
)
def test_schedules_that_break_the_contract(broken, message):
    fails(testing.check_schedule, broken, "^Schedule ", message)


@pytest.mark.parametrize(
    "granularity",
    [
        *["block", "filter", "nm", "unstructured"],
        granularities.Filter(multiple_of=4),
        granularities.NM(1, 3),
        granularities.NM(7, 8),
        granularities.Block((2, 3)),
        granularities.Block((16, 16)),
        granularities.Block((5,)),
    ],
)
def test_granularities_that_keep_the_contract(granularity):
    testing.check_granularity(granularity)


def pattern(scores, sparsity):
    """A fixed pattern, whatever the scores: not wise, but allowed."""
    removed = ranking.removed_count(scores.size, sparsity)
    return (np.arange(scores.size) >= removed).reshape(scores.shape)


def test_a_pattern_that_ignores_the_scores_keeps_the_contract():
    testing.check_granularity(pattern)


def test_granularities_for_some_shapes_only():
    granularity = granularities.Block((3, 3, 1, 1))
    with pytest.raises(ValueError, match="more axes than the kernel"):
        testing.check_granularity(granularity)
    testing.check_granularity(granularity, shapes=[(3, 3, 8, 4), (5, 5, 1, 2)])


unstructured = granularities.Unstructured()


def rises_and_falls(scores, sparsity):
    return unstructured(scores, sparsity if sparsity < 0.6 else 0.1)


def writes(scores, sparsity):
    scores += 1
    return unstructured(scores, sparsity)


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda s, p: s > np.quantile(s, p), "sparsity 0.0, must keep all"),
        (lambda s, p: s >= np.quantile(s, 0.1), "0.0, must keep all weights"),
        (lambda s, p: s >= 2 * p, "must keep at least one weight"),
        (lambda s, p: unstructured(-s, p), "must keep the higher scores"),
        (lambda s, p: ~unstructured(s, p), "0.0, must keep all weights"),
        (
            lambda s, p: s >= 0 if p == 0 else ~unstructured(s, p),
            "must keep the higher scores|not have fewer zeros",
        ),
        (
            lambda s, p: unstructured(s, p).ravel(),
            r"boolean mask of shape \(16, 8\).*bool of shape \(128,\)",
        ),
        (
            lambda s, p: unstructured(s, p).astype("float32"),
            r"boolean mask of shape \(16, 8\).*float32 of shape",
        ),
        (lambda s, p: True, r"boolean mask of shape.*of shape \(\)"),
        (rises_and_falls, "sparsity 0.75, must not have fewer zeros"),
        (writes, "must not change them"),
        (
            lambda s, p: unstructured(at_random(s.shape), p),
            "the same each time",
        ),
    ],
)
def test_granularities_that_break_the_contract(broken, message):
    fails(testing.check_granularity, broken, "^Granularity ", message)


@pytest.mark.parametrize(
    "allocation",
    [
        "uniform",
        "global",
        "lamp",
        "erdos_renyi",
        allocations.Global(normalize="standard", per_mac=True),
        allocations.ErdosRenyi(kernel=False, power_scale=0.5),
        lambda layers, sparsity: [0.0] * len(layers),
        lambda layers, sparsity: tuple(sparsity / 2 for _ in layers),
        lambda layers, sparsity: np.full(len(layers), sparsity),
        lambda layers, sparsity: (
            sparsity * isinstance(layer, kprune.PrunableConv2D)
            for layer in layers
        ),
    ],
)
def test_allocations_that_keep_the_contract(allocation):
    testing.check_allocation(allocation)


def zeroing(layers, sparsity):
    for layer in layers:
        layer.layer.kernel.assign(0 * layer.layer.kernel)
    return [sparsity] * len(layers)


def masking(layers, sparsity):
    mask = layers[-1].masks["kernel"]
    mask.assign(np.zeros(tuple(mask.shape), bool))
    return [sparsity] * len(layers)


calls = itertools.count()


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda layers, s: [s], r"3 layers .* return 3 sparsities"),
        (lambda layers, s: [s] * 3, r"1 layers .* return 1 sparsities"),
        (lambda layers, s: [s + 0.1] * len(layers), "return zeros.*0.1"),
        (lambda layers, s: [2 * s] * len(layers), r"in \[0, 1\).*1.0"),
        (lambda layers, s: [-s] * len(layers), r"in \[0, 1\).*-0.1"),
        (lambda layers, s: [s * np.nan] * len(layers), r"in \[0, 1\).*nan"),
        (lambda layers, s: [None] * len(layers), r"in \[0, 1\).*None"),
        (lambda layers, s: None, "return a list of sparsities.*None"),
        (lambda layers, s: [s > 0] * len(layers), r"in \[0, 1\).*False"),
        (
            lambda layers, s: [s and next(calls) % 2 / 4 for _ in layers],
            "the same each time",
        ),
        (zeroing, "not change a layer"),
        (masking, "not change a layer"),
    ],
)
def test_allocations_that_break_the_contract(broken, message):
    fails(testing.check_allocation, broken, "^Allocation ", message)


class OverGroups:
    def __init__(self, over_groups):
        self.over_groups = over_groups

    def __call__(self, layers, sparsity):
        return [sparsity] * len(layers)


def sorting(scores, sparsity):
    for of_class in scores:
        of_class.sort()
    return [sparsity] * len(scores)


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda scores, s: [s], "return 3 sparsities"),
        (lambda scores, s: [s + 0.1] * 3, "return zeros.*0.1"),
        (lambda scores, s: None, "return a list of sparsities.*None"),
        (sorting, "not change the scores"),
    ],
)
def test_allocations_that_share_groups_out_wrongly(broken, message):
    fails(
        testing.check_allocation,
        OverGroups(broken),
        "^`over_groups` of allocation",
        message,
    )


@pytest.mark.parametrize(
    "check, message",
    [
        (testing.check_criterion, "Unknown criterion"),
        (testing.check_schedule, "Unknown schedule"),
        (testing.check_granularity, "Unknown granularity"),
        (testing.check_allocation, "Unknown allocation"),
    ],
)
def test_checks_take_what_get_takes(check, message):
    with pytest.raises(ValueError, match=message):
        check("no such name")


def test_checks_leave_the_random_state_of_the_user_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    testing.check_criterion("magnitude")
    testing.check_schedule(0.5)
    testing.check_granularity("unstructured")
    testing.check_allocation("global")
    assert np.random.random() == expected
