"""The clock: how much of a training is done, and when masks are frozen."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kprune import schedules
from kprune.allocations import Allocation
from kprune.budgets import Budget
from kprune.criteria import Criterion
from kprune.granularities import Granularity
from kprune.meeting import Met
from kprune.schedules import Schedule
from kprune.shortfall import warn_if_nothing_went
from kprune.updating import MaskUpdater
from kprune.wrappers import trainable_layers
from kprune.zeros import masked_share

# A progress such as 7 / 10 may be a rounding error short of the end.
_ROUNDING = 1e-9


class Pruner:
    """Prunes a model by a schedule, in a training loop of your own.

    `kprune.PruningScheduler` does this in `fit`. In a loop `update` is called
    with the progress: the fraction of the planned training that is done. It
    recomputes all masks from the stored weights for the sparsity that the
    schedule asks for. From the first update at which the progress reaches the
    schedule's `end` the masks are frozen: an update then only zeroes the
    masked weights again, for good, since an optimizer with momentum moves
    them for some steps longer.

    A schedule that asks for something at progress 0 (to prune at
    initialization) is heard before the first step if you call
    `update(model, 0.0)` there. Nothing trains under masks that the last
    update sets: let the schedule end before 1, as the default does.

    A pruner is for one training of one model.

    Args:
        schedule: How sparse, when: a float or a `kprune.Budget` `s`, short
            for `kprune.schedules.Polynomial(final_sparsity=s)`, or what else
            `kprune.schedules.get` takes.
        criterion: Which weights matter; see `kprune.criteria.get`.
        granularity: In what shape weights go, for all layers; see
            `kprune.granularities.get`. `None` leaves it to each layer.
        allocation: How the sparsity is shared out; see
            `kprune.allocations.get`.
        keep: Which filters stay; see `kprune.prune`.
        data: Samples for criteria that ask for what is computed from them; see
            `kprune.prune`. Read once, observed anew at each update.
        loss: The loss for criteria that ask for gradients; see `kprune.prune`.
        pad_layer_norm: Boolean; see `kprune.prune`.

    Raises:
        ValueError: If an argument is not valid.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((16,)), kprune.PrunableDense(8)])
    >>> pruner = kprune.Pruner(0.75)
    >>> for epoch in range(4):
    ...     # Train for an epoch here.
    ...     frozen = pruner.update(model, (epoch + 1) / 4)
    ...     print(kprune.sparsity(model), frozen)
    0.65625 False
    0.75 True
    0.75 True
    0.75 True

    Reference:

    - [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    def __init__(
        self,
        schedule: Schedule | Budget | float | str,
        *,
        criterion: Criterion | str = "magnitude",
        granularity: Granularity | str | None = None,
        allocation: Allocation | Mapping[str, float] | str = "uniform",
        keep: Mapping[str, Iterable[int]] | None = None,
        data: Any = None,
        loss: Any = None,
        pad_layer_norm: bool = False,
    ):
        self.schedule = schedules.get(schedule)
        self._granularity = granularity
        self._masks = MaskUpdater(
            criterion,
            granularity,
            allocation,
            keep=keep,
            data=data,
            loss=loss,
            pad_layer_norm=pad_layer_norm,
        )
        self._model: keras.Model | None = None
        # That of the last update.
        self.progress = 0.0
        # What fraction was masked at the freeze.
        self.frozen_share: float | None = None

    @property
    def met(self) -> Met | None:
        """`kprune.meeting.Met`: how the last `Budget` was met, if any."""
        return self._masks.met

    @property
    def is_frozen(self) -> bool:
        """Boolean. Whether the masks are final."""
        return self.frozen_share is not None

    def check(self, model: keras.Model) -> None:
        """Raises before a training does for what it would end with.

        Args:
            model: A model with prunable layers.

        Raises:
            ValueError: If the schedule ends with a budget that no masks meet.
        """
        end = schedules.end(self.schedule)
        self._masks.check(model, self.schedule(end))

    def update(self, model: keras.Model, progress: float) -> bool:
        """Sets the masks to what the schedule asks for.

        Args:
            model: A model with prunable layers.
            progress: Float in `[0, 1]`, not lower than at the last update.

        Returns:
            Boolean: whether the masks are frozen.

        Raises:
            ValueError: If the progress is no such number, the model is not
                the one of the last update, or it cannot be pruned.
        """
        self._check(model, progress)
        if self.is_frozen:
            apply_masks(model)
            return True
        ends = self._has_ended(progress)
        if ends:
            progress = max(progress, schedules.end(self.schedule))
        final = self.schedule(schedules.end(self.schedule))
        sparsity = self._masks.update(
            model, self.schedule(progress), progress, final
        )
        self._model, self.progress = model, progress
        if ends:
            self._freeze(model)
            warn_if_nothing_went(
                trainable_layers(model), sparsity, self._granularity
            )
        return self.is_frozen

    def resume(self, model: keras.Model, progress: float) -> bool:
        """Goes on with a model that was saved after an update.

        Where the schedule had ended, the masks that were loaded are final and
        stay as they are.

        Args:
            model: A model with prunable layers and the weights and masks of
                the checkpoint.
            progress: Float in `[0, 1]`: that of the update before it.

        Returns:
            Boolean: whether the masks are frozen.

        Raises:
            ValueError: As `update` does.
        """
        self._check(model, progress)
        final = self.schedule(schedules.end(self.schedule))
        # What a budget left is what it leaves again: what went has no weights.
        is_reached = (
            not isinstance(final, Budget)
            and masked_share(model) >= final - 1e-3
        )
        if not (is_reached and self._has_ended(progress)):
            return self.update(model, progress)
        self._model, self.progress = model, progress
        self._freeze(model)
        return True

    def _has_ended(self, progress) -> bool:
        return progress >= schedules.end(self.schedule) - _ROUNDING

    def _freeze(self, model) -> None:
        apply_masks(model)
        self.frozen_share = masked_share(model)

    def _check(self, model, progress) -> None:
        schedules.validate_progress(progress)
        if self._model is not None and model is not self._model:
            raise ValueError(
                "A `Pruner` is for one training of one model: this one prunes "
                f"model '{self._model.name}'. Make another one for this "
                f"model. Received: {model!r}"
            )
        if progress < self.progress - _ROUNDING:
            raise ValueError(
                "The progress of a training does not fall: the last update "
                f"was at {self.progress:.3g}. Make another `Pruner` for "
                f"another training. Received: progress={progress!r}"
            )


class Clock:
    """Counts epochs and steps, and says at which steps masks are updated.

    Args:
        plan: Dict with the `epochs` of the whole training, and the `steps` of
            an epoch where they are known, as Keras's callbacks have it.
        update_freq: `"epoch"`, or the number of steps between two updates.

    Raises:
        ValueError: If the plan has no epochs.
    """

    def __init__(self, plan: dict, update_freq: str | int):
        if plan.get("epochs") is None:
            raise ValueError(
                "`PruningScheduler` has to know how many epochs are planned. "
                "`fit` tells it; in a loop of your own write "
                "`keras.callbacks.CallbackList([scheduler], model=model, "
                f"epochs=8)`, or use `kprune.Pruner`. Received: params={plan}"
            )
        self.epochs: int = plan["epochs"]
        # Of an epoch; `None` until one is through if the data do not say.
        self._steps: int | None = plan.get("steps")
        self._update_freq = None if update_freq == "epoch" else int(update_freq)
        self.has_begun = False
        self._epoch = 0
        self._begun = 0
        self._applied = 0

    def at_end_of(self, epoch: int) -> float:
        """The progress at the end of an epoch, counted from 0."""
        return (epoch + 1) / self.epochs

    def begin_epoch(self, epoch: int, applied: int) -> None:
        """Begins an epoch.

        Args:
            epoch: Integer, counted from 0.
            applied: Integer. How often the optimizer was applied so far, 0
                where that is not once a step.
        """
        self.has_begun = True
        self._epoch = epoch
        self._begun = 0
        self._applied = applied

    def before_step(self, step: int) -> float | None:
        """Counts a step, or several in one execution, that are to come.

        Args:
            step: Integer. How many steps of the epoch are done.

        Returns:
            Float: the progress, where masks are to be updated before it.
        """
        if self._update_freq is None:
            return None
        # `step` jumps where several steps are one execution.
        before, self._begun = self._begun, step
        if self._steps is None:
            return None  # A dataset of unknown length: known after one epoch.
        if step >= self._steps:
            return None  # JAX begins this one, and then finds no data.
        start = self._epoch * self._steps
        crossed = (start + step) // self._update_freq
        if crossed == (start + before) // self._update_freq:
            return None
        return (start + step) / (self.epochs * self._steps)

    def end_epoch(self, applied: int, at_once: int) -> None:
        """Learns from an epoch how many steps it has.

        Args:
            applied: Integer. How often the optimizer was applied so far.
            at_once: Integer. How many steps are one execution.
        """
        if self._begun:
            begun = self._begun + at_once
            # The last one begun may have found no data.
            counted = applied - self._applied
            is_right = self._begun <= counted <= begun
            self._steps = counted if is_right else begun

    def resume(self, epoch: int, applied: int) -> None:
        """Learns from the epochs before how many steps each has.

        Args:
            epoch: Integer. How many epochs are done.
            applied: Integer. How often the optimizer was applied in them.
        """
        if self._steps is None and applied and applied % epoch == 0:
            self._steps = applied // epoch

    def is_update_before_end_of(self, epoch: int, progress: float) -> bool:
        """Whether masks are updated at or after `progress` and before then.

        Args:
            epoch: Integer, counted from 0. The update at its very end does
                not count.
            progress: Float in `[0, 1]`.

        Returns:
            Boolean.
        """
        if epoch / self.epochs >= progress - _ROUNDING:
            return True
        if self._update_freq is None or self._steps is None:
            return False
        step = progress * self.epochs * self._steps
        updates = math.ceil(step / self._update_freq - _ROUNDING)
        return updates * self._update_freq < (epoch + 1) * self._steps


def apply_masks(model: keras.Model) -> None:
    """Zeroes the masked weights of all layers that are pruned, for good.

    Args:
        model: A model with prunable layers.
    """
    for layer in trainable_layers(model):
        layer.apply_masks()
