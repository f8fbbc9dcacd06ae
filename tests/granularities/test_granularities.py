import itertools
import math

import keras
import numpy as np
import pytest

import kprune
from kprune import granularities, ranking
from kprune.granularities import NM, Block, Filter, Unstructured


def zeros(mask):
    return int(mask.size - np.count_nonzero(mask))


def by_stable_sort(scores, removed):
    """The mask that a full sort gives: of equal scores the later go."""
    flat = scores.ravel()
    # Ascending, and among equals the higher index first.
    order = np.lexsort((-np.arange(flat.size), flat))
    mask = np.ones(flat.size, bool)
    mask[order[:removed]] = False
    return mask.reshape(scores.shape)


@pytest.mark.parametrize(
    "size, sparsity, expected",
    [
        (100, 0.29, 29),  # 28.999999999999996 in binary
        (100, 0.57, 57),
        (100, 0.58, 58),
        (1000, 0.001, 1),
        (10, 0.7, 7),
        (10, 0.29, 2),
        (3, 1 / 3, 1),
        (3, 2 / 3, 2),
        (10, np.float32(0.7), 7),
        (10_000_000, 0.29, 2_900_000),
        (100, 0.999, 99),
        (10, 0.99, 9),
        (2, 0.99, 1),
        (1, 0.99, 0),
        (1, 0.0, 0),
        (0, 0.5, 0),
    ],
)
def test_removed_count(size, sparsity, expected):
    assert ranking.removed_count(size, sparsity) == expected


def test_removed_count_is_exact_for_all_percents():
    for percent in range(100):
        assert ranking.removed_count(100, percent / 100) == percent


def test_at_least_one_item_stays():
    nearly_one = math.nextafter(1.0, 0.0)
    for size in (1, 2, 10, 1_000_000):
        assert ranking.removed_count(size, nearly_one) == size - 1


def test_unstructured():
    scores = np.array([[0.5, 0.1, 0.9], [0.3, 0.7, 0.2]])
    keep = Unstructured()
    np.testing.assert_array_equal(
        keep(scores, 0.5), [[True, False, True], [False, True, False]]
    )
    np.testing.assert_array_equal(
        keep(scores, 0.99), [[False, False, True], [False, False, False]]
    )
    assert keep(scores, 0.0).all()
    # floor(6 * 0.16) = 0 and floor(6 * 0.17) = 1
    assert zeros(keep(scores, 0.16)) == 0
    assert zeros(keep(scores, 0.17)) == 1


def test_unstructured_keeps_the_lower_flat_index_of_equal_scores():
    scores = np.array([[1.0, 2.0, 1.0], [2.0, 1.0, 2.0]])
    keep = Unstructured()
    np.testing.assert_array_equal(
        keep(scores, 1 / 6), [[True, True, True], [True, False, True]]
    )
    np.testing.assert_array_equal(
        keep(scores, 2 / 6), [[True, True, False], [True, False, True]]
    )
    np.testing.assert_array_equal(
        keep(scores, 4 / 6), [[False, True, False], [True, False, False]]
    )


def test_unstructured_of_equal_scores_is_exact():
    mask = Unstructured()(np.ones((10, 10)), 0.29)
    np.testing.assert_array_equal(mask.ravel(), [True] * 71 + [False] * 29)


def test_unstructured_is_what_the_percentile_gives_without_ties():
    # 101 weights, so that every percentile is one of them.
    scores = np.random.default_rng(0).permutation(101) / 7
    for percent in range(100):
        removed = scores < np.percentile(scores, percent, method="nearest")
        assert removed.sum() == percent
        np.testing.assert_array_equal(
            Unstructured()(scores, percent / 100), ~removed
        )


def test_negative_and_integer_scores():
    keep = Unstructured()
    np.testing.assert_array_equal(
        keep(np.array([-1.0, -3.0, 0.0, 2.0]), 0.5),
        [False, False, True, True],
    )
    np.testing.assert_array_equal(
        keep(np.array([3, 1, 2, 1], np.int64), 0.5),
        [True, False, True, False],
    )
    np.testing.assert_array_equal(
        keep(np.array([-np.inf, -1.0, 1.0, 5.0]), 0.25),
        [False, True, True, True],
    )


def test_a_transposed_array_has_the_flat_indices_of_its_shape():
    scores = np.ones((2, 3)).T
    mask = Unstructured()(scores, 0.5)
    np.testing.assert_array_equal(mask.ravel(), [True] * 3 + [False] * 3)


BIG = 70_001  # beyond the size where the selection samples


