"""Showing callbacks only the epochs that trained under final masks."""

import warnings

import keras

from kprune.callbacks import PruningScheduler


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
        is_callback = isinstance(callback, keras.callbacks.Callback)
        if not is_callback or not isinstance(scheduler, PruningScheduler):
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
        self._epoch: int | None = None
        self._counts = False

    def set_params(self, params: dict) -> None:
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self.callback.set_model(model)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        # What freezes at the end of an epoch was not validated in it.
        self._epoch = epoch
        self._counts = self.scheduler.is_frozen
        if self._counts:
            self.callback.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(
        self, batch: int, logs: dict | None = None
    ) -> None:
        # A scheduler that comes later in the list froze as the epoch began.
        if batch == 0 and not self._counts and self.scheduler.is_frozen:
            self._counts = True
            self.callback.on_epoch_begin(self._epoch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self._counts:
            self.callback.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        self.callback.on_train_end(logs)
        if not self._counts:
            warnings.warn(
                f"`OnceFrozen` showed {type(self.callback).__name__} no epoch: "
                "none trained under final masks. Pass its scheduler to `fit` "
                "too, and train for two or more epochs.",
                stacklevel=2,
            )
