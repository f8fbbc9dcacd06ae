"""The score by each layer alone."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.prunable import prunable_weights

X = np.random.default_rng(0).normal(size=(64, 6, 6, 2)).astype("float32")


def _residual():
    """Two layers that lose their filters together, and two more."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    y = layers.Conv2D(8, 3, padding="same", name="second")(layers.ReLU()(x))
    x = layers.Add()([x, y])
    x = layers.Conv2D(10, 3, name="third", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(3, name="logits")(x)
    return kprune.make_prunable(keras.Model(inputs, outputs, name="net"))


def _dense():
    """Kernels of 100 and 300 weights."""
    return keras.Sequential(
        [
            keras.Input((10,)),
            kprune.PrunableDense(10, name="first"),
            kprune.PrunableDense(30, name="second"),
        ],
        name="two",
    )


def _state(model):
    return [np.copy(ops.convert_to_numpy(v)) for v in model.variables]


def _nearness(model):
    """A score: how near the outputs are to what the dense model computes."""
    dense = ops.convert_to_numpy(model(X))

    def score(model):
        return -float(np.mean((ops.convert_to_numpy(model(X)) - dense) ** 2))

    return score


def _zeros(model):
    """A score that needs no data: which weights count."""
    first, second = (np.mean(w.masked() != 0) for w in prunable_weights(model))
    return first + 3 * second


class _Counted:
    """A score that counts its calls, and stops after some."""

    def __init__(self, score, until=None):
        self.score, self.until, self.calls = score, until, 0

    def __call__(self, model):
        if self.calls == self.until:
            raise RuntimeError("the power went")
        self.calls += 1
        return self.score(model)


def test_each_layer_or_class_of_filters_is_pruned_alone():
    model = _residual()
    score = _Counted(_nearness(model))
    # Masks that are there neither count nor get lost.
    kprune.prune(model, 0.3)
    before = _state(model)
    found = kprune.sensitivity(
        model, score, sparsities=[0.5, 0.25], granularity="filter"
    )
    for now, then in zip(_state(model), before):
        np.testing.assert_array_equal(now, then)
    assert score.calls == 5
    assert list(found.scores) == ["first and second", "third"]
    assert found.filters == ("first and second", "third")
    assert found.dense == 0.0 and found.sparsities == [0.25, 0.5]
    for name, alone in [
        ("first and second", {"first": 0.5, "third": 0.0}),
        ("third", {"first": 0.0, "third": 0.5}),
    ]:
        by_hand = kprune.prune(
            _copy(model), 0.5, granularity="filter", allocation=alone
        )
        assert found.scores[name][0.5] == score(by_hand) < 0


def _copy(model):
    """The same weights, without masks."""
    copy = _residual()
    for to, of in zip(copy.variables, model.variables):
        if to.dtype != "bool":
            to.assign(ops.convert_to_numpy(of))
    return copy


def test_filters_of_some_layers_and_weights_of_others():
    model = _residual()
    found = kprune.sensitivity(model, _nearness(model), sparsities=[0.5])
    assert list(found.scores) == ["first and second", "third", "logits"]
    assert found.filters == ("first and second", "third")
    text = str(found)
    assert (
        "first and second" in text
        and f"{found.scores['third'][0.5]:.4g}" in text
    )
    told = json.loads(json.dumps(found.to_dict()))
    assert told["sparsities"] == [0.5] and told["dense"] == 0.0
    assert told["layers"][2] == {
        "name": "logits",
        "filters": False,
        "scores": [found.scores["logits"][0.5]],
    }
    # All of it goes by the one allocation.
    kprune.prune(model, 0.5, allocation=found.allocation())
    kept = {
        w.layer.name: w.outputs_left(ops.convert_to_numpy(w.mask)).sum()
        for w in prunable_weights(model)
    }
    assert kept["first"] == kept["second"]
    assert kept["first"] + kept["third"] == 9


def test_what_stays_is_fitted_before_the_score():
    model = _residual()
    score, before = _nearness(model), _state(model)
    arguments = {"sparsities": [0.5], "granularity": "filter"}
    plain = kprune.sensitivity(model, score, **arguments)
    fitted = kprune.sensitivity(
        model, score, data=X, reconstruct=True, **arguments
    )
    for now, then in zip(_state(model), before):
        np.testing.assert_array_equal(now, then)
    for name in plain.scores:
        assert plain.scores[name][0.5] < fitted.scores[name][0.5] < 0
    with pytest.raises(ValueError, match="Pass them as `data=`"):
        kprune.sensitivity(model, score, reconstruct=True)


def test_a_score_that_fails_leaves_the_model_as_it_was():
    model = kprune.prune(_dense(), 0.2)
    before = _state(model)

    def spoil(model):
        for weight in prunable_weights(model):
            weight.variable.assign(weight.value() + 1)
        return 1.0

    with pytest.raises(RuntimeError, match="the power went"):
        kprune.sensitivity(model, _Counted(spoil, until=2))
    for now, then in zip(_state(model), before):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("returned", [np.nan, np.inf, None, [0.5], "0.5", True])
def test_a_score_that_is_no_number(returned):
    model = kprune.prune(_dense(), 0.2)
    before = _state(model)

    def score(model):
        return returned if kprune.sparsity(model) > 0.1 else 1.0

    with pytest.raises(ValueError, match="'first' at a sparsity of 0.9"):
        kprune.sensitivity(model, score, sparsities=[0.9])
    for now, then in zip(_state(model), before):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"score": 0.5}, "`score` must be a callable"),
        ({"sparsities": []}, "at least one number in"),
        ({"sparsities": [0.5, 1.0]}, "at least one number in"),
        ({"sparsities": [0.0]}, "at least one number in"),
        ({"sparsities": 0.5}, "at least one number in"),
        ({"criterion": "taylor"}, "Pass `data=`"),
        ({"model": "net.keras"}, "load it first"),
        (
            {"model": keras.Sequential([kprune.PrunableDense(2)])},
            "is not built",
        ),
        (
            {"model": keras.Sequential([keras.Input((2,)), layers.Dense(2)])},
            "no prunable layers",
        ),
    ],
)
def test_what_is_refused(arguments, message):
    arguments = {"model": _dense(), "score": _zeros, **arguments}
    with pytest.raises(ValueError, match=message):
        kprune.sensitivity(**arguments)