def big_arrays():
    generator = np.random.default_rng(0)
    normal = generator.normal(size=BIG)
    yield "float32", np.abs(normal).astype(np.float32)
    yield "float64", np.abs(normal)
    yield "float16", np.abs(normal).astype(np.float16)
    yield "negative", -np.abs(normal)
    yield "both signs", normal
    yield "three values", generator.integers(3, size=BIG).astype(np.float32)
    yield "hundred values", np.round(np.abs(normal), 2)
    yield "all equal", np.full(BIG, 0.5, np.float32)
    yield "all zero", np.zeros(BIG, np.float32)
    yield "one differs", np.where(np.arange(BIG) == 7, 2.0, 1.0)
    yield "nine of ten zero", np.where(generator.random(BIG) < 0.9, 0, normal)
    yield "sorted", np.sort(normal)
    yield "sorted down", np.sort(normal)[::-1]
    yield "heavy tail", np.exp(5 * normal)
    yield "integers", generator.integers(-1000, 1000, size=BIG)
    yield "conv", np.abs(normal[: 3 * 3 * 88 * 88]).reshape(3, 3, 88, 88)


BIG_ARRAYS = dict(big_arrays())


@pytest.mark.parametrize("name", BIG_ARRAYS)
def test_big_arrays_get_the_mask_of_a_full_sort(name):
    scores = BIG_ARRAYS[name]
    before = scores.copy()
    assert scores.size > ranking._SMALL
    for sparsity in (1e-6, 2e-5, 0.01, 0.29, 0.5, 0.9, 0.999, 0.9999999):
        removed = ranking.removed_count(scores.size, sparsity)
        np.testing.assert_array_equal(
            Unstructured()(scores, sparsity), by_stable_sort(scores, removed)
        )
    np.testing.assert_array_equal(scores, before)


def test_many_chunks_get_the_mask_of_a_full_sort():
    generator = np.random.default_rng(1)
    scores = np.round(generator.normal(size=3 * (1 << 17) + 5), 4)
    for removed in (1, 1000, scores.size // 2, scores.size - 1):
        np.testing.assert_array_equal(
            ranking.keep_highest(scores, removed),
            by_stable_sort(scores, removed),
        )


def test_a_sample_that_misses_does_not_matter(monkeypatch):
    class Unlucky:
        def integers(self, high, size):
            return np.zeros(size, int)

    # The bracket is then a single value, far from the one that is looked for.
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Unlucky())
    scores = np.arange(BIG, dtype=np.float32)[::-1]
    mask = ranking.keep_highest(scores, 1000)
    np.testing.assert_array_equal(mask, scores >= 1000)


def test_filter_takes_the_norm_over_all_axes_but_the_last():
    # Norms 5, 13 and sqrt(98); the means would order them otherwise.
    scores = np.array([[3.0, 0.0, 7.0], [4.0, 13.0, 7.0]])
    np.testing.assert_array_equal(
        Filter()(scores, 0.34), [[False, True, True], [False, True, True]]
    )
    np.testing.assert_array_equal(
        Filter()(scores, 0.67), [[False, True, False], [False, True, False]]
    )
    conv = scores.reshape(2, 1, 1, 3)
    np.testing.assert_array_equal(
        Filter()(conv, 0.67), Filter()(scores, 0.67).reshape(2, 1, 1, 3)
    )


def test_filter_counts_are_exact_and_ties_keep_the_lower_index():
    mask = Filter()(np.ones((3, 3, 2, 100)), 0.29)
    np.testing.assert_array_equal(mask[0, 0, 0], [True] * 71 + [False] * 29)
    assert (mask == mask[0, 0, 0]).all()
    assert Filter()(np.ones((4, 5)), 0.99).sum() == 4
    assert Filter()(np.ones((4, 1)), 0.99).all()


def test_filter_does_not_overflow_in_half_precision():
    scores = np.full((100, 2), 300.0, np.float16)
    scores[:, 1] = 200.0
    np.testing.assert_array_equal(Filter()(scores, 0.5)[0], [True, False])


