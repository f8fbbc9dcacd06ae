import pickle

import keras
import numpy as np
import pytest

import kprune
from kprune import schedules


def test_polynomial_is_the_cubic_of_the_paper():
    schedule = schedules.Polynomial(0.8)
    # 0.8 * (1 - (1 - p) ** 3) for p = 0, 1/4, 1/2, 3/4, 1.
    assert schedule(0.0) == 0.0
    assert schedule(0.125) == pytest.approx(0.4625)
    assert schedule(0.25) == pytest.approx(0.7)
    assert schedule(0.375) == pytest.approx(0.7875)
    assert schedule(0.5) == 0.8
    assert schedule(0.75) == schedule(1.0) == 0.8


def test_polynomial_between_begin_and_end():
    schedule = schedules.Polynomial(0.9, 0.5, begin=0.2, end=0.6, power=2)
    assert schedule(0.0) == schedule(0.2) == 0.5
    assert schedule(0.4) == pytest.approx(0.9 - 0.4 * 0.25)
    assert schedule(0.6) == schedule(1.0) == 0.9


def test_polynomial_of_power_one_is_linear():
    polynomial = schedules.Polynomial(0.6, 0.2, power=1)
    linear = schedules.Linear(0.6, 0.2)
    for progress in np.linspace(0, 1, 21):
        assert polynomial(progress) == pytest.approx(linear(progress))


def test_linear():
    schedule = schedules.Linear(0.8, 0.2, begin=0.25, end=0.75)
    assert schedule(0.1) == schedule(0.25) == 0.2
    assert schedule(0.5) == pytest.approx(0.5)
    assert schedule(0.625) == pytest.approx(0.65)
    assert schedule(0.75) == schedule(1.0) == 0.8


def test_linear_can_fall():
    schedule = schedules.Linear(0.2, 0.6)
    assert schedule(0.25) == pytest.approx(0.4)
    assert schedule(0.5) == 0.2


def test_cosine():
    schedule = schedules.Cosine(0.8)
    assert schedule(0.0) == 0.0
    # cos(pi / 3) = 1 / 2, so a quarter of the way is done at p = 1 / 3.
    assert schedule(0.5 / 3) == pytest.approx(0.2)
    assert schedule(0.25) == pytest.approx(0.4)
    assert schedule(1 / 3) == pytest.approx(0.6)
    assert schedule(0.5) == schedule(1.0) == 0.8


def test_constant():
    schedule = schedules.Constant(0.5, begin=0.25, end=0.75)
    assert schedule(0.24) == 0.0
    assert schedule(0.25) == schedule(0.5) == schedule(1.0) == 0.5
    assert schedules.end(schedule) == 0.75


def test_oneshot_ends_where_it_prunes():
    schedule = schedules.OneShot(0.8, at=0.25)
    assert schedule(0.2499) == 0.0
    assert schedule(0.25) == schedule(1.0) == 0.8
    assert schedules.end(schedule) == 0.25


@pytest.mark.parametrize(
    "ramp", [schedules.Polynomial, schedules.Linear, schedules.Cosine]
)
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_begin_equal_to_end_is_a_step(ramp, at):
    schedule = ramp(0.8, 0.3, begin=at, end=at)
    assert schedule(at) == 0.8
    if at > 0:
        assert schedule(at - 0.01) == 0.3
    if at < 1:
        assert schedule(at + 0.01) == 0.8


def test_sparsities_are_floats_for_numbers_of_any_kind():
    schedule = schedules.Linear(np.float32(0.5), 0, begin=0, end=1)
    for progress in (0, 0.5, 1):
        assert type(schedule(progress)) is float
    assert type(schedules.Constant(0)(1)) is float
    assert type(schedules.OneShot(0)(1)) is float


def test_join():
    schedule = schedules.join(
        [
            schedules.OneShot(0.3, at=0.1),
            schedules.Linear(0.8, 0.3, begin=0.5, end=0.75),
        ],
        boundaries=[0.5],
    )
    assert schedule(0.05) == 0.0
    assert schedule(0.1) == schedule(0.49) == 0.3
    assert schedule(0.5) == pytest.approx(0.3)
    assert schedule(0.625) == pytest.approx(0.55)
    assert schedule(0.75) == schedule(1.0) == 0.8
    assert schedules.end(schedule) == 0.75


