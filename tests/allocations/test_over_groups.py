"""One threshold over whole groups of filters."""

import keras
import numpy as np
import pytest
from keras import layers
from models import numpy

import kprune
from kprune.allocations import Capped, Global
from kprune.ranking import removed_count


def _plain():
    """88 filters that can go: 16, 64 and 8, of very different scales."""
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(16, 3, name="first"),
            layers.Conv2D(64, 3, name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(8, name="third"),
            layers.Dense(5, name="last"),
        ]
    )
    generator = np.random.default_rng(0)
    scales = {"first": 0.1, "second": 50, "third": 1, "last": 1}
    for name, scale in scales.items():
        kernel = model.get_layer(name).kernel
        filters = scale * generator.lognormal(0, 0.2, size=kernel.shape[-1])
        kernel.assign(filters * generator.normal(size=kernel.shape))
    return kprune.make_prunable(model)


def _gone(model, *names):
    """How many filters of each layer are gone."""
    counts = []
    for name in names:
        mask = numpy(model.get_layer(name).masks["kernel"])
        kept = mask.any(axis=tuple(range(mask.ndim - 1)))
        counts.append(int(np.sum(~kept)))
    return counts


NAMES = ("first", "second", "third")
SPARSITIES = [0.0, 0.01, 0.1, 0.29, 0.5, 0.75, 0.9, 0.96, 0.99]


@pytest.mark.parametrize("normalize", ["mean", "max", "l2", "standard", None])
@pytest.mark.parametrize("per_mac", [False, True])
def test_of_88_filters_44_go_at_a_half(normalize, per_mac):
    model = _plain()
    allocation = Global(normalize=normalize, per_mac=per_mac)
    kprune.prune(model, 0.5, granularity="filter", allocation=allocation)
    counts = _gone(model, *NAMES)
    assert sum(counts) == 44
    # It is a ranking over the layers: the shares differ.
    assert counts != [8, 32, 4]
    report = kprune.report(model)
    small = kprune.strip(model)
    units = [small.get_layer(n).get_weights()[0].shape[-1] for n in NAMES]
    assert units == [16 - counts[0], 64 - counts[1], 8 - counts[2]], report


@pytest.mark.filterwarnings("ignore:Nothing was pruned")
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_count_is_exact(sparsity):
    model = _plain()
    kprune.prune(model, sparsity, granularity="filter", allocation="global")
    counts = _gone(model, *NAMES)
    # One filter of each of three layers stays.
    assert sum(counts) == min(removed_count(88, sparsity), 85)
    assert all(np.array(counts) < (16, 64, 8))


@pytest.mark.filterwarnings("ignore:Nothing was pruned")
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_count_is_exact_with_branches_and_residuals(sparsity):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(16, 3, padding="same", name="inner")(x)
    x = layers.Add()([x, layers.Conv2D(16, 1, name="outer")(y)])
    wide = layers.Conv2D(24, 1, name="wide")(x)
    parts = keras.ops.split(wide, 3, axis=-1)
    heads = [layers.Conv2D(2, 1)(part) for part in parts]
    model = kprune.make_prunable(keras.Model(inputs, heads))
    kprune.prune(model, sparsity, granularity="filter", allocation="global")
    stem, outer, inner, wide = _gone(model, "stem", "outer", "inner", "wide")
    assert stem == outer
    # One of each residual class stays, and one of each part of the split.
    assert stem + inner + wide == min(removed_count(56, sparsity), 56 - 5)
    mask = numpy(model.get_layer("wide").masks["kernel"]).any((0, 1, 2))
    assert mask.reshape(3, 8).any(axis=1).all()


def test_what_is_gone_for_good_counts_and_stays_gone():
    model = _plain()
    updater = kprune.Pruner(
        lambda progress: 0.3 + 0.4 * progress,
        granularity="filter",
        allocation="global",
    )
    before = None
    for progress in (0.0, 0.5, 1.0):
        updater.update(model, progress)
        now = [numpy(model.get_layer(name).masks["kernel"]) for name in NAMES]
        if before is not None:
            for name in NAMES:
                model.get_layer(name).apply_masks()
        before = now
    assert sum(_gone(model, *NAMES)) == removed_count(88, 0.7)


def _scores(*classes):
    return [np.array(scores, float) for scores in classes]


def _over(allocation, scores, sparsity, least=(1, 1), macs=(1, 1)):
    shares = allocation.over_groups(scores, sparsity, least=least, macs=macs)
    return [share * len(s) for share, s in zip(shares, scores)]


