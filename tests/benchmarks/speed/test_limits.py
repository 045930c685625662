from __future__ import annotations

import pytest

from wheels.benchmarks.core.bootstrap import Spread
from wheels.benchmarks.speed import limits


def student(width: int) -> float:
    """t_q: 2 a pass, 1 more for every further token."""
    return 1.0 + width


def teacher(width: int) -> float:
    """t_p: 10 a pass, 4 more for every further token."""
    return 6.0 + 4.0 * width


def test_one_model_alone() -> None:
    assert limits.alone(teacher, 1) == 10.0
    assert limits.alone(teacher, 4) == 2.5


def test_between_is_the_line_between_its_neighbours() -> None:
    assert limits.between(lambda width: float(width * width), 2.5) == pytest.approx(6.5)
    assert limits.between(lambda width: float(width * width), 3) == 9.0
    assert limits.between(teacher, 0.3) == 10.0


@pytest.mark.parametrize(
    ("use", "batch", "longest", "seconds"),
    [
        (0.2, 1, 64, 2 + 0.2 * (6 + 4 * 5)),
        (0.2, 8, 64, (2 + 0.2 * (6 + 4 * 5)) / 8),
        (0.4, 1, 64, 2 + 0.4 * (6 + 4 * 2.5)),
        (0.0, 2, 64, 1.0),
        (1.0, 1, 64, 2 + 10),
        (0.01, 1, 10, 2 + 0.01 * (6 + 4 * 10)),
    ],
)
def test_deferral(use: float, batch: int, longest: int, seconds: float) -> None:
    assert limits.deferral(student, teacher, batch, use, longest) == pytest.approx(seconds)


def test_the_table_of_the_physical_limit() -> None:
    """Speed-ups over the teacher alone at c = 0.1 and kappa = 1: 10 / 3 at a use of 0.2."""
    seconds = limits.deferral(lambda _: 0.1, lambda _: 1.0, 1, 0.2, 64)
    assert 1.0 / seconds == pytest.approx(3.33, abs=0.005)


@pytest.mark.parametrize(("acceptance", "speedup"), [(0.5, 1.46), (0.7, 1.98), (0.9, 3.43)])
def test_the_best_speculation_of_the_literature(acceptance: float, speedup: float) -> None:
    """Leviathan et al. 2023 at c = 0.1 and kappa = 1, with the best K for each acceptance."""
    seconds = limits.best_speculation(lambda _: 0.1, lambda _: 1.0, 1, acceptance, 16)
    assert 1.0 / seconds == pytest.approx(speedup, abs=0.006)


@pytest.mark.parametrize(
    ("acceptance", "draft", "batch", "seconds"),
    [
        (0.5, 2, 1, (2 * 2 + 18) / 1.75),
        (0.5, 2, 4, (2 * 2 + 18) / 1.75 / 4),
        (1.0, 3, 1, (3 * 2 + 22) / 4),
        (0.0, 3, 1, (3 * 2 + 22) / 1),
        (0.5, 0, 1, 10.0),
    ],
)
def test_speculation(acceptance: float, draft: int, batch: int, seconds: float) -> None:
    assert limits.speculation(student, teacher, batch, acceptance, draft) == pytest.approx(seconds)


def test_the_best_draft_is_none_where_nothing_is_accepted() -> None:
    assert limits.best_speculation(student, teacher, 1, 0.0, 8) == 10.0
    assert limits.best_speculation(student, teacher, 1, 1.0, 8) == limits.speculation(student, teacher, 1, 1.0, 8)


def test_the_roofline_is_the_slower_of_both() -> None:
    assert limits.roofline(100.0, 30.0, 10.0, 10.0) == 10.0
    assert limits.roofline(100.0, 3000.0, 10.0, 10.0) == 300.0


def test_a_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, 2.0]).median == 1.5


def test_every_system_has_every_place_once() -> None:
    names = ["a", "b", "c"]
    orders = [limits.rotated(names, number) for number in range(4)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]
    assert all(sorted(place) == names for place in zip(*orders[:3], strict=True))