def test_join_of_three_takes_what_get_takes():
    schedule = schedules.join(
        [schedules.OneShot(0.2, at=0.0), 0.4, lambda progress: 0.6],
        boundaries=[0.5, 0.75],
    )
    assert schedule(0.49) == 0.2
    assert schedule(0.5) == 0.4  # `Polynomial(0.4)` has its end here
    assert schedule(0.75) == schedule(1.0) == 0.6
    assert schedules.end(schedule) == 1.0


def test_join_does_not_end_before_its_last_boundary():
    early = schedules.OneShot(0.5, at=0.1)
    schedule = schedules.join([schedules.Linear(0.3), early], [0.75])
    assert schedules.end(schedule) == 0.75


def test_end():
    assert schedules.end(schedules.Polynomial(0.5, end=0.7)) == 0.7
    assert schedules.end(lambda progress: 0.1) == 1.0


@pytest.mark.parametrize(
    "identifier, expected",
    [
        (0.8, schedules.Polynomial(0.8)),
        (0, schedules.Polynomial(0)),
        (np.float32(0.5), schedules.Polynomial(0.5)),
        ("constant", schedules.Constant(0.5)),
        ("cosine", schedules.Cosine(0.5)),
        ("linear", schedules.Linear(0.5)),
        ("oneshot", schedules.OneShot(0.5)),
        ("Polynomial", schedules.Polynomial(0.5)),
        (schedules.Linear(0.7), schedules.Linear(0.7)),
    ],
)
def test_get(identifier, expected):
    assert schedules.get(identifier) == expected


def test_get_returns_a_callable_as_it_is():
    def mine(progress):
        return progress / 2

    assert schedules.get(mine) is mine


@pytest.mark.parametrize("identifier", ["quadratic", "", None, [0.5], {}])
def test_get_lists_the_names_when_it_knows_none(identifier):
    with pytest.raises(ValueError, match="Unknown schedule") as error:
        schedules.get(identifier)
    names = "['constant', 'cosine', 'linear', 'oneshot', 'polynomial']"
    assert names in str(error.value)
    assert f"Received: {identifier!r}" in str(error.value)


@pytest.mark.parametrize(
    "kind", ["Constant", "Cosine", "Linear", "OneShot", "Polynomial"]
)
def test_a_class_is_to_be_called(kind):
    given = getattr(schedules, kind)
    call = rf"the class {kind}; call it, such as `{kind}\(0.8\)`"
    with pytest.raises(ValueError, match=f"Unknown schedule.*{call}"):
        schedules.get(given)
    with pytest.raises(ValueError, match=call):
        schedules.join([0.5, given], [0.5])
    with pytest.raises(ValueError, match=call):
        kprune.PruningScheduler(given)


def test_get_refuses_a_sparsity_that_is_a_string():
    with pytest.raises(ValueError, match="Expected a sparsity in .*'0.5'"):
        schedules.get("0.5")


BAD_SPARSITIES = [
    (1.0, r"must be in \[0, 1\).*=1.0"),
    (1, r"must be in \[0, 1\).*=1"),
    (-0.1, r"must be in \[0, 1\).*=-0.1"),
    (80, r"must be in \[0, 1\).*=80"),
    (float("nan"), r"must be in \[0, 1\).*=nan"),
    (float("inf"), r"must be in \[0, 1\).*=inf"),
    (True, r"must be a number in \[0, 1\).*=True \(of type bool\)"),
]
NO_NUMBERS = [
    ("0.5", r"must be a number in \[0, 1\).*='0.5' \(of type str\)"),
    (None, r"must be a number in \[0, 1\).*=None \(of type NoneType\)"),
    ([0.5], r"must be a number in \[0, 1\).*=\[0.5\] \(of type list\)"),
    (0.5j, r"must be a number in \[0, 1\).*=0.5j \(of type complex\)"),
]


@pytest.mark.parametrize("value, message", BAD_SPARSITIES + NO_NUMBERS)
def test_bad_sparsities(value, message):
    with pytest.raises(ValueError, match="`sparsity` " + message):
        schedules.validate_sparsity(value)
    for schedule in (schedules.Constant, schedules.OneShot):
        with pytest.raises(ValueError, match="`sparsity` " + message):
            schedule(value)
    for ramp in (schedules.Polynomial, schedules.Linear, schedules.Cosine):
        with pytest.raises(ValueError, match="`final_sparsity` " + message):
            ramp(value)
        with pytest.raises(ValueError, match="`initial_sparsity` " + message):
            ramp(0.5, value)


