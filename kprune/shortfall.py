"""Says so where less was pruned than was asked for."""

import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from kprune import granularities, schedules
from kprune.budgets import Budget
from kprune.granularities import Granularity
from kprune.layers import PrunableLayer
from kprune.received import is_real
from kprune.weights import to_numpy


def warn_if_nothing_went(
    layers: Sequence[PrunableLayer],
    sparsity: float,
    granularity: Granularity | str | None = None,
    stacklevel: int = 3,
) -> None:
    """Warns if nothing was masked, in all layers or by a pattern.

    Args:
        layers: The layers whose masks were set.
        sparsity: Float in `[0, 1)`. What was asked for.
        granularity: As `kprune.prune` takes it.
        stacklevel: Integer. As `warnings.warn` takes it.
    """
    whole = [layer for layer in layers if sparsity and _is_whole(layer)]
    patterns: dict[int, tuple[Granularity, list[str]]] = {}
    for layer in whole:
        member = granularities.get(
            layer.granularity if granularity is None else granularity
        )
        patterns.setdefault(id(member), (member, []))[1].append(
            layer.layer.name
        )
    for member, names in patterns.values():
        # A pattern such as N:M has a sparsity of its own, and no lower one.
        least = getattr(member, "sparsity", None)
        if is_real(least) and sparsity < least:
            warnings.warn(
                f"Nothing was pruned in layers {names} at a sparsity of "
                f"{sparsity:.3g}: {member!r} has a sparsity of its own, "
                f"{least:.3g}, and keeps all below it. Ask for that much, or "
                "for another granularity.",
                stacklevel=stacklevel,
            )
            return
    if whole and len(whole) == len(layers):
        names = [layer.layer.name for layer in layers]
        warnings.warn(
            f"Nothing was pruned at a sparsity of {sparsity:.3g}: in none of "
            f"the layers {names} is that a whole weight, block or group of "
            "filters. Filters that have to go together are one group, and one "
            "group always stays; "
            "`print(kprune.structure.channel_graph(model))` lists them. Ask "
            "for more, or prune single weights with "
            "`granularity='unstructured'`.",
            stacklevel=stacklevel,
        )


def _is_whole(layer: PrunableLayer) -> bool:
    masks = layer.masks
    return all(to_numpy(masks[name]).all() for name in layer.kernels)


def masked(layers: Iterable[PrunableLayer]) -> list[tuple]:
    """What is masked now.

    Args:
        layers: Prunable layers.

    Returns:
        List of `(mask, bits)`: the mask of each kernel, and its zeros, 8 a
        byte, `None` where it has none.
    """
    found = []
    for layer in layers:
        masks = layer.masks
        for name in layer.kernels:
            kept = to_numpy(masks[name])
            bits = None if kept.all() else np.packbits(~kept)
            found.append((masks[name], bits))
    return found


def warn_if_some_came_back(before: list[tuple], stacklevel: int = 3) -> None:
    """Warns if more is masked than before, and yet some of that came back.

    Args:
        before: What `masked` returned before the masks were set.
        stacklevel: Integer. As `warnings.warn` takes it.
    """
    if all(bits is None for _, bits in before):
        return
    grown = back = 0
    for mask, bits in before:
        kept = to_numpy(mask)
        grown += kept.size - int(np.count_nonzero(kept))
        if bits is not None:
            gone = np.unpackbits(bits, count=kept.size).astype(bool)
            grown -= int(np.count_nonzero(gone))
            back += int(np.count_nonzero(kept[gone.reshape(kept.shape)]))
    if back and grown > 0:
        warnings.warn(
            "More weights are masked now, and yet some of those that were "
            "masked count again: `kprune.prune` ranks all stored values anew. "
            "What is to stay away, as in a lottery ticket whose weights are "
            "set back, is pruned for good by "
            "`kprune.Pruner(sparsity).update(model, 1.0)` in place of "
            "`kprune.prune`. For masks that grow while a model trains there "
            "is `kprune.Pruner(schedule).update(model, progress)`.",
            stacklevel=stacklevel,
        )


def warn_of_early_end(
    schedule: schedules.Schedule, progress: float, epochs: int, share: float
) -> None:
    """Warns that a training ended before its schedule did.

    Args:
        schedule: The schedule.
        progress: Float. That of the last update.
        epochs: Integer. The epochs that were planned.
        share: Float. The fraction of the prunable weights that is masked.
    """
    end = schedules.end(schedule)
    warnings.warn(
        f"Training ended at {progress:.3g} of the planned {epochs} epochs, "
        f"before the pruning schedule ended at {end:.3g}. The masks are not "
        f"final: {share:.3g} of the prunable weights are masked, and the "
        f"schedule ends at {_said(schedule(end))}. Train longer, or let the "
        "schedule end sooner.",
        stacklevel=3,
    )


def _said(target: float | Budget) -> str:
    return str(target) if isinstance(target, Budget) else f"{target:.3g}"


def warn_of_earlier_weights(now: float, final: float) -> None:
    """Warns if another callback gave back masks of before the freeze.

    Args:
        now: Float. The fraction that is masked.
        final: Float. The fraction that was masked at the freeze.
    """
    if now < final - 1e-6:
        warnings.warn(
            "The model was given back the weights and masks of an earlier "
            f"epoch: {now:.3g} of its prunable weights are masked, and "
            f"{final:.3g} were. Epochs before the masks were final are no fair "
            "rivals; let the callback see the others only: "
            "`kprune.OnceFrozen(keras.callbacks.EarlyStopping(...), "
            "scheduler)`.",
            stacklevel=3,
        )


def warn_of_masks_that_never_trained(untrained: float, final: float) -> None:
    """Warns if the last epoch masked something after its last step.

    Args:
        untrained: Float. The fraction that it masked.
        final: Float. The fraction that is masked.
    """
    if untrained > 1e-6:
        warnings.warn(
            "The model was pruned after the last step of the training, and "
            "never trained under its final masks: of its prunable weights "
            f"{final:.3g} are masked, {untrained:.3g} by the end of the last "
            "epoch. Train for two or more epochs, and on after the schedule's "
            "end, in one call of `fit`: each call is a whole training. Or let "
            "masks grow within the epoch, with "
            "`PruningScheduler(..., update_freq=steps)` and fewer steps than "
            "it has. Between calls of one epoch each prune with "
            "`kprune.Pruner`.",
            stacklevel=3,
        )
