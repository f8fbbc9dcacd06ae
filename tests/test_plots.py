import builtins
import math

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure

import kprune
from kprune import plots


@pytest.fixture
def model():
    """A pruned model with a convolution, two Dense layers and no training."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            kprune.PrunableConv2D(4, 3, name="conv"),
            keras.layers.Flatten(name="flatten"),
            kprune.PrunableDense(6, name="hidden"),
            kprune.PrunableDense(3, name="logits"),
        ],
        name="small",
    )
    return kprune.prune(model, 0.5)


def images(figure):
    return [
        np.asarray(axis.images[0].get_array())
        for axis in figure.axes
        if axis.images
    ]


def bars(figure):
    return [patch.get_width() for patch in figure.axes[0].patches]


def texts(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


def counts(figure):
    """What stands at the right of the bars."""
    (right,) = figure.axes[0].child_axes
    return texts(right)


def overlaps(figure, labels):
    """Which of the texts lie over another or leave the figure, once drawn."""
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    whole = figure.bbox
    return [
        label.get_text()
        for index, (label, box) in enumerate(zip(labels, boxes))
        if any(box.overlaps(other) for other in boxes[index + 1 :])
        or box.x0 < whole.x0
        or box.x1 > whole.x1
        or box.y0 < whole.y0
        or box.y1 > whole.y1
    ]


def test_mask_draws_weight_mask_and_product(model):
    layer = model.get_layer("hidden")
    kernel = keras.ops.convert_to_numpy(layer.layer.kernel)
    kept = keras.ops.convert_to_numpy(layer.masks["kernel"])
    weight, mask, product = images(plots.mask(layer))
    np.testing.assert_array_equal(weight, kernel)
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_array_equal(product, kernel * kept)
    assert not mask.all() and (weight != product).any()


def test_mask_flattens_all_axes_but_the_last(model):
    layer = model.get_layer("conv")
    kernel = keras.ops.convert_to_numpy(layer.layer.kernel)
    kept = keras.ops.convert_to_numpy(layer.masks["kernel"])
    weight, mask, product = images(plots.mask(layer))
    assert weight.shape == mask.shape == product.shape == (18, 4)
    np.testing.assert_array_equal(weight, kernel.reshape(18, 4))
    np.testing.assert_array_equal(mask, kept.reshape(18, 4))
    np.testing.assert_array_equal(product, (kernel * kept).reshape(18, 4))


def test_mask_draws_the_weight_that_is_named(model):
    layer = model.get_layer("conv")
    layer.layer.bias.assign([1.0, 2.0, 3.0, 4.0])
    kept = keras.ops.convert_to_numpy(layer.masks["bias"])
    figure = plots.mask(layer, "bias")
    weight, mask, product = images(figure)
    np.testing.assert_array_equal(weight, [[1, 2, 3, 4]])
    np.testing.assert_array_equal(mask, [kept])
    np.testing.assert_array_equal(product, [np.array([1, 2, 3, 4]) * kept])
    assert figure.get_suptitle() == "bias of 'conv', shape (4,)"


def test_mask_shares_one_color_scale_around_zero(model):
    figure = plots.mask(model.get_layer("hidden"))
    weight, mask, product = (a.images[0] for a in figure.axes if a.images)
    low, high = weight.get_clim()
    assert low == -high < 0
    assert product.get_clim() == (low, high)
    assert mask.get_clim() == (0, 1)


def test_mask_says_what_it_shows(model):
    figure = plots.mask(model.get_layer("logits"))
    assert figure.get_suptitle() == "kernel of 'logits', shape (6, 3)"
    titles = [axis.get_title() for axis in figure.axes if axis.images]
    assert titles == ["weight", "mask, sparsity 50.0%", "weight * mask"]
    assert figure.axes[0].get_ylabel() == "input"


def test_mask_draws_a_layer_of_zeros(model, tmp_path):
    layer = model.get_layer("logits")
    layer.layer.kernel.assign(np.zeros((6, 3)))
    figure = plots.mask(layer)
    figure.savefig(tmp_path / "zeros.png")
    assert not images(figure)[0].any()


def test_plots_draw_into_a_given_figure(model, tmp_path):
    whole = Figure(figsize=(9, 8), layout="constrained")
    top, bottom = whole.subfigures(2, 1)
    layer = model.get_layer("hidden")
    assert plots.mask(layer, figure=top) is top
    assert plots.sparsity(kprune.report(model), figure=bottom) is bottom
    whole.savefig(tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 0
    assert len(images(top)) == 3 and len(bars(bottom)) == 3


def test_sparsity_draws_one_bar_per_layer_with_kernels(model):
    report = kprune.report(model)
    figure = plots.sparsity(report)
    rows = [layer for layer in report.layers if layer.weights]
    assert bars(figure) == [layer.sparsity for layer in rows]
    assert texts(figure.axes[0]) == ["conv", "hidden", "logits"]
    assert figure.axes[0].yaxis_inverted()
    said = [f"{row.zeros:,} of {row.weights:,}" for row in rows]
    assert counts(figure) == said
    assert figure.axes[0].lines[0].get_xdata()[0] == report.sparsity


def test_axes_end_where_the_quantity_ends(model):
    kprune.prune(model, 0.97)
    (axis,) = plots.sparsity(kprune.report(model)).axes
    assert axis.get_xlim() == (0, 1)
    assert axis.get_ylim() == (2.5, -0.5)  # three layers
    assert all(0 <= tick <= 1 for tick in axis.get_xticks())
    for layer in (model.get_layer("conv"), model.layers[-1]):
        for name, variable in layer.maskable.items():
            figure = plots.mask(layer, name)
            columns = variable.shape[-1]
            rows = math.prod(variable.shape) // columns
            for axis in figure.axes[:3]:
                assert axis.get_xlim() == (-0.5, columns - 0.5)
                assert axis.get_ylim() == (rows - 0.5, -0.5)
                ticks = [*axis.get_xticks(), *axis.get_yticks()]
                assert all(float(tick).is_integer() for tick in ticks)


@pytest.mark.parametrize(
    "count, name, size",
    [
        (3, "block_of_a_long_name_" * 2, None),
        (3, "block_of_a_long_name_" * 2, (8, 4)),
        (40, "d", None),
        (40, "d", (8, 4)),
    ],
)
def test_names_and_titles_do_not_overlap(count, name, size):
    wrapped = [
        kprune.PrunableDense(keras.layers.Dense(4, name=f"{name}_{index}"))
        for index in range(count)
    ]
    model = keras.Sequential([keras.Input((4,)), *wrapped], name=name * 2)
    figure = size and Figure(figsize=size, layout="constrained")
    figure = plots.sparsity(kprune.report(model), figure=figure)
    (axis,) = figure.axes
    (right,) = axis.child_axes
    for labels in (
        axis.get_yticklabels(),
        right.get_yticklabels(),
        axis.get_xticklabels(),
    ):
        assert not overlaps(figure, labels)
    assert not overlaps(figure, figure.texts)
    figure = plots.mask(wrapped[0])
    titles = [axis.title for axis in figure.axes[:3]]
    assert not overlaps(figure, [*figure.texts, *titles])


def test_figures_are_saved(model, tmp_path):
    for name, figure in {
        "mask": plots.mask(model.get_layer("conv")),
        "sparsity": plots.sparsity(kprune.report(model)),
    }.items():
        path = tmp_path / f"{name}.png"
        figure.savefig(path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_mask_refuses_what_is_no_prunable_layer(model):
    with pytest.raises(ValueError, match=r"(?s)PrunableDense.*of type Dense"):
        plots.mask(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="has no weights yet"):
        plots.mask(kprune.PrunableDense(3))
    with pytest.raises(ValueError, match=r"\['bias', 'kernel'\].*'weights'"):
        plots.mask(model.get_layer("hidden"), "weights")


def test_sparsity_refuses_what_is_no_report(model):
    with pytest.raises(ValueError, match=r"kprune\.report\(model\)"):
        plots.sparsity(model)
    plain = keras.Sequential([keras.Input((3,)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match="has kernels"):
        plots.sparsity(kprune.report(plain))


def test_missing_matplotlib_is_named(model, monkeypatch):
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(f"No module named '{name}'")
        return real_import(name, *args, **kwargs)

    report = kprune.report(model)
    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    for draw in (
        lambda: plots.mask(model.get_layer("hidden")),
        lambda: plots.sparsity(report),
    ):
        with pytest.raises(ImportError, match=r'pip install "kprune\[plots\]"'):
            draw()