@pytest.mark.parametrize("value, message", BAD_SPARSITIES)
def test_get_refuses_bad_sparsities(value, message):
    with pytest.raises(ValueError, match="`schedule` " + message):
        schedules.get(value)


@pytest.mark.parametrize("value, message", BAD_SPARSITIES + NO_NUMBERS)
def test_prune_refuses_bad_sparsities(value, message):
    model = keras.Sequential([keras.Input((4,)), kprune.PrunableDense(4)])
    with pytest.raises(ValueError, match="`sparsity` " + message):
        kprune.prune(model, value)


@pytest.mark.parametrize("value", [0.0, 0, 0.999, np.float32(0.5)])
def test_valid_sparsities_come_back_as_floats(value):
    assert schedules.validate_sparsity(value) == value
    assert type(schedules.validate_sparsity(value)) is float


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Constant,
        schedules.Polynomial,
        schedules.Linear,
        schedules.Cosine,
    ],
)
def test_bad_windows(schedule):
    message = "`begin` must not be later than `end`.*begin=0.6, end=0.4"
    with pytest.raises(ValueError, match=message):
        schedule(0.5, begin=0.6, end=0.4)
    message = r"`begin` must be a fraction of the training.*begin=-0.1"
    with pytest.raises(ValueError, match=message):
        schedule(0.5, begin=-0.1)
    message = r"`end` must be a fraction of the training in \[0, 1\].*end=8"
    with pytest.raises(ValueError, match=message):
        schedule(0.5, end=8)
    with pytest.raises(ValueError, match="`end` must be .*end=nan"):
        schedule(0.5, end=float("nan"))
    with pytest.raises(ValueError, match="`end` must be .*end='1'"):
        schedule(0.5, end="1")


@pytest.mark.parametrize("at", [-0.1, 1.1, float("nan"), "0.5", None])
def test_oneshot_outside_the_training(at):
    with pytest.raises(ValueError, match="`at` must be a fraction of the"):
        schedules.OneShot(0.5, at=at)


@pytest.mark.parametrize("power", [0, -1, float("nan"), "3", None, True])
def test_bad_powers(power):
    with pytest.raises(ValueError, match="`power` must be a positive number"):
        schedules.Polynomial(0.5, power=power)


@pytest.mark.parametrize(
    "name", ["Constant", "Cosine", "Linear", "OneShot", "Polynomial"]
)
def test_pickles_of_before_schedules_were_a_folder(name):
    written = f"ckprune.schedules\n{name}\n(F0.5\ntR.".encode()
    assert pickle.loads(written) == getattr(schedules, name)(0.5)


def test_pickles_of_joined_schedules_of_before():
    written = (
        b"ckprune.schedules\n_Joined\n((ckprune.schedules\nLinear\n(F0.3\ntR"
        b"ckprune.schedules\nLinear\n(F0.8\ntRt(F0.5\nttR."
    )
    assert pickle.loads(written) == schedules.join(
        [schedules.Linear(0.3), schedules.Linear(0.8)], [0.5]
    )


def test_bad_joins():
    with pytest.raises(ValueError, match="at least two schedules.*1 schedules"):
        schedules.join([0.5], [])
    with pytest.raises(ValueError, match=r"one boundary fewer.*\(0.2, 0.4\)"):
        schedules.join([0.3, 0.5], [0.2, 0.4])
    with pytest.raises(ValueError, match=r"must rise.*\(0.5, 0.5\)"):
        schedules.join([0.3, 0.5, 0.6], [0.5, 0.5])
    with pytest.raises(ValueError, match="`boundaries` must be a fraction"):
        schedules.join([0.3, 0.5], [10])
    with pytest.raises(ValueError, match="Unknown schedule"):
        schedules.join([0.3, "none"], [0.5])
    with pytest.raises(ValueError, match="`schedules` must be a list.*0.3"):
        schedules.join(0.3, [0.5])
    with pytest.raises(ValueError, match="`boundaries` must be a list.*0.5"):
        schedules.join([0.3, 0.5], 0.5)
