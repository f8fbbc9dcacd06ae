"""Plots of what was pruned. They need matplotlib: `kprune[plots]`."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from kprune.layers import PrunableLayer
from kprune.measuring.pruning_report import PruningReport
from kprune.sensitivity_results import Sensitivity
from kprune.weights import masked_value, to_numpy

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from kprune.searching.results import SearchResult


def mask(
    layer: PrunableLayer,
    name: str = "kernel",
    *,
    figure: "Figure | SubFigure | None" = None,
) -> "Figure | SubFigure":
    """Draws a weight, its mask and the product of both, side by side.

    One row of an image is one input, one column one unit: of a weight with
    more than two axes all but the last are flattened. White is zero; the
    colors of the highest one percent of the magnitudes are the same.

    Once the scheduler has frozen the masks the stored weight is zero where it
    is masked, so weight and product are the same; after `kprune.prune` they
    are not.

    Args:
        layer: A built prunable layer.
        name: String. Which of `layer.masks` to draw.
        figure: `matplotlib.figure.Figure` or `SubFigure` to draw in. `None`
            makes a new one.

    Returns:
        The `matplotlib.figure.Figure` (or what was passed as `figure`).

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `layer` is no prunable layer, is not built, or has no
            mask of that name.

    Example:

    ```python
    layer = model.get_layer("hidden")
    kprune.plots.mask(layer).savefig("hidden.png")
    ```
    """
    if not isinstance(layer, PrunableLayer):
        raise ValueError(
            "`plots.mask` draws a prunable layer, such as "
            "`kprune.PrunableDense(64)`. Received: "
            f"layer={layer!r} (of type {type(layer).__name__})"
        )
    if not layer.built:
        raise ValueError(
            f"Layer '{layer.name}' has no weights yet, so there is nothing to "
            "draw. Call it, or its model, on data first."
        )
    if name not in layer.masks:
        raise ValueError(
            f"Layer '{layer.name}' has no mask of that name. Expected one of "
            f"{sorted(layer.masks)}. Received: name={name!r}"
        )
    if figure is None:
        figure = _figure(figsize=(9, 4.5))
    variable, kept = layer.maskable[name], layer.masks[name]
    weight = _as_matrix(to_numpy(variable))
    product = _as_matrix(masked_value(variable, kept))
    kept = _as_matrix(to_numpy(kept))

    sparsity = 1 - kept.mean()
    titles = ("weight", f"mask, sparsity {sparsity:.1%}", "weight * mask")
    limit = _color_limit(weight)
    colors = {"cmap": "RdBu", "vmin": -limit, "vmax": limit}
    grays = {"cmap": "gray_r", "vmin": 0, "vmax": 1}
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for axis, title, matrix, look in zip(
        axes, titles, (weight, kept, product), (colors, grays, colors)
    ):
        axis.imshow(matrix, aspect="auto", interpolation="nearest", **look)
        axis.set_title(title)
        axis.set_xlabel("unit")
        for side in (axis.xaxis, axis.yaxis):
            side.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes[0].set_ylabel("input")
    figure.colorbar(
        axes[0].images[0],
        ax=list(axes),
        label="value",
        fraction=0.05,
        extend="both",
    )
    shape = tuple(variable.shape)
    figure.suptitle(_in_lines(f"{name} of '{layer.layer.name}', shape {shape}"))
    return figure


def sparsity(
    report: PruningReport, *, figure: "Figure | SubFigure | None" = None
) -> "Figure | SubFigure":
    """Draws the sparsity of each layer as a bar, that of all as a line.

    Args:
        report: What `kprune.report(model)` returns.
        figure: `matplotlib.figure.Figure` or `SubFigure` to draw in. `None`
            makes a new one.

    Returns:
        The `matplotlib.figure.Figure` (or what was passed as `figure`).

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `report` is no report, or no layer in it has kernels.

    Example:

    ```python
    kprune.plots.sparsity(kprune.report(model)).savefig("sparsity.png")
    ```
    """
    if not isinstance(report, PruningReport):
        raise ValueError(
            "`plots.sparsity` draws what `kprune.report(model)` returns. "
            f"Received: report={report!r} (of type {type(report).__name__})"
        )
    rows = [layer for layer in report.layers if layer.weights]
    if not rows:
        raise ValueError(
            f"No layer of model '{report.model}' has kernels, so there is no "
            "sparsity to draw."
        )
    if figure is None:
        figure = _figure(figsize=(8, 1.5 + 0.35 * len(rows)))
    axis = figure.subplots()
    places, size = range(len(rows)), _font_size(figure, len(rows))
    axis.barh(places, [layer.sparsity for layer in rows])
    axis.axvline(report.sparsity, color="0.3", linestyle="--")
    axis.set_yticks(places, [layer.name for layer in rows], fontsize=size)
    # Beside the bars, so that the axis ends where sparsity does.
    counts = axis.secondary_yaxis("right")
    counts.set_yticks(
        places,
        [f"{layer.zeros:,} of {layer.weights:,}" for layer in rows],
        fontsize=size,
    )
    counts.tick_params(length=0)
    axis.set_ylim(len(rows) - 0.5, -0.5)  # The first layer comes first.
    axis.set_xlim(0, 1)
    axis.spines["top"].set_visible(False)
    axis.set_xlabel("sparsity (fraction of zeros)")
    figure.suptitle(
        _in_lines(
            f"Pruning of '{report.model}', {report.sparsity:.1%} in all "
            "(dashed)"
        )
    )
    return figure


def sensitivity(
    found: Sensitivity, *, figure: "Figure | SubFigure | None" = None
) -> "Figure | SubFigure":
    """Draws what the score loses by each layer: a heat map, and curves.

    The names of the layers have the colors of their curves.

    Args:
        found: What `kprune.sensitivity(model, score)` returns.
        figure: `matplotlib.figure.Figure` or `SubFigure` to draw in. `None`
            makes a new one.

    Returns:
        The `matplotlib.figure.Figure` (or what was passed as `figure`).

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `found` is something else, or holds no layers.

    Example:

    ```python
    kprune.sensitivity(model, score).plot().savefig("sensitivity.png")
    ```
    """
    if not isinstance(found, Sensitivity):
        raise ValueError(
            "`plots.sensitivity` draws what `kprune.sensitivity(model, score)` "
            f"returns. Received: {found!r} (of type {type(found).__name__})"
        )
    names, sparsities = list(found.scores), found.sparsities
    if not names:
        raise ValueError(
            f"No layer of model '{found.model}' was pruned, so there is no "
            "sensitivity to draw."
        )
    if figure is None:
        figure = _figure(figsize=(11, 2 + 0.22 * max(len(names), 12)))
    scores = np.array([[found.scores[n][s] for s in sparsities] for n in names])
    heat, curves = figure.subplots(1, 2)
    image = heat.imshow(found.dense - scores, aspect="auto", cmap="YlOrRd")
    figure.colorbar(image, ax=heat, label="loss of score")
    heat.set_xticks(range(len(sparsities)), [f"{s:.3g}" for s in sparsities])
    size = _font_size(figure, len(names))
    heat.set_yticks(range(len(names)), list(map(_short, names)), fontsize=size)
    heat.set_xlabel("sparsity of the layer")
    labels = heat.get_yticklabels()
    for label, row, place in zip(
        labels, scores, np.linspace(0, 0.85, len(names))
    ):
        # From the first layer to the last; the palest colors are left out.
        (line,) = curves.plot([0.0, *sparsities], [found.dense, *row], ".-")
        line.set_color(_color(place))
        label.set_color(line.get_color())
    curves.axhline(found.dense, color="0.3", linestyle="--")
    curves.set_xlim(0, 1)
    curves.set_xlabel("sparsity of the layer")
    curves.set_ylabel("score")
    figure.suptitle(
        _in_lines(
            f"Sensitivity of '{found.model}', score {found.dense:.4g} where "
            "nothing is pruned (dashed)"
        )
    )
    return figure


def _color(place: float):
    """A color of a palette, from dark to light."""
    import matplotlib

    return matplotlib.colormaps["plasma"](place)


def _short(name: str) -> str:
    """The name of a layer, in so many letters that plots have room."""
    return name if len(name) <= 32 else f"{name[:18]} ... {name[-9:]}"


def search(
    result: "SearchResult", *, figure: "Figure | SubFigure | None" = None
) -> "Figure | SubFigure":
    """Draws what `kprune.search` found: the score of each trial over its cost.

    The line is the front: of these models none is both smaller and better.
    The dashed one is the floor.

    Args:
        result: `kprune.SearchResult`.
        figure: `matplotlib.figure.Figure` or `SubFigure` to draw in. `None`
            makes a new one.

    Returns:
        The `matplotlib.figure.Figure` (or what was passed as `figure`).

    Raises:
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    kprune.plots.search(result).savefig("search.png")
    ```
    """
    if figure is None:
        figure = _figure(figsize=(7, 4.5))
    axis = figure.subplots()
    by_cost = sorted(
        (result.dense, *result.trials), key=lambda trial: trial.reached
    )
    front = by_cost[:1]
    for trial in by_cost[1:]:
        if trial.score > front[-1].score:
            front.append(trial)
    axis.plot(*_points(front), color="0.7", label="front")
    for trials, label, marker in (
        ([t for t in result.trials if t.holds], "holds", "o"),
        ([t for t in result.trials if not t.holds], "below", "x"),
        ([result.dense], "dense", "s"),
    ):
        errors = [trial.standard_error or 0.0 for trial in trials]
        axis.errorbar(*_points(trials), errors, fmt=marker, label=label)
    axis.plot(*_points([result.best]), "o", ms=14, mfc="none", label="best")
    axis.axhline(result.at_least, color="0.3", linestyle="--", label="floor")
    axis.set_xlabel(f"share of {result.minimize} that stays")
    axis.set_ylabel("score")
    axis.legend()
    figure.suptitle(_in_lines(f"Search on '{result.model.name}'"))
    return figure


def _points(trials) -> tuple[list[float], list[float]]:
    return [t.reached for t in trials], [t.score for t in trials]


def _figure(figsize: tuple[float, float]) -> "Figure":
    """A figure that belongs to no window, so that nobody has to close it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib, which is not installed. Install it with "
            '`pip install "kprune[plots]"`.'
        ) from error
    return Figure(figsize=figsize, layout="constrained")


def _font_size(figure, rows: int) -> float:
    """Points, so that as many names stand under each other."""
    # A quarter of the height is for what stands around the rows.
    height = 0.75 * 72 * figure.bbox.height / figure.dpi
    return min(10.0, height / rows / 1.2)


def _in_lines(title: str) -> str:
    return textwrap.fill(title, 70)


def _as_matrix(array: np.ndarray) -> np.ndarray:
    # float32, as matplotlib draws neither booleans nor bfloat16 in colors.
    return array.reshape(-1, array.shape[-1]).astype("float32")


def _color_limit(weight: np.ndarray) -> float:
    """A few large weights must not make all others look like zero."""
    magnitudes = np.abs(weight[weight != 0])
    return float(np.percentile(magnitudes, 99)) if magnitudes.size else 1.0