def test_normalizations_in_numbers():
    # Means 2.5 and 25, maxima 4 and 40; (s - mean) / std in the same order.
    scores = _scores([1, 2, 3, 4], [24, 25, 11, 40])
    assert _over(Global(None), scores, 0.5) == [3, 1]
    # 0.4 0.8 1.2 1.6 and 0.96 1 0.44 1.6.
    assert _over(Global("mean"), scores, 0.5) == [2, 2]
    # 0.25 0.5 0.75 1 and 0.6 0.625 0.275 1.
    assert _over(Global("max"), scores, 3 / 8) == [2, 1]
    # 0.183 0.365 0.548 0.730 and 0.444 0.463 0.204 0.740.
    assert _over(Global("l2"), scores, 3 / 8) == [2, 1]
    # -1.34 -0.45 0.45 1.34 and -0.10 0 -1.36 1.46.
    assert _over(Global("standard"), scores, 1 / 8) == [0, 1]
    assert _over(Global("standard"), scores, 3 / 8) == [2, 1]


def test_scores_per_mac_in_numbers():
    scores = _scores([1, 2, 3, 4], [2, 2, 2, 2.5])
    assert _over(Global(None), scores, 3 / 8) == [1, 2]
    per_mac = Global(None, per_mac=True)
    assert _over(per_mac, scores, 3 / 8, macs=(10, 1)) == [3, 0]
    assert _over(per_mac, scores, 3 / 8, macs=(1, 10)) == [0, 3]
    # Negative scores are the lower, the more is saved.
    scores = _scores([-1, -2, 3], [-1.5, 1, 2])
    assert _over(per_mac, scores, 1 / 6, macs=(1, 1)) == [1, 0]
    assert _over(per_mac, scores, 1 / 6, macs=(1, 2)) == [0, 1]


def test_floors_and_what_goes_first():
    scores = _scores([1, 2, 3, 4], [5, 6, 7, 8])
    assert _over(Global(None), scores, 0.5, least=(3, 1)) == [1, 3]
    assert _over(Global(None), scores, 0.99, least=(3, 2)) == [1, 2]
    scores = _scores([1, 2, 3, 4], [-np.inf, 6, 7, 8])
    assert _over(Global(None), scores, 1 / 8) == [0, 1]
    # What goes first does not count in the mean.
    assert _over(Global(), scores, 2 / 8) == [1, 1]
    # Of equal scores the later ones go.
    assert _over(Global(), _scores([1] * 4, [0] * 4), 0.5) == [1, 3]
    assert Global().over_groups([], 0.5, least=[], macs=[]) == []


def test_macs_that_go_with_a_filter():
    seen = {}

    class Watching:
        def __call__(self, layers, sparsity):
            raise AssertionError("all is shared out over groups")

        def over_groups(self, scores, sparsity, *, macs, makers, layers):
            names = [" ".join(x.name for x in of) for of in makers]
            seen.update(zip(names, macs))
            assert [len(s) for s in scores] == [16, 64, 8]
            assert [x.name for x in layers] == [*NAMES, "last"]
            return [sparsity] * len(scores)

    kprune.prune(_plain(), 0.5, granularity="filter", allocation=Watching())
    # Places of the outputs times what is read, and what reads it.
    assert seen == {
        "first": 100 * 27 + 64 * 9 * 64,
        "second": 64 * 9 * 16 + 8,
        "third": 64 + 5,
    }


def test_macs_of_shared_gates_and_of_depthwise_kernels():
    seen = {}

    class Watching:
        def __call__(self, layers, sparsity):
            raise AssertionError("all is shared out over groups")

        def over_groups(self, scores, sparsity, *, macs, makers):
            seen.update(zip((of[0].name for of in makers), macs))
            return [sparsity] * len(scores)

    inputs = keras.Input((6, 6, 2))
    x = layers.SeparableConv2D(4, 3, name="a", padding="same")(inputs)
    x = layers.DepthwiseConv2D(3, name="b", padding="same")(x)
    x = layers.Reshape((36, 4))(layers.Conv2D(4, 1, name="c")(x))
    x = layers.LSTM(5, name="d")(x)
    model = keras.Model(inputs, layers.Dense(3, name="e")(x))
    kprune.prune(
        kprune.make_prunable(model),
        0.5,
        granularity="filter",
        allocation=Watching(),
    )
    assert seen == {
        # A column of the pointwise kernel, a depthwise filter, a row.
        "a": 36 * 2 + 36 * 9 + 36 * 4,
        "c": 36 * 4 + 36 * 20,
        # Four columns of two kernels, four more rows of one, a row of the last.
        "d": 36 * (4 * 4 + 4 * 5 + 20) + 3,
    }