def test_an_interrupted_measurement_goes_on(tmp_path):
    model, path = _dense(), tmp_path / "new" / "scores.json"
    whole = kprune.sensitivity(model, _zeros, sparsities=[0.5, 0.9])
    with pytest.raises(RuntimeError, match="the power went"):
        kprune.sensitivity(
            model, _Counted(_zeros, 2), sparsities=[0.5, 0.9], path=path
        )
    rest = _Counted(_zeros)
    found = kprune.sensitivity(model, rest, sparsities=[0.5, 0.9], path=path)
    assert found == whole and rest.calls == 3
    # More sparsities can be asked for.
    more = _Counted(_zeros)
    kprune.sensitivity(model, more, sparsities=[0.5, 0.7], path=path)
    assert more.calls == 2
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]


def test_files_of_something_else_are_refused(tmp_path):
    model, path = _dense(), tmp_path / "scores.json"
    kprune.sensitivity(model, _zeros, sparsities=[0.5], path=path)
    written = path.read_bytes()
    with pytest.raises(ValueError, match="another `criterion` and `data`,"):
        kprune.sensitivity(
            model, _zeros, path=path, criterion="wanda", data=np.ones((4, 10))
        )
    with pytest.raises(ValueError, match="another `granularity`,"):
        kprune.sensitivity(model, _zeros, path=path, granularity="nm")
    with pytest.raises(ValueError, match="another `model`,"):
        kprune.sensitivity(_dense(), _zeros, path=path)
    assert path.read_bytes() == written
    for content in ("", "[]", '{"kind": "other"}', '{"scores": 1}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="holds no scores of"):
            kprune.sensitivity(model, _zeros, path=path)
        assert path.read_text() == content


def _found(scores, filters=(), dense=1.0):
    return kprune.Sensitivity("two", dense, scores, filters)


@pytest.mark.parametrize("count", [1, 50])
def test_the_plot_shows_scores_and_legible_names(count, tmp_path):
    name = "a_layer_with_quite_a_long_name_{0} and another_of_them_{0}"
    scores = {
        name.format(index): {0.25: 0.9, 0.5: 0.8 - index / 100}
        for index in range(count)
    }
    figure = _found(scores).plot()
    heat, curves = figure.axes[:2]
    np.testing.assert_allclose(
        np.asarray(heat.images[0].get_array())[-1], [0.1, 0.19 + count / 100]
    )
    assert list(curves.lines[0].get_ydata()) == [1.0, 0.9, 0.8]
    figure.savefig(tmp_path / "figure.png")
    labels = heat.get_yticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) == count
    for index, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= heat.bbox.x0
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
    with pytest.raises(ValueError, match="was pruned, so there is no"):
        _found({}).plot()
    with pytest.raises(ValueError, match="plots.sensitivity` draws"):
        kprune.plots.sensitivity(scores)
