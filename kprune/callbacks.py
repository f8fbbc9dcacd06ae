"""Callbacks: masks that grow while a model trains, and what heeds them."""

import math
import numbers
import warnings

import keras

from kprune import schedules
from kprune.prunable import masked_share, sparsity, trainable_layers
from kprune.pruning import MaskUpdater
from kprune.weights import to_numpy


class PruningScheduler(keras.callbacks.Callback):
    """Grows the masks of a model during `fit`, then freezes them.

    At every update the schedule says how sparse the model is to be and all
    masks are computed again from the stored weights, so a weight can come
    back while others fall below it. From the first update at which the
    progress reaches the schedule's `end` the masks are frozen, the masked
    weights are zeroed, and what remains is fine-tuned. With two or more
    epochs the last one trains under the final masks: the update before it
    reaches the final sparsity even where `end` lies later.

    The sparsity is in the logs of every epoch, as `sparsity`: in the progress
    bar, in the history, and in TensorBoard where its callback comes after
    this one.

    A callback that gives back the weights of an earlier epoch, such as
    `EarlyStopping(restore_best_weights=True)`, gives back its masks too. This
    one warns if it sees that, which takes the last place in the list of
    callbacks; `kprune.OnceFrozen` avoids it.

    In a `keras.distillation.Distiller` it is the student that is pruned.

    The masks are weights of the model. They are in every checkpoint, and a
    training that is resumed (with `initial_epoch` on a loaded model, or by
    `keras.callbacks.BackupAndRestore`) goes on where it was.

    Args:
        schedule: How sparse, when: a float `s`, short for
            `kprune.schedules.Polynomial(final_sparsity=s)`, or what else
            `kprune.schedules.get` takes. The progress is the fraction of the
            planned training that is done: `(epoch + 1) / epochs` at the end
            of an epoch (counted from 0), or steps done / all steps.
        criterion: Which weights matter; see `kprune.criteria.get`.
        granularity: In what shape weights go, for all layers; see
            `kprune.granularities.get`. `None` leaves it to each layer.
        allocation: How the sparsity is shared out, and the place for control
            per layer: a callable from layers and sparsity to one sparsity per
            layer; see `kprune.allocations.get`.
        update_freq: `"epoch"`, or a number of training steps. With a number
            there are updates at that many steps and at the end of each epoch.

    Raises:
        ValueError: If an argument is not valid, or, when training begins, if
            the model has no prunable layers.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), kprune.PrunableDense(8), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(
    ...     np.ones((8, 4)), np.ones((8, 1)), epochs=4, verbose=0,
    ...     callbacks=[kprune.PruningScheduler(0.75)])
    >>> history.history["sparsity"]
    [0.65625, 0.75, 0.75, 0.75]

    Reference:

    - [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    def __init__(
        self,
        schedule=0.5,
        *,
        criterion="magnitude",
        granularity=None,
        allocation="uniform",
        update_freq="epoch",
    ):
        super().__init__()
        self.schedule = schedules.get(schedule)
        self.update_freq = update_freq
        self._pruner = MaskUpdater(criterion, granularity, allocation)
        self._frozen = False
        if update_freq != "epoch" and not _is_step_count(update_freq):
            raise ValueError(
                "`update_freq` must be 'epoch' or a positive number of "
                f"steps. Received: update_freq={update_freq!r}"
            )

    @property
    def is_frozen(self) -> bool:
        """Boolean. Whether the masks of the training are final."""
        return self._frozen

    @property
    def model(self):
        """The model that is pruned: the student in a Distiller."""
        model = super().model
        # The Distiller itself has no graph that shows what reads a filter.
        if isinstance(model, keras.distillation.Distiller):
            return model.student
        return model

    def on_train_begin(self, logs=None):
        trainable_layers(self.model)
        self._check_schedule()
        self._epoch = None
        self._progress = 0.0
        self._frozen = False
        self._steps = self.params.get("steps")

    def _check_schedule(self):
        """Raises before the training does for what it would end with."""
        end = schedules.end(self.schedule)
        ends = [(e + 1) / self._epochs() for e in range(self._epochs())]
        for progress in (*(p for p in ends if p < end), end):
            schedules.validate_sparsity(
                self.schedule(progress),
                f"sparsity of the schedule at progress {progress:.3g}",
            )

    def on_epoch_begin(self, epoch, logs=None):
        if self._epoch is None and epoch > 0:
            self._resume(epoch)
        self._epoch = epoch
        self._steps_done = 0
        self._iterations_before = self._iterations()

    def _resume(self, epoch):
        """Goes on from a backup, made before or after this callback ran."""
        if self._steps is None:
            self._steps = self._steps_before(epoch)
        final = self.schedule(schedules.end(self.schedule))
        is_reached = masked_share(self.model) >= final - 1e-3
        if is_reached and self._was_frozen_before_the_end_of(epoch - 1):
            # The masks that were loaded are final.
            self._freeze()
        else:
            self._update_at_end_of(epoch - 1)

    def _steps_before(self, epoch):
        """Steps of an epoch, as those before took; `None` if not known."""
        optimizer = super().model.optimizer
        if optimizer is None or optimizer.gradient_accumulation_steps:
            return None
        steps, rest = divmod(self._iterations(), epoch)
        return None if rest or not steps else steps

    def _iterations(self) -> int:
        """How often the optimizer was applied, usually once a step."""
        # Of the model that trains: of a Distiller, not of its student.
        optimizer = super().model.optimizer
        return 0 if optimizer is None else int(to_numpy(optimizer.iterations))

    def _was_frozen_before_the_end_of(self, epoch) -> bool:
        if self._reached_end(epoch / self._epochs()):
            return True
        if self.update_freq == "epoch" or self._steps is None:
            return False
        end = schedules.end(self.schedule) * self._epochs() * self._steps
        first = math.ceil(end / self.update_freq - 1e-9) * self.update_freq
        return first < (epoch + 1) * self._steps

    # Not at the end of a step: Keras would wait for every single one.
    def on_train_batch_begin(self, batch, logs=None):
        if self.update_freq == "epoch":
            return
        # `batch` jumps where several steps are one execution.
        before, self._steps_done = self._steps_done, batch
        if self._steps is None or self._frozen:
            return  # A dataset of unknown length: known after one epoch.
        if batch >= self._steps:
            return  # JAX begins this one, and then finds no data.
        start = self._epoch * self._steps
        crossed = (start + batch) // self.update_freq
        if crossed > (start + before) // self.update_freq:
            total = self._epochs() * self._steps
            self._update((start + batch) / total)

    def on_epoch_end(self, epoch, logs=None):
        if self._steps_done:
            begun = self._steps_done + super().model.steps_per_execution
            # The last one begun may have found no data.
            counted = self._iterations() - self._iterations_before
            is_right = self._steps_done <= counted <= begun
            self._steps = counted if is_right else begun
        if not self._frozen:
            self._update_at_end_of(epoch)
        if self._frozen:
            self._apply_masks()
        if logs is not None:
            logs["sparsity"] = sparsity(self.model)

    def on_train_end(self, logs=None):
        if self._epoch is None:
            return
        if self._frozen:
            # An optimizer with `use_ema=True` has just set averages, of times
            # before the freeze too.
            self._apply_masks()
            self._warn_of_earlier_weights()
            return
        final = self.schedule(schedules.end(self.schedule))
        warnings.warn(
            f"Training ended at {self._progress:.3g} of the planned "
            f"{self._epochs()} epochs, before the pruning schedule ended at "
            f"{schedules.end(self.schedule):.3g}. The masks are not final: "
            f"the sparsity is {sparsity(self.model):.3g}, the schedule ends "
            f"at {final:.3g}. Train longer, or let the schedule end sooner.",
            stacklevel=2,
        )

    def _warn_of_earlier_weights(self):
        now = masked_share(self.model)
        if now < self._final_share - 1e-6:
            warnings.warn(
                "The model was given back the weights and masks of an earlier "
                f"epoch: its sparsity is {now:.3g}, and was "
                f"{self._final_share:.3g}. Epochs before the masks were "
                "final are no fair rivals; let the callback see the others "
                "only: `kprune.OnceFrozen(keras.callbacks.EarlyStopping(...), "
                "scheduler)`.",
                stacklevel=2,
            )

    def _update_at_end_of(self, epoch):
        # The last epoch trains under the final masks.
        is_last_chance = epoch == self._epochs() - 2
        self._update((epoch + 1) / self._epochs(), is_last_chance)

    def _update(self, progress: float, is_last_chance: bool = False) -> None:
        self._progress = progress
        ends = self._reached_end(progress) or is_last_chance
        if ends:
            progress = max(progress, schedules.end(self.schedule))
        value = self.schedule(progress)
        self._pruner.update(self.model, value)
        if ends:
            self._freeze()

    def _freeze(self) -> None:
        self._frozen = True
        self._apply_masks()
        self._final_share = masked_share(self.model)

    def _reached_end(self, progress: float) -> bool:
        # A progress such as 7 / 10 may be a rounding error short of the end.
        return progress >= schedules.end(self.schedule) - 1e-9

    def _epochs(self) -> int:
        return self.params["epochs"]

    def _apply_masks(self) -> None:
        for layer in trainable_layers(self.model):
            layer.apply_masks()


class OnceFrozen(keras.callbacks.Callback):
    """Shows another callback only the epochs that trained under final masks.

    For callbacks that look for the best epoch: an early one, still dense, is
    often better than all that are pruned, and would be kept in their place.
    With two or more epochs the last one always counts.

    Args:
        callback: A Keras callback that acts at the ends of epochs, such as
            `keras.callbacks.ModelCheckpoint`, `EarlyStopping` or
            `ReduceLROnPlateau`.
        scheduler: The `PruningScheduler` of the same training, which is in
            the list of callbacks too, in any order.

    Raises:
        ValueError: If the arguments are not such callbacks.

    Example:

    ```python
    scheduler = kprune.PruningScheduler(0.8)
    best = keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True)
    model.fit(
        x, y, epochs=10, validation_split=0.1,
        callbacks=[scheduler, kprune.OnceFrozen(best, scheduler)],
    )
    ```
    """

    def __init__(
        self, callback: keras.callbacks.Callback, scheduler: PruningScheduler
    ):
        super().__init__()
        if not isinstance(callback, keras.callbacks.Callback) or not isinstance(
            scheduler, PruningScheduler
        ):
            raise ValueError(
                "`OnceFrozen(callback, scheduler)` takes a Keras callback and "
                "the `PruningScheduler` of the training. "
                f"Received: callback={callback!r}, scheduler={scheduler!r}"
            )
        if getattr(callback, "save_freq", "epoch") != "epoch":
            raise ValueError(
                "`OnceFrozen` shows a callback the ends of epochs, not steps, "
                f"and {type(callback).__name__} would never save. Leave out "
                f"its `save_freq`. Received: save_freq={callback.save_freq!r}"
            )
        self.callback = callback
        self.scheduler = scheduler
        self._counts = False

    def set_params(self, params):
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model):
        super().set_model(model)
        self.callback.set_model(model)

    def on_train_begin(self, logs=None):
        self.callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        # What freezes at the end of an epoch was not validated in it.
        self._counts = self.scheduler.is_frozen
        if self._counts:
            self.callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self._counts:
            self.callback.on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        self.callback.on_train_end(logs)
        if not self._counts:
            warnings.warn(
                f"`OnceFrozen` showed {type(self.callback).__name__} no epoch: "
                "none trained under final masks. Pass its scheduler to `fit` "
                "too, and train for two or more epochs.",
                stacklevel=2,
            )


def _is_step_count(value) -> bool:
    is_integer = isinstance(value, numbers.Integral)
    return is_integer and not isinstance(value, bool) and value > 0
