"""Which weights stay: of groups of channels, and of single kernels."""

import dataclasses
import functools

import numpy as np

from kprune import granularities, masks, weights
from kprune.granularities import Granularity
from kprune.layers import PrunableLayer
from kprune.observing import requests
from kprune.prunable import PrunableWeight
from kprune.ranking import removed_count
from kprune.scoring import Scorer
from kprune.structure import groups
from kprune.structure.graph import ChannelGraph
from kprune.structure.readers import readers

# From (id of a variable, axis) to a boolean array: which slices stay.
Slices = dict[tuple[int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is asked of one layer.

    Args:
        layer: The prunable layer.
        kernels: List of its `PrunableWeight`s.
        sparsity: Float.
        granularity: A granularity.
    """

    layer: PrunableLayer
    kernels: list[PrunableWeight]
    sparsity: float
    granularity: Granularity

    @property
    def goes_by_groups(self) -> bool:
        """Boolean. Whether whole groups go where there is a graph."""
        return bool(getattr(self.granularity, "whole_groups", False))


class GroupChooser:
    """Chooses which groups of channels stay, at any sparsity.

    Args:
        graph: The `ChannelGraph`.
        wishes: List of `Wish`, of all layers: the kernels of those that do
            not lose groups count in the scores of groups as well.
        scorer: The `Scorer`.

    Attributes:
        classes: List of `kprune.structure.groups.GroupClass`: the groups that
            can go.
    """

    def __init__(self, graph: ChannelGraph, wishes: list[Wish], scorer: Scorer):
        self._graph = graph
        self._wishes = wishes
        self._scorer = scorer
        gone = {
            id(weight.variable): None if dead is None else ~dead
            for wish in wishes
            for weight in wish.kernels
            for dead in [weight.gone()]
        }
        makers = {
            id(wish.layer.layer): wish for wish in wishes if wish.goes_by_groups
        }
        producers = [
            groups.Producer(maker.layer, binding.slots, maker.granularity)
            for binding in graph.bindings
            if binding.role == "out"
            if (maker := makers.get(id(binding.layer))) is not None
        ]
        self.classes = groups.find_classes(
            graph,
            _group_scores(graph, wishes, producers, scorer),
            ~groups.left(graph, gone),
            producers,
        )

    def keep(self, shares: list[float]) -> np.ndarray:
        """Chooses the groups.

        Args:
            shares: List of floats: the sparsity of each class.

        Returns:
            Boolean array, one value per group: which stay.
        """
        keep = np.ones(len(self._graph.groups), bool)
        groups.choose(self.classes, shares, self._call, keep)
        return keep

    def slices(self, keep: np.ndarray) -> Slices:
        """Which slices of the layers' variables stay.

        Args:
            keep: Boolean array: which groups stay.
        """
        masked = {id(wish.layer.layer) for wish in self._wishes}
        return {
            (id(binding.variable), binding.axis): keep[
                self._graph.groups.of_slot[binding.slots]
            ]
            for binding in self._graph.bindings
            if id(binding.layer) in masked
        }

    def _call(self, granularity, row, sparsity, of_group):
        offers = {
            "generator": lambda: np.random.default_rng(of_group),
            "mask": lambda: self._kept_now()[of_group][None],
            "outputs_last": lambda: np.asarray,
            "progress": lambda: self._scorer.progress,
            "score": lambda: None,
        }
        return _ask(granularity, row, sparsity, offers, "a class of groups")

    def _kept_now(self) -> np.ndarray:
        kept = {
            id(weight.variable): weights.to_numpy(weight.mask)
            for wish in self._wishes
            for weight in wish.kernels
        }
        return groups.left(self._graph, kept)


def _group_scores(graph, wishes, producers, scorer) -> np.ndarray:
    """The score of each group, as `GroupChooser` asks for it."""
    members: dict[int, groups.Member]
    if scorer.scores_groups is not None:
        return _by_readers(graph, wishes, producers, scorer)
    if scorer.slices_of is None:
        members = {
            id(weight.variable): functools.partial(
                _slices, scorer, weight, wish
            )
            for wish in wishes
            for weight in wish.kernels
        }
    else:
        members = {
            id(binding.variable): scorer.slices_of_variable
            for binding in graph.bindings
            if binding.variable.name in scorer.slices_of
        }
    scores = groups.pool(graph, members)
    if not scorer.scores_slices:
        scores = np.nan_to_num(scores)
        # As long as a norm, in the order of the mean squares.
        return np.sign(scores) * np.sqrt(np.abs(scores))
    is_open = np.isnan(scores) & ~graph.groups.frozen
    silent = [
        producer.layer.name
        for producer in producers
        if is_open[graph.groups.of_slot[producer.slots]].any()
    ]
    if silent:
        raise ValueError(
            f"The criterion {scorer.criterion!r} has no score for the filters "
            f"of the layers {list(dict.fromkeys(silent))}. Leave these out, "
            "with `kprune.make_prunable(model, where=...)` or "
            "`layer.trainable = False`, or take another criterion."
        )
    return np.nan_to_num(scores)


def _by_readers(graph, wishes, producers, scorer) -> np.ndarray:
    """The scores of groups that a criterion gives where they are read."""
    found = readers(
        graph,
        [weight for wish in wishes for weight in wish.kernels],
        scorer.observations.map_of,
        scorer.observations.covariance,
    )
    classes = groups.group_classes(graph.groups, [p.slots for p in producers])
    scores = np.zeros(len(graph.groups))
    for of_class in range(1, classes.max() + 1):
        inside = (classes == of_class) & ~graph.groups.frozen
        (which,) = np.nonzero(inside)
        local = np.full(len(scores), -1)
        local[which] = np.arange(len(which))
        reading = [one for one in found if inside[one.groups].any()]
        if reading:
            scores[which] = scorer.scores_groups(
                [one.kernel for one in reading],
                [one.gram for one in reading],
                [local[one.groups] for one in reading],
            )
    return scores


def _slices(scorer, weight, wish, bindings) -> list[np.ndarray | None]:
    """The scores of the slices of a kernel, along each of its bindings."""
    if scorer.scores_slices:
        return scorer.slices(weight, wish.sparsity, bindings)
    pool = getattr(wish.granularity, "pool", granularities.mean_square)
    scores = scorer.scores(weight, wish.sparsity)
    return [pool(scores, binding.axis) for binding in bindings]


def masks_of_layer(
    wish, slices, scorer, in_groups, but=frozenset()
) -> dict[str, np.ndarray]:
    """Computes the masks of one layer.

    Args:
        wish: The `Wish`.
        slices: As `GroupChooser.slices` returns it.
        scorer: The `Scorer`.
        in_groups: Boolean. Whether nothing goes but whole groups.
        but: Ids of the variables whose masks are left out.

    Returns:
        Dict from the name of each weight to its mask, a boolean array.
    """
    kernels = {weight.name: weight for weight in wish.kernels}
    found = {}
    for name, variable in wish.layer.maskable.items():
        if id(variable) in but:
            continue
        mask = masks.slice_mask(variable, slices)
        if name in kernels and not in_groups:
            mask = mask_of(kernels[name], wish, mask, scorer)
        if mask is None:
            mask = np.broadcast_to(True, tuple(variable.shape))
        found[name] = mask
    # The bias of a filter that is gone for good stays away, whatever the
    # granularity is now.
    gone = {
        name: ~dead
        for name, weight in kernels.items()
        if (dead := weight.gone()) is not None
    }
    goes_whole = wish.goes_by_groups and not in_groups
    for name, bias in weights.biases(wish.layer.layer).items():
        of_bias = [weight for weight in wish.kernels if weight.bias is bias]
        if not of_bias:
            continue
        if goes_whole:
            found[name] = masks.of_bias(bias, of_bias, found)
        if gone:
            kept = masks.of_bias(bias, of_bias, gone)
            now = weights.to_numpy(wish.layer.masks[name])
            found[name] = found[name] & (kept | now)
    return found


def mask_of(weight, wish, mask, scorer) -> np.ndarray:
    """Computes the mask of one kernel.

    Args:
        weight: The `PrunableWeight`.
        wish: The `Wish` of its layer.
        mask: What whole groups leave of it, `None` if they leave all.
        scorer: The `Scorer`.

    Returns:
        Boolean array of the kernel's shape.
    """
    share = wish.sparsity
    dead = weight.gone()
    staying = masks.both(mask, None if dead is None else ~dead)
    asked = requests.names(wish.granularity, "granularity")
    offers = scorer.offers(weight, share)
    offers["outputs_last"] = lambda: weight.outputs_last
    if "score" not in asked:
        scores = _lowered(scorer.scores(weight, share), staying)
        now = offers["mask"]
        offers["mask"] = lambda: weight.outputs_last(now())
        offers["outputs_last"] = lambda: np.asarray
        turned = weight.outputs_last(scores)
        mask = _ask(wish.granularity, turned, share, offers, weight)
        chosen = weight.back(mask)
    elif (
        scorer.is_elementwise
        and staying is None
        # Where nothing goes no score is looked at, nor found to be nan.
        and removed_count(weight.size, share)
    ):
        # The usual case: no array of all scores, which takes longer to fill
        # than to rank.
        score = functools.partial(scorer.of_values, weight, share)
        offers["score"] = lambda: score
        values = scorer.value(weight)
        chosen = _ask(wish.granularity, values, share, offers, weight)
    else:
        # Of equal scores the one with the lower index in the kernel stays.
        scores = _lowered(scorer.scores(weight, share), staying)
        offers["score"] = lambda: None
        chosen = _ask(wish.granularity, scores, share, offers, weight)
    return chosen if staying is None else chosen & staying


def _lowered(scores, staying) -> np.ndarray:
    return scores if staying is None else masks.lowered(scores, staying)


def _ask(granularity, scores, sparsity, offers, of) -> np.ndarray:
    """Calls a granularity, and checks what it returns."""
    mask = np.asarray(
        requests.answer(
            granularity, "granularity", scores, sparsity, offers=offers
        )
    )
    masks.check(mask, granularity, of, scores.shape)
    return mask