@pytest.mark.parametrize(
    "size, multiple_of, sparsity, kept",
    [
        (64, 8, 0.5, 32),
        (64, 8, 0.55, 32),  # 29 rounded up
        (64, 8, 0.9, 8),
        (64, 8, 0.99, 8),
        (64, 8, 0.0, 64),
        (64, 8, 0.1, 64),  # 58 rounded up
        (64, 8, 0.125, 56),
        (20, 8, 0.5, 16),
        (20, 8, 0.1, 20),  # 24 are more than there are
        (6, 8, 0.9, 6),
        (10, 1, 0.29, 8),
    ],
)
def test_filter_rounds_the_kept_count_up(size, multiple_of, sparsity, kept):
    granularity = Filter(multiple_of=multiple_of)
    assert granularity.removed_count(size, sparsity) == size - kept
    mask = granularity(np.arange(2.0 * size).reshape(2, size), sparsity)
    # The scores grow with the index, so the last ones stay.
    expected = [False] * (size - kept) + [True] * kept
    np.testing.assert_array_equal(mask, [expected, expected])


def test_nm_keeps_n_of_every_m_inputs():
    scores = np.array(
        [[1, 8], [4, 7], [2, 6], [3, 5], [9, 1], [8, 2], [7, 3], [6, 4]], float
    )
    expected = [
        [False, True],
        [True, True],
        [False, False],
        [True, False],
        [True, False],
        [True, False],
        [False, True],
        [False, True],
    ]
    np.testing.assert_array_equal(NM(2, 4)(scores, 0.5), expected)


def test_nm_groups_the_input_channels_of_a_convolution():
    kernel = np.random.default_rng(0).random((3, 2, 8, 5))
    mask = NM(1, 4)(kernel, 0.75)
    for y, x, c in itertools.product(range(3), range(2), range(5)):
        for start in (0, 4):
            group = kernel[y, x, start : start + 4, c]
            np.testing.assert_array_equal(
                mask[y, x, start : start + 4, c], group == group.max()
            )


def test_nm_remainder_groups_are_filled_up_with_zeros():
    def column(*scores):
        return np.array(scores, float).reshape(-1, 1)

    # Seven inputs: the last group has three, of which two stay.
    mask = NM(2, 4)(column(1, 2, 3, 4, 7, 5, 6), 0.5)
    expected = [False, False, True, True, True, False, True]
    np.testing.assert_array_equal(mask.ravel(), expected)
    # Six: the last group has two, and both stay.
    mask = NM(2, 4)(column(1, 2, 3, 4, 0, 0), 0.5)
    expected = [False, False, True, True, True, True]
    np.testing.assert_array_equal(mask.ravel(), expected)
    # Fewer inputs than m; negative scores are above the filling too.
    mask = NM(1, 4)(column(-3, -1, -2), 0.75)
    np.testing.assert_array_equal(mask.ravel(), [False, True, False])
    # The filling would win against these if it counted.
    mask = NM(2, 4)(column(1, 1, 1, 1, -5), 0.5)
    np.testing.assert_array_equal(
        mask.ravel(), [True, True, False, False, True]
    )


def test_nm_ties_keep_the_lower_index():
    mask = NM(2, 4)(np.ones((8, 1)), 0.5)
    np.testing.assert_array_equal(mask.ravel(), [True, True, False, False] * 2)
    mask = NM(1, 3)(np.array([[0.0], [1.0], [1.0]]), 0.9)
    np.testing.assert_array_equal(mask.ravel(), [False, True, False])


def test_nm_starts_when_the_schedule_reaches_its_sparsity():
    scores = np.random.default_rng(0).random((8, 3))
    assert NM(2, 4).sparsity == 0.5
    assert NM(2, 4)(scores, 0.4999).all()
    assert zeros(NM(2, 4)(scores, 0.5)) == 12
    assert zeros(NM(2, 4)(scores, 0.99)) == 12
    # 1 - 7 / 10 is 0.30000000000000004, above the 0.3 that a user writes.
    assert zeros(NM(7, 10)(np.ones((10, 1)), 0.3)) == 3
    assert zeros(NM(1, 3)(np.ones((3, 1)), 2 / 3)) == 2


def test_nm_follows_the_schedule():
    layer = kprune.PrunableDense(4, granularity=NM(1, 4))
    model = keras.Sequential([keras.Input((8,)), layer])
    schedule = kprune.schedules.Linear(0.75, end=0.75)
    for progress in (0.25, 0.5):
        with pytest.warns(UserWarning, match="Nothing was pruned.*0.75"):
            kprune.prune(model, schedule(progress))
        assert kprune.sparsity(model) == 0.0
    for progress in (0.75, 1.0):
        kprune.prune(model, schedule(progress))
        assert kprune.sparsity(model) == 0.75


def test_nm_of_a_vector():
    mask = NM(1, 2)(np.array([1.0, 2.0, 4.0, 3.0]), 0.5)
    np.testing.assert_array_equal(mask, [False, True, True, False])


