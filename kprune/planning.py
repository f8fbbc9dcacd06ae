"""What is to be masked where, at any sparsity: where the nouns meet."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from kprune import schedules
from kprune.allocations import Allocation
from kprune.choosing import GroupChooser, Slices, Wish, masks_of_layer
from kprune.measuring.group_macs import GroupMacs
from kprune.measuring.macs import kernel_macs
from kprune.observing import requests
from kprune.scoring import LazyScores, Scorer, check_requests
from kprune.structure.graph import ChannelGraph
from kprune.structure.groups import GroupClass


@dataclasses.dataclass(frozen=True)
class ReadGraph:
    """A model's graph, read once.

    Args:
        model: The Sequential or Functional model that could be read.
        channels: Its `ChannelGraph`.
    """

    model: keras.Model
    channels: ChannelGraph

    @functools.cached_property
    def kernel_macs(self) -> dict[int, float | None]:
        """What `kprune.measuring.macs.kernel_macs` returns."""
        return kernel_macs(self.model)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be masked where.

    Args:
        planner: The `Planner` that made it.
        sparsity: Float: what the allocation shared out.
        wishes: List of `Wish`, one a layer.
        in_groups: List of booleans: of which layers only groups go.
        keep: Boolean array, one value per group of the graph: which stay;
            `None` where no groups are chosen.
        scorer: The `Scorer`.
        chooser: The `GroupChooser` that chose the groups, or `None`.
    """

    planner: "Planner"
    sparsity: float
    wishes: list[Wish]
    in_groups: list[bool]
    keep: Any
    scorer: Scorer
    chooser: GroupChooser | None = None

    @property
    def model(self) -> keras.Model:
        """The model."""
        return self.planner.model

    @property
    def goes_by_readers(self) -> bool:
        """Boolean. Whether groups go, by what kernels lose that read them."""
        has_groups = self.chooser is not None and bool(self.chooser.classes)
        return has_groups and self.scorer.scores_groups is not None

    def assign(self, but: frozenset[int] = frozenset()) -> None:
        """Sets the masks, but those of some variables, by their ids."""
        slices: Slices = {}
        if self.chooser is not None:
            slices = self.chooser.slices(self.keep)
        updated = [
            masks_of_layer(wish, slices, self.scorer, is_whole, but)
            for wish, is_whole in zip(self.wishes, self.in_groups)
        ]
        # All or none: what fails above leaves the masks as they were.
        for wish, of_layer in zip(self.wishes, updated):
            for name, mask in of_layer.items():
                wish.layer.masks[name].assign(mask)


