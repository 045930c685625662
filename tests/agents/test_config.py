"""The settings of `wheels train`: what there must be one of, what there may be none of, and the grid of budgets."""

from __future__ import annotations

from typing import Any

import pytest

from wheels.agents.config import BY_ROWS, TrainConfig
from wheels.errors import WheelsError

AT_LEAST_ONE = (
    *("limit", "seeds", "turns", "student_texts", "student_epochs", "cached_logits", "width", "states", "warm_epochs"),
    *("texts", "forks", "epochs", "batch_size", "router_rows", "pairs", "max_new_tokens", "calibration_limit"),
)
"""Without one of these a stage has nothing to work on."""
MAY_BE_NONE = (
    *("seed", "rounds", "pseudo_references", "price", "weight_decay"),
    *("learning_rate", "warm_learning_rate", "student_learning_rate"),
)


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(student="s", teacher="t", data="d", output="o", **changes)


@pytest.mark.parametrize(
    ("name", "least"), [*((name, 1) for name in AT_LEAST_ONE), *((name, 0) for name in MAY_BE_NONE)]
)
def test_the_least_of_each_setting(name: str, least: int) -> None:
    assert getattr(config(**{name: least}), name) == least
    with pytest.raises(WheelsError, match=rf"{name} must be at least {least}"):
        config(**{name: least - 1})


def test_the_grid_is_in_order_and_has_no_budget_whose_price_is_known() -> None:
    """At 0 nothing is called and at 1 everything is: neither needs a price."""
    assert config(budgets=(0.5, 0.0, 0.2, 1.0, 0.5)).budgets == (0.2, 0.5)
    with pytest.raises(WheelsError, match=r"at least one value above 0 and below 1, got \[0.0, 1.0\]"):
        config(budgets=(0.0, 1.0))


@pytest.mark.parametrize("name", BY_ROWS)
def test_few_rows_bring_few_texts_and_720_as_many_as_any(name: str) -> None:
    """720 rows are the smallest training split of a committed result."""
    most, a_row = BY_ROWS[name]
    assert [config().count_of(name, rows) for rows in (1, 8, 720, 10**6)] == [a_row, 8 * a_row, most, most]
    assert [config(**{name: most + 5}).count_of(name, rows) for rows in (1, 10**6)] == [most + 5] * 2, "what is given"