def test_block_pools_the_mean():
    scores = np.array(
        [
            [1.0, 1.0, 0.0, 9.0],
            [1.0, 1.0, 0.0, 0.0],
            [3.0, 3.0, 2.0, 2.0],
            [3.0, 3.0, 2.0, 2.0],
        ]
    )
    # Means 1, 2.25, 3 and 2: the 9 saves its block, not the weights beside.
    np.testing.assert_array_equal(
        Block((2, 2))(scores, 0.5),
        [
            [False, False, True, True],
            [False, False, True, True],
            [True, True, False, False],
            [True, True, False, False],
        ],
    )


def test_block_that_overhangs_the_edge():
    scores = np.array(
        [
            [4.0, 4.0, 1.0],
            [4.0, 4.0, 1.0],
            [3.0, 3.0, 5.0],
        ]
    )
    # Means over the weights inside: 4, 1, 3 and 5. Sums would be 16, 2, 6, 5.
    np.testing.assert_array_equal(
        Block((2, 2))(scores, 0.5),
        [
            [True, True, False],
            [True, True, False],
            [False, False, True],
        ],
    )
    np.testing.assert_array_equal(
        Block((2, 2))(scores, 0.75),
        [
            [False, False, False],
            [False, False, False],
            [False, False, True],
        ],
    )


def test_block_larger_than_the_kernel_is_the_whole_kernel():
    assert Block((16, 16))(np.ones((3, 5)), 0.99).all()
    # Two columns of blocks, one row.
    mask = Block((16, 4))(np.arange(24.0).reshape(3, 8), 0.5)
    np.testing.assert_array_equal(mask, [[False] * 4 + [True] * 4] * 3)


def test_block_lies_on_the_last_axes():
    kernel = np.random.default_rng(0).random((3, 3, 8, 6))
    mask = Block((4, 1))(kernel, 0.5)
    assert zeros(mask) == kernel.size // 2
    blocks = mask.reshape(3, 3, 2, 4, 6)
    assert (blocks.all(axis=3) == blocks.any(axis=3)).all()
    means = kernel.reshape(3, 3, 2, 4, 6).mean(axis=3)
    np.testing.assert_array_equal(blocks.all(axis=3), means > np.median(means))


def test_block_of_one_axis_and_of_one_weight():
    scores = np.array([[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]])
    np.testing.assert_array_equal(
        Block((2,))(scores, 0.5), [[False, False, True, True]] * 2
    )
    np.testing.assert_array_equal(
        Block((1, 1))(scores, 0.29), Unstructured()(scores, 0.29)
    )


def test_block_counts_are_exact_and_ties_keep_the_lower_index():
    mask = Block((2, 1))(np.ones((20, 10)), 0.29)
    blocks = mask.reshape(10, 2, 10).all(axis=1).ravel()
    np.testing.assert_array_equal(blocks, [True] * 71 + [False] * 29)
    assert zeros(mask) == 58


def test_block_of_too_many_axes_shows_what_to_write():
    message = r"more axes than the kernel of shape \(4, 3\).*Block\(\(1, 4\)\)"
    with pytest.raises(ValueError, match=message):
        Block((3, 3, 1, 4))(np.ones((4, 3)), 0.5)


@pytest.mark.parametrize(
    "granularity",
    [
        Unstructured(),
        Filter(),
        Filter(4),
        NM(),
        NM(1, 3),
        Block(),
        Block((2, 3)),
    ],
)
def test_masks_are_writable_and_scores_untouched(granularity):
    scores = np.random.default_rng(0).random((3, 3, 5, 7), np.float32)
    before = scores.copy()
    for sparsity in (0.0, 0.5, 0.9):
        mask = granularity(scores, sparsity)
        assert mask.dtype == bool and mask.shape == scores.shape
        mask[...] = False  # neither a view of the scores nor broadcast
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize(
    "granularity", [Unstructured(), Filter(), NM(), Block((2, 2))]
)
def test_what_goes_at_a_sparsity_goes_at_any_higher_one(granularity):
    scores = np.random.default_rng(0).integers(5, size=(9, 10)).astype(float)
    masks = [granularity(scores, percent / 100) for percent in range(100)]
    for lower, higher in zip(masks, masks[1:]):
        assert not (higher & ~lower).any()


@pytest.mark.parametrize(
    "identifier, expected",
    [
        ("unstructured", Unstructured()),
        ("filter", Filter(1)),
        ("nm", NM(2, 4)),
        ("block", Block((4, 1))),
        ("Filter", Filter(1)),
        (NM(1, 8), NM(1, 8)),
        (Block([2, 2]), Block((2, 2))),
    ],
)
def test_get(identifier, expected):
    assert granularities.get(identifier) == expected


