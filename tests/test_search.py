"""The smallest model whose score holds is found, and no trial is lost."""

import errno
import json

import keras
import numpy as np
import pytest
from keras import layers

import kprune
from kprune.prunable import prunable_layers

X = np.random.default_rng(0).normal(size=(96, 6)).astype("float32")


@pytest.fixture(scope="module")
def model():
    """A hidden unit is 10 parameters; all of them and the biases are 403."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(40, activation="relu", name="hidden"),
            layers.Dense(3, name="logits"),
        ],
        name="net",
    )


@pytest.fixture(scope="module")
def found(model):
    return search(model)


def size(small):
    """A score that falls with the size."""
    return small.count_params()


def search(model, score=size, **options):
    arguments = {
        "at_least": 300,
        "minimize": "parameters",
        "granularity": "filter",
    }
    return kprune.search(model, score, **{**arguments, **options})


def masks(model):
    return [
        np.array(mask)
        for layer in prunable_layers(model)
        for mask in layer.masks.values()
    ]


def assert_same(arrays, others):
    assert len(arrays) == len(others) > 0
    for array, other in zip(arrays, others):
        np.testing.assert_array_equal(array, other)


def test_the_smallest_that_holds(model, found):
    assert found.best.score == found.best.parameters == 303
    assert found.best.macs == 30 * 9
    assert found.best.reached == 303 / 403 <= found.best.asked
    assert kprune.cost(kprune.strip(found.model)).parameters == 303
    assert found.dense.score == 403 and found.dense.reached == 1
    # None is tried twice, and no more once the next smaller does not hold.
    sizes = [trial.score for trial in found.trials]
    assert len(set(sizes)) == len(sizes) <= 6 and 293 in sizes
    for trial in found.trials:
        assert trial.holds == (trial.score >= 300)
        assert trial.standard_error is None and not trial.is_within_noise
    # By hand it is the same; the model that was passed is what it was.
    by_hand = kprune.make_prunable(model)
    kprune.prune(by_hand, found.budget, granularity="filter")
    assert_same(masks(by_hand), masks(found.model))
    assert model.count_params() == 403 and not prunable_layers(model)


def test_what_is_told(found):
    told = json.loads(json.dumps(found.to_dict()))
    assert told["budget"]["parameters"] == told["best"]["asked"]
    assert told["best"]["score"] == 303 and told["dense"]["score"] == 403
    assert len(told["trials"]) == len(found.trials)
    text = str(found)
    assert f"{len(found.trials)} of at most 8 trials" in text
    assert "dense" in text and "best" in text and "below the floor" in text


def test_what_stays_is_fitted(model):
    y = model.predict(X, verbose=0)

    def score(small):
        return -float(np.mean((small.predict(X, verbose=0) - y) ** 2))

    arguments = {"granularity": "filter", "data": X}
    result = search(
        model, score, at_least=-0.3 * np.var(y), trials=3, **arguments
    )
    by_hand = kprune.make_prunable(model)
    kprune.prune(by_hand, result.budget, reconstruct=True, **arguments)
    assert_same(masks(by_hand), masks(result.model))
    assert_same(by_hand.get_weights(), result.model.get_weights())
    unfitted = kprune.make_prunable(model)
    kprune.prune(unfitted, result.budget, granularity="filter")
    assert score(kprune.strip(unfitted)) < result.best.score


def test_bytes_of_a_file(model, tmp_path):
    result = search(
        model, at_least=10, minimize="bytes", format="keras", trials=2
    )
    exported = kprune.export(result.model, tmp_path / "small.keras")
    assert abs(exported.bytes / result.best.bytes - 1) < 0.01
    dense = kprune.export(model, tmp_path / "dense.keras").bytes
    assert abs(result.best.reached / (exported.bytes / dense) - 1) < 0.01
    assert result.budget.format == "keras"
    with pytest.raises(ValueError, match="No pruning makes the macs"):
        search(model, minimize="macs", granularity="unstructured")


def test_a_prunable_model_keeps_its_masks(model):
    model = kprune.make_prunable(
        model, where=lambda layer: layer.name == "hidden"
    )
    kprune.prune(model, 0.25, granularity="filter")
    before = masks(model)
    result = search(model, trials=2)
    assert_same(masks(model), before)
    # The dense model is that without masks, and no more layers are wrapped.
    assert result.dense.parameters == 403
    assert len(masks(result.model)) == len(before)


def test_training_each_trial(model):
    y = model.predict(X, verbose=0)
    begun = []

    def fit(trained, callbacks):
        begun.append(trained.get_weights())
        trained.compile("sgd", "mse")
        trained.fit(X, y, epochs=2, callbacks=callbacks, verbose=0)

    result = search(model, fit=fit, trials=2)
    assert len(begun) == 2
    assert_same(*begun)
    assert result.best.parameters == size(kprune.strip(result.model))
    assert not np.array_equal(result.model.get_weights()[0], begun[0][0])
    for broken in (
        lambda trained, callbacks: None,
        lambda trained, callbacks: fit(trained, []),
    ):
        with pytest.raises(ValueError, match="before the masks were final"):
            search(model, fit=broken)


def test_a_search_goes_on_where_it_was(model, found, tmp_path):
    folder = tmp_path / "new" / "trials"
    calls = []

    def score(small):
        calls.append(size(small))
        if len(calls) == 4:
            raise KeyError("the power is gone")
        return calls[-1]

    with pytest.raises(KeyError) as error:
        search(model, score, path=folder)
    (note,) = error.value.__notes__
    assert "in trial 3" in note and "call it again" in note
    kept = json.loads((folder / "trials.json").read_text())["trials"]
    assert len(kept) == 3 and kept[0]["score"] == 403
    resumed = search(model, score, path=folder)
    # None was made again.
    assert calls[:3] + calls[4:] == [
        trial.score for trial in (found.dense, *found.trials)
    ]
    assert_same(masks(resumed.model), masks(found.model))
    # Once more there is nothing left to do; the model is read.
    count = len(calls)
    again = search(model, score, path=folder)
    assert len(calls) == count and again.trials == resumed.trials
    assert_same(again.model.get_weights(), found.model.get_weights())
    assert len(list(folder.iterdir())) == 2
    # It is that search, and no other one.
    for other in ({"at_least": 200}, {"criterion": "random"}, {"data": X}):
        with pytest.raises(ValueError, match="another search: ") as error:
            search(model, path=folder, **other)
        assert next(iter(other)) in str(error.value)
    with pytest.raises(ValueError, match="another search: model="):
        search(keras.models.clone_model(model), path=folder)
    (folder / "trials.json").write_text('{"settings": {}, "tri')
    with pytest.raises(ValueError, match=r"'trials.json': .* Remove"):
        search(model, path=folder)
    with pytest.raises(ValueError, match="is no folder"):
        search(model, path=folder / "trials.json")


def test_a_full_disk_loses_nothing(model, found, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(keras.Model, "save_weights", full)
        with pytest.warns(UserWarning, match="No space left on device"):
            result = search(model, path=tmp_path)
    assert_same(masks(result.model), masks(found.model))
    # A row whose weights are missing is not written: it is made again.
    kept = json.loads((tmp_path / "trials.json").read_text())["trials"]
    assert not [row for row in kept[1:] if row["holds"]]


def test_noise_of_the_score(model):
    result = search(model, lambda small: (size(small), 20.0), trials=4)
    noisy = [trial for trial in result.trials if trial.is_within_noise]
    assert noisy == [t for t in result.trials if abs(t.score - 300) <= 20]
    assert result.best in noisy and result.best.standard_error == 20
    assert "within one standard error of the floor" in str(result)
    with pytest.warns(UserWarning, match="within one standard error"):
        search(model, lambda small: (size(small), 400.0), trials=2)


def test_floors_that_are_not_reached(model):
    calls = []

    def score(small):
        calls.append(small)
        return size(small)

    with pytest.raises(ValueError, match="The dense model does not reach"):
        search(model, score, at_least=404)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="best of 2 has a score of 303"):
        search(model, at_least=403, trials=2)


@pytest.mark.parametrize(
    "returned", [np.nan, (0.9, np.nan), (0.9, -1.0), [0.9, 0.1], None, "good"]
)
def test_scores_that_are_no_numbers(model, returned):
    with pytest.raises(ValueError, match="`score` must return a number"):
        search(model, lambda small: returned)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at_least": np.nan}, "at_least"),
        ({"at_least": "0.9"}, "at_least"),
        ({"minimize": "flops"}, "'macs'"),
        ({"trials": 0}, "trials"),
        ({"score": 0.9}, "score"),
        ({"fit": 3}, "fit"),
        ({"criterion": "size"}, "criterion"),
        ({"criterion": "wanda"}, "Pass `data=`"),
        ({"minimize": "latency", "format": "onnx"}, "latency"),
    ],
)
def test_bad_input(model, options, words):
    with pytest.raises(ValueError, match=words):
        search(model, **options)


def test_plot(found):
    (axis,) = found.plot().axes
    assert axis.get_xlabel() == "share of parameters that stays"
    drawn = {line.get_label(): line.get_xydata() for line in axis.get_lines()}
    # Scores fall with the cost here, so that all lie on the front.
    rows = sorted((t.reached, t.score) for t in (found.dense, *found.trials))
    np.testing.assert_allclose(drawn["front"], rows)
    np.testing.assert_allclose(drawn["floor"][:, 1], 300)
    best = (found.best.reached, found.best.score)
    np.testing.assert_allclose(drawn["best"], [best])