def test_what_is_costly_goes_first():
    counts = {}
    for per_mac in (False, True):
        model = _plain()
        kprune.prune(
            model,
            0.5,
            granularity="filter",
            allocation=Global(per_mac=per_mac),
        )
        counts[per_mac] = _gone(model, *NAMES)
        assert sum(counts[per_mac]) == 44
    # A filter of the first costs 4 times one of the second.
    assert counts[True][0] == 15 > counts[False][0]
    assert counts[True][2] == 0 < counts[False][2]


def test_open_sizes_are_named():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, name="open")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(x))
    model = kprune.make_prunable(keras.Model(inputs, layers.Dense(2)(x)))
    allocation = Global(per_mac=True)
    with pytest.raises(ValueError, match="layer 'open' are not: is the size"):
        kprune.prune(model, 0.5, granularity="filter", allocation=allocation)
    kprune.prune(model, 0.5, granularity="filter", allocation="global")


def test_layers_of_weights_are_ranked_by_weights():
    keras.utils.set_random_seed(0)
    first, second, third, last = (
        kprune.PrunableDense(n, granularity=granularity, name=name)
        for n, granularity, name in [
            (16, "filter", "first"),
            (64, "filter", "second"),
            (8, "unstructured", "third"),
            (5, "filter", "last"),
        ]
    )
    model = keras.Sequential([keras.Input((3,)), first, second, third, last])
    by_weights = Global()(model.layers, 0.5)
    seen = []

    class Watching(Global):
        def __call__(self, layers, sparsity, *, scores=None):
            seen.append([layer.name for layer in layers])
            return super().__call__(layers, sparsity, scores=scores)

    kprune.prune(model, 0.5, allocation=Watching())
    assert seen == [[*NAMES, "last"]]
    # Of 80 filters; the weights of the third by their own share, besides.
    assert sum(_gone(model, "first", "second")) == 40
    mask = numpy(third.masks["kernel"])
    rows = mask.any(axis=1)
    assert rows.sum() <= 64 - _gone(model, "second")[0]
    assert 1 - mask.mean() == pytest.approx(
        max(by_weights[2], 1 - rows.mean()), abs=1 / 512
    )


def test_multiple_of_keeps_its_rule():
    model = _plain()
    granularity = kprune.granularities.Filter(multiple_of=8)
    kprune.prune(model, 0.5, granularity=granularity, allocation="global")
    left = [n - g for n, g in zip((16, 64, 8), _gone(model, *NAMES))]
    assert all(n % 8 == 0 for n in left)


def test_caps_hold_over_groups():
    model = _plain()
    allocation = Capped(Global(per_mac=True), first=0.25, last=1.0)
    kprune.prune(model, 0.5, granularity="filter", allocation=allocation)
    counts = _gone(model, *NAMES)
    assert counts[0] == 4 and sum(counts) == 44
    assert Capped("uniform").over_groups is None


class _Over:
    def __init__(self, returned):
        self.returned = returned

    def __call__(self, layers, sparsity):
        return [sparsity] * len(layers)

    def over_groups(self, scores, sparsity):
        return self.returned


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([0.5], r"`over_groups` of the allocation must return 3 .*\['first', "),
        ("abc", "Received: 'abc'"),
        ([0.5, 1.0, 0.5], r"`sparsity of 'second'` must be in \[0, 1\)"),
    ],
)
def test_what_it_returns_is_checked(returned, message):
    model = _plain()
    with pytest.raises(ValueError, match=message):
        kprune.prune(
            model, 0.5, granularity="filter", allocation=_Over(returned)
        )
    assert _gone(model, *NAMES) == [0, 0, 0]


def test_what_it_asks_for_is_checked_before_any_training():
    class Asking(_Over):
        def over_groups(self, scores, sparsity, *, weather):
            return [sparsity] * len(scores)

    message = "asks for `weather`, which is not known.*'least'"
    with pytest.raises(ValueError, match=message):
        kprune.PruningScheduler(0.5, allocation=Asking([]))
    with pytest.raises(ValueError, match=message):
        Capped(Asking([]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "median"}, "`normalize` must be one of.*'median'"),
        ({"normalize": ["mean"]}, r"normalize=\['mean'\]"),
        ({"per_mac": 1}, "`per_mac` must be True or False.*per_mac=1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Global(**options)
