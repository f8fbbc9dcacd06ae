"""Slots, ties and units."""

import numpy as np

from kprune.structure.slots import SlotTable


def test_units_are_connected_components():
    table = SlotTable()
    first, second, third = (table.fresh(3) for _ in range(3))
    table.tie(first, second[::-1])
    table.tie(second[:1], third[:1])
    table.freeze(third[:1], "it is an output")
    table.freeze(third[:2], "it is read twice")
    units = table.solve()
    of_slot = units.of_slot
    assert len(units) == 5
    np.testing.assert_array_equal(of_slot[first], of_slot[second[::-1]])
    assert of_slot[second[0]] == of_slot[third[0]] == of_slot[first[2]]
    assert units.reason(of_slot[third[0]]) == "it is an output"
    assert units.reason(of_slot[third[1]]) == "it is read twice"
    assert units.reason(of_slot[third[2]]) is None
    assert units.frozen.sum() == 2


def test_long_chains_against_a_plain_union():
    generator = np.random.default_rng(0)
    table = SlotTable()
    table.fresh(400)
    parents = list(range(400))

    def root(slot):
        while parents[slot] != slot:
            slot = parents[slot]
        return slot

    for _ in range(60):
        one, other = generator.integers(0, 400, (2, 5))
        table.tie(one, other)
        for a, b in zip(one, other, strict=True):
            parents[root(a)] = root(b)
    chain = np.arange(200, 399)
    table.tie(chain, chain + 1)
    for slot in chain:
        parents[root(slot)] = root(slot + 1)
    units = table.solve()
    roots = np.array([root(slot) for slot in range(400)])
    same = roots[:, None] == roots[None, :]
    of_slot = units.of_slot
    np.testing.assert_array_equal(of_slot[:, None] == of_slot[None, :], same)


def test_an_empty_table():
    units = SlotTable().solve()
    assert len(units) == 0 and units.of_slot.size == 0
