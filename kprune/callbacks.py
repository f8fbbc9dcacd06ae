"""The callback whose masks grow while a model trains."""

import functools
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from kprune import schedules, shortfall
from kprune.allocations import Allocation
from kprune.budgets import Budget
from kprune.criteria import Criterion
from kprune.granularities import Granularity
from kprune.meeting import Met
from kprune.observing import samples
from kprune.progress import Clock, Pruner, apply_masks
from kprune.schedules import Schedule
from kprune.weights import to_numpy
from kprune.wrappers import trainable_layers
from kprune.zeros import masked_share, sparsity


class PruningScheduler(keras.callbacks.Callback):
    """Grows the masks of a model during `fit`, then freezes them.

    At every update the schedule says how sparse the model is to be and all
    masks are computed again from the stored weights, so a weight can come
    back while others fall below it. From the first update at which the
    progress reaches the schedule's `end` the masks are frozen, the masked
    weights are zeroed, and what remains is fine-tuned. With two or more
    epochs the last one trains under the final masks: the update before it
    reaches the final sparsity even where `end` lies later. A schedule that
    asks for something at progress 0 is heard before the first step:
    `schedules.OneShot(0.8, at=0.0)` prunes at initialization.

    The sparsity is in the logs of every epoch, as `sparsity`: in the progress
    bar, in the history, and in TensorBoard where its callback comes after
    this one.

    A callback that gives back the weights of an earlier epoch, such as
    `EarlyStopping(restore_best_weights=True)`, gives back its masks too. This
    one warns if it sees that, which takes the last place in the list of
    callbacks; `kprune.OnceFrozen` avoids it.

    The masks are weights of the model. They are in every checkpoint, and a
    training that is resumed (with `initial_epoch` on a loaded model, or by
    `keras.callbacks.BackupAndRestore`) goes on where it was. In a
    `keras.distillation.Distiller` it is the student that is pruned.

    Args:
        schedule: How sparse, when: a float or a `kprune.Budget` `s`, short
            for `kprune.schedules.Polynomial(final_sparsity=s)`, or what else
            `kprune.schedules.get` takes. The progress is the fraction of the
            planned training that is done: `(epoch + 1) / epochs` at the end
            of an epoch (counted from 0), or steps done / all steps.
        criterion: Which weights matter; see `kprune.criteria.get`.
        granularity: In what shape weights go, for all layers; see
            `kprune.granularities.get`. `None` leaves it to each layer.
        allocation: How the sparsity is shared out, and the place for control
            per layer: a callable from layers and sparsity to one sparsity per
            layer, or a dict from names of layers to their final sparsities;
            see `kprune.allocations.get`.
        keep: Which filters stay; see `kprune.prune`.
        update_freq: `"epoch"`, or a number of training steps. With a number
            there are updates at that many steps and at the end of each epoch.
        data: Samples for criteria that ask for what is computed from them; see
            `kprune.prune`. Read once, observed anew at each update.
        loss: The loss for criteria that ask for gradients; see `kprune.prune`.
        pad_layer_norm: Boolean; see `kprune.prune`.

    Raises:
        ValueError: If an argument is not valid, or, when training begins, if
            the model has no prunable layers.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), kprune.PrunableDense(8)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(
    ...     np.ones((8, 4)), np.ones((8, 8)), epochs=4, verbose=0,
    ...     callbacks=[kprune.PruningScheduler(0.75)])
    >>> history.history["sparsity"]
    [0.65625, 0.75, 0.75, 0.75]

    Reference:

    - [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    def __init__(
        self,
        schedule: Schedule | Budget | float | str = 0.5,
        *,
        criterion: Criterion | str = "magnitude",
        granularity: Granularity | str | None = None,
        allocation: Allocation | Mapping[str, float] | str = "uniform",
        keep: Mapping[str, Iterable[int]] | None = None,
        update_freq: str | int = "epoch",
        data: Any = None,
        loss: Any = None,
        pad_layer_norm: bool = False,
    ):
        super().__init__()
        self.schedule = schedules.get(schedule)
        self.update_freq = update_freq
        self._new_pruner = functools.partial(
            Pruner,
            self.schedule,
            criterion=criterion,
            granularity=granularity,
            allocation=allocation,
            keep=keep,
            # Read once: a generator gives its batches once.
            data=None if data is None else samples.read(data),
            loss=loss,
            pad_layer_norm=pad_layer_norm,
        )
        self._pruner = self._new_pruner()
        # What the last epoch masked, after its last step.
        self._untrained = 0.0
        is_count = isinstance(update_freq, numbers.Integral) and update_freq > 0
        if update_freq is True or not (is_count or update_freq == "epoch"):
            raise ValueError(
                "`update_freq` must be 'epoch' or a positive number of "
                f"steps. Received: update_freq={update_freq!r}"
            )

    @property
    def met(self) -> Met | None:
        """`kprune.meeting.Met`: how the last `Budget` was met, if any."""
        return self._pruner.met

    @property
    def is_frozen(self) -> bool:
        """Boolean. Whether the masks of the training are final."""
        return self._pruner.is_frozen

    @property
    def model(self) -> keras.Model:
        """The model that is pruned: the student in a Distiller."""
        model = super().model
        # The Distiller itself has no graph that shows what reads a filter.
        if isinstance(model, keras.distillation.Distiller):
            return model.student
        return model

    def on_train_begin(self, logs: dict | None = None) -> None:
        trainable_layers(self.model)  # Raises where there are none.
        self._clock = Clock(self.params or {}, self.update_freq)
        self._check_schedule()
        self._pruner = self._new_pruner()
        if self.model.built:
            self._pruner.check(self.model)

    def _check_schedule(self) -> None:
        """Raises before the training does for what it would end with."""
        end = schedules.end(self.schedule)
        ends = map(self._clock.at_end_of, range(self._clock.epochs))
        for progress in (0.0, *(p for p in ends if p < end), end):
            schedules.validate_target(
                self.schedule(progress),
                f"sparsity of the schedule at progress {progress:.3g}",
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        is_first = not self._clock.has_begun
        self._clock.begin_epoch(epoch, self._applied())
        self._untrained = 0.0
        if is_first and epoch > 0:
            self._resume(epoch)
        elif is_first and self.schedule(0.0) != 0:
            self._pruner.update(self.model, 0.0)

    def _resume(self, epoch: int) -> None:
        """Goes on from a backup, made before or after this callback ran."""
        self._clock.resume(epoch, self._applied())
        end = schedules.end(self.schedule)
        if self._clock.is_update_before_end_of(epoch - 1, end):
            progress = self._clock.at_end_of(epoch - 1)
            self._pruner.resume(self.model, progress)
        else:
            self._update_at_end_of(epoch - 1)

    def _applied(self) -> int:
        """How often the optimizer was applied, 0 if that is not each step."""
        # Of the model that trains: of a Distiller, not of its student. A
        # model that was not compiled has none.
        optimizer = getattr(super().model, "optimizer", None)
        if optimizer is None or optimizer.gradient_accumulation_steps:
            return 0
        return int(to_numpy(optimizer.iterations))

    def on_train_batch_begin(
        self, batch: int, logs: dict | None = None
    ) -> None:
        # Not at the end of a step: Keras would wait for every single one.
        progress = self._clock.before_step(batch)
        if progress is not None and not self.is_frozen:
            self._pruner.update(self.model, progress)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        at_once = getattr(super().model, "steps_per_execution", 1)
        self._clock.end_epoch(self._applied(), at_once)
        if self.is_frozen:
            apply_masks(self.model)
        else:
            before = masked_share(self.model)
            self._update_at_end_of(epoch)
            self._untrained = masked_share(self.model) - before
        if logs is not None:
            logs["sparsity"] = sparsity(self.model)

    def on_train_end(self, logs: dict | None = None) -> None:
        if not self._clock.has_begun:
            return
        final = self._pruner.frozen_share
        if final is None:
            progress, epochs = self._pruner.progress, self._clock.epochs
            shortfall.warn_of_early_end(
                self.schedule, progress, epochs, masked_share(self.model)
            )
            return
        # An optimizer with `use_ema=True` has just set averages, of times
        # before the freeze too.
        apply_masks(self.model)
        shortfall.warn_of_earlier_weights(masked_share(self.model), final)
        shortfall.warn_of_masks_that_never_trained(self._untrained, final)

    def _update_at_end_of(self, epoch: int) -> None:
        progress = self._clock.at_end_of(epoch)
        if epoch == self._clock.epochs - 2:
            # The last epoch trains under the final masks.
            progress = max(progress, schedules.end(self.schedule))
        self._pruner.update(self.model, progress)
