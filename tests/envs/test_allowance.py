import pytest
import torch

from wheels.envs.allowance import budget_left, permitted


@pytest.mark.parametrize(
    ("mode", "budget", "position", "calls", "burst", "expected"),
    [
        ("average", 0.0, 0, 0, 0, False),
        ("average", 0.1, 9, 9, 0, True),
        ("strict", 0.5, 0, 0, 0, False),
        ("strict", 0.5, 1, 0, 0, True),
        ("strict", 0.5, 2, 1, 0, False),
        ("strict", 0.5, 0, 0, 1, True),
        ("strict", 1.0, 0, 0, 0, True),
        ("strict", 0.7, 9, 6, 0, True),  # floor(0.7 * 10) is 7, also where 0.7 is not a float's number
        ("episode", 0.0, 0, 0, 0, False),
        ("episode", 0.3, 0, 0, 0, True),
        ("episode", 0.3, 5, 2, 0, True),
        ("episode", 0.3, 5, 3, 0, False),
        ("episode", 0.09, 0, 0, 0, False),
        ("episode", 1.0, 9, 9, 0, True),
    ],
)
def test_permitted(mode: str, budget: float, position: int, calls: int, burst: int, expected: bool) -> None:
    row = [torch.tensor([value]) for value in (position, calls, 10)]
    assert bool(permitted(mode, torch.tensor([budget], dtype=torch.float64), *row, burst)) is expected


def test_nothing_is_spent_ahead_unless_it_is_asked_for() -> None:
    first = [torch.tensor([value]) for value in (0, 0, 10)]
    assert permitted("strict", torch.tensor([0.5]).double(), *first).tolist() == [False]


def test_budget_left_is_a_share_of_the_longest_output() -> None:
    left_B = budget_left(torch.tensor([0.3, 0.3, 1.0, 0.0]), torch.tensor([0, 5, 10, 0]), torch.tensor([10] * 4))
    torch.testing.assert_close(left_B, torch.tensor([0.3, -0.2, 0.0, 0.0]))