class Planner:
    """Plans the masks of a model as it is now.

    Args:
        model: A model with prunable layers.
        wishes: List of `Wish`, one a layer, of any sparsity.
        scorer: The `Scorer`.
        allocation: An allocation.
        read: The `ReadGraph` of the model; `None` where whole groups go
            nowhere, or it has no graph.
        way: Float in `(0, 1]`: how much of the way to what the schedule ends
            with is asked for.
    """

    def __init__(
        self,
        model: keras.Model,
        wishes: list[Wish],
        scorer: Scorer,
        allocation: Allocation,
        read: ReadGraph | None,
        way: float = 1.0,
    ):
        self.model = model
        self.read: Any = read
        self._wishes = wishes
        self._scorer = scorer
        self._allocation = allocation
        self._way = way
        self._over_groups: Callable | None = getattr(
            allocation, "over_groups", None
        )
        self._layers = [wish.layer for wish in wishes]
        self.in_groups = [
            read is not None
            and wish.goes_by_groups
            and read.channels.has_layer(wish.layer.layer)
            for wish in wishes
        ]
        # What groups are worth does not depend on how many go, unless the
        # criterion asks for that.
        self._is_fixed = "sparsity" not in check_requests(scorer.criterion)
        self._chooser: Any = None
        if read is not None and self._is_fixed:
            self._chooser = GroupChooser(read.channels, wishes, scorer)

    @property
    def classes(self) -> list[GroupClass]:
        """The classes of groups that can go, with the scores of the last plan.

        Empty where no groups are chosen.
        """
        return [] if self._chooser is None else self._chooser.classes

    def at(self, sparsity: float) -> Plan:
        """Plans the masks for a sparsity.

        Args:
            sparsity: Float in `[0, 1)`.

        Returns:
            A `Plan`.
        """
        sparsity = schedules.validate_sparsity(sparsity)
        wishes = [
            dataclasses.replace(wish, sparsity=sparsity)
            for wish in self._wishes
        ]
        # Where the allocation ranks groups no weight need be ranked for it.
        if not (all(self.in_groups) and self._over_groups):
            wishes = self._share_out(wishes, sparsity)
        if self.read is None:
            return Plan(
                self,
                sparsity,
                wishes,
                self.in_groups,
                None,
                self._scorer,
            )
        if not self._is_fixed:
            self._chooser = GroupChooser(
                self.read.channels, wishes, self._scorer
            )
        shares = self._shares(wishes, sparsity, self._chooser.classes)
        return self._with(wishes, sparsity, self._chooser.keep(shares))

    def with_groups(self, plan: Plan, keep: np.ndarray) -> Plan:
        """The same plan with other groups.

        Args:
            plan: A `Plan` of this planner.
            keep: Boolean array: which groups stay.
        """
        return self._with(plan.wishes, plan.sparsity, keep)

    def _with(self, wishes, sparsity, keep) -> Plan:
        return Plan(
            self,
            sparsity,
            wishes,
            self.in_groups,
            keep,
            self._scorer,
            self._chooser,
        )

    def _share_out(self, wishes, sparsity) -> list[Wish]:
        """The wishes with the sparsities that the allocation gives them."""

        def score(weight):
            return self._scorer.scores_across(weight, sparsity)

        shares = requests.answer(
            self._allocation,
            "allocation",
            self._layers,
            sparsity,
            offers={
                "final_sparsity": lambda: sparsity / self._way,
                "progress": lambda: self._scorer.progress,
                "scores": lambda: LazyScores(
                    [wish.kernels for wish in wishes], score
                ),
            },
        )
        names = [layer.name for layer in self._layers]
        found = _checked(
            shares, names, "The allocation", f"each of the layers {names}"
        )
        return [
            dataclasses.replace(wish, sparsity=share)
            for wish, share in zip(wishes, found)
        ]

    def _shares(self, wishes, sparsity, classes) -> list[float]:
        """The sparsity of each class of groups."""
        if self._over_groups is None:
            asked = {id(wish.layer): wish.sparsity for wish in wishes}
            return [
                float(np.mean([asked[id(p.layer)] for p in of_class.producers]))
                for of_class in classes
            ]
        makers = [
            tuple({id(p.layer): p.layer for p in of_class.producers}.values())
            for of_class in classes
        ]
        shares = requests.answer(
            self._over_groups,
            "allocation over groups",
            [
                np.repeat(of_class.scores, of_class.channels)
                for of_class in classes
            ],
            sparsity,
            offers={
                "final_sparsity": lambda: sparsity / self._way,
                "layers": lambda: self._layers,
                "least": lambda: [of_class.least for of_class in classes],
                "macs": lambda: GroupMacs(
                    lambda: self.read.kernel_macs, self.read.channels, classes
                ),
                "makers": lambda: makers,
                "progress": lambda: self._scorer.progress,
            },
        )
        names = [" and ".join(layer.name for layer in of) for of in makers]
        return _checked(
            shares,
            names,
            "`over_groups` of the allocation",
            f"each class of groups, those of {names}",
        )


def _checked(shares, names, who, each) -> list[float]:
    """The sparsities that an allocation returns, if it returns such."""
    is_list = isinstance(shares, Iterable) and not isinstance(
        shares, (Mapping, str)
    )
    found = list(shares) if is_list else shares
    if not isinstance(found, list) or len(found) != len(names):
        raise ValueError(
            f"{who} must return {len(names)} sparsities, one for {each}, in a "
            f"list. Received: {found!r} (of type {type(shares).__name__})"
        )
    return [
        schedules.validate_sparsity(share, f"sparsity of '{name}'")
        for name, share in zip(names, found)
    ]
