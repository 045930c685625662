import pytest

from wheels.annotation.selection import Signal, choose, trust
from wheels.errors import WheelsError

ROWS = [10, 11, 12, 13]
SIGNALS = [Signal("a", 0.9, 3), Signal("b", 0.2, 0), Signal("c", 0.8, 0), Signal("d", 0.6, 1)]


def pick(kind, count=4, seed=0, signals=SIGNALS):
    return choose(kind, count, rows=ROWS, seed=seed, signals=signals)


def test_the_least_consistent_first():
    assert pick("consistency") == [11, 13, 12, 10]
    assert pick("consistency", 2) == [11, 13]


def test_the_assistant_also_sends_what_the_student_is_sure_of():
    # Trust: min(.9, 0), min(.2, 1), min(.8, 1), min(.6, 2/3).
    assert pick("assistant") == [10, 11, 13, 12]


def test_trust_is_the_lower_of_both():
    assert trust(Signal("", 0.9, 3)) == (0.0, 0.9)
    assert trust(Signal("", 0.4, 1)) == (0.4, pytest.approx(0.4 + 2 / 3))
    assert trust(Signal("", 0.4)) == (0.4, 0.4)


def test_random_depends_on_the_seed_alone():
    assert pick("random", signals=None) == pick("random", signals=SIGNALS)
    orders = {tuple(pick("random", seed=seed)) for seed in range(20)}
    assert len(orders) > 5
    assert all(sorted(order) == ROWS for order in orders)


def test_equals_are_in_random_order_and_more_than_all_is_all():
    same = [Signal("", 0.5, 1)] * 4
    assert len({tuple(pick("assistant", seed=seed, signals=same)) for seed in range(20)}) > 5
    assert sorted(pick("consistency", 99)) == ROWS


def test_an_unknown_selection_is_refused():
    with pytest.raises(WheelsError, match="select must be one of random, consistency, assistant"):
        pick("doubt")