def test_get_returns_a_callable_as_it_is():
    def mine(scores, sparsity):
        return scores >= 0

    assert granularities.get(mine) is mine


@pytest.mark.parametrize("identifier", ["channel", "", None, 0.5, (2, 4), NM])
def test_get_lists_the_names_when_it_knows_none(identifier):
    with pytest.raises(ValueError, match="Unknown granularity") as error:
        granularities.get(identifier)
    assert "['block', 'filter', 'nm', 'unstructured']" in str(error.value)
    received = repr(identifier)
    if isinstance(identifier, type):
        name = identifier.__name__
        received = f"the class {name}; call it: `{name}()`"
    assert f"Received: {received}" in str(error.value)


@pytest.mark.parametrize("n, m", [(4, 4), (5, 4), (1, 1)])
def test_nm_that_keeps_all(n, m):
    message = f"n must be less than m. Received: n={n}, m={m}"
    with pytest.raises(ValueError, match=message):
        NM(n, m)


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", None, True])
def test_arguments_that_are_no_positive_integers(value):
    with pytest.raises(ValueError, match="`n` must be a positive integer.*n="):
        NM(value, 4)
    with pytest.raises(ValueError, match="`m` must be a positive integer.*m="):
        NM(1, value)
    message = f"`multiple_of` must be a positive integer.*of={value!r}"
    with pytest.raises(ValueError, match=message):
        Filter(value)
    with pytest.raises(ValueError, match="`shape` must be a positive integer"):
        Block((4, value))


@pytest.mark.parametrize("shape", [0, 4, (), [], "44", None])
def test_block_shapes_that_are_no_tuples(shape):
    message = "`shape` must be a tuple of positive integers. Received: shape="
    with pytest.raises(ValueError, match=message):
        Block(shape)


def test_numpy_integers_are_integers():
    assert NM(np.int64(1), np.int32(4)) == NM(1, 4)
    assert Filter(np.int64(8)) == Filter(8)
    assert Block((np.int64(2), 1)) == Block((2, 1))


def test_filters_of_files_that_padded_layer_norms_still_load():
    old = {"multiple_of": 8, "pad_layer_norm": False}
    assert Filter.from_config(old) == Filter(8)
    with pytest.warns(UserWarning, match="pad_layer_norm=True"):
        assert Filter.from_config({**old, "pad_layer_norm": True}) == Filter(8)


@pytest.mark.parametrize(
    "granularity",
    [Unstructured(), Filter(8), NM(1, 4), Block((2, 3))],
)
def test_keras_saves_and_loads_a_granularity(granularity):
    config = keras.saving.serialize_keras_object(granularity)
    loaded = keras.saving.deserialize_keras_object(config)
    assert loaded == granularity
    assert type(loaded) is type(granularity)


@pytest.mark.parametrize(
    "granularity", [Unstructured(), Filter(2), NM(1, 4), Block((2, 3))]
)
def test_a_saved_layer_brings_its_granularity_back(granularity, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            kprune.PrunableDense(6, granularity=granularity, name="hidden"),
            kprune.PrunableDense(2),
        ]
    )
    kprune.prune(model, 0.75)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].granularity == granularity
    mask = keras.ops.convert_to_numpy(model.layers[0].masks["kernel"])
    np.testing.assert_array_equal(
        mask, keras.ops.convert_to_numpy(loaded.layers[0].masks["kernel"])
    )


def test_prune_follows_a_granularity_of_the_users():
    def columns(scores, sparsity):
        removed = ranking.removed_count(scores.shape[1], sparsity)
        kept = ranking.keep_highest(scores.sum(axis=0), removed)
        return np.broadcast_to(kept, scores.shape)

    model = keras.Sequential([keras.Input((4,)), kprune.PrunableDense(4)])
    kprune.prune(model, 0.5, granularity=columns)
    mask = keras.ops.convert_to_numpy(model.layers[0].masks["kernel"])
    assert sorted(mask.sum(axis=0)) == [0, 0, 4, 4]


def test_prune_names_the_granularity_that_returns_no_mask():
    model = keras.Sequential([keras.Input((4,)), kprune.PrunableDense(4)])
    message = r"must return a boolean mask of the kernel's shape \(4, 4\)"
    with pytest.raises(ValueError, match=message):
        kprune.prune(model, 0.5, granularity=lambda scores, s: scores)
