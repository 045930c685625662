"""What arithmetic comes to, and what is none."""

from __future__ import annotations

import pytest

from wheels.data.equations import LONGEST, same_value, value_of
from wheels.metrics import sentence_scores, signature


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("( 31.0 - 23.0 )", 8.0),
        (" ( 2 + 3 ) * 4 / 5", 4.0),
        ("-3 - -4", 1.0),
        ("1e3 + 1", 1001.0),
        ("0.1 + 0.2", pytest.approx(0.3)),
        ("7", 7.0),
    ],
)
def test_arithmetic_comes_to_its_value(text: str, value: float) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "(", "1 / 0", "1e400", "2 ** 9999", "__import__('os')", "x + 1", "True + 1", "1 < 2", "'a' * 3", "[1][0]",
     "1, 2", "1e200 * 1e200", "1 +\n2\n3", "\0", "(" * 400 + "1" + ")" * 400, "1" * (LONGEST + 1)],
)  # fmt: skip
def test_anything_else_comes_to_none(text: str) -> None:
    assert value_of(text) is None


def test_two_equations_agree_by_value_not_by_letters() -> None:
    assert same_value("( 3 + 4 )", "14 / 2") and same_value("1 / 3", "0.33333333")
    assert not same_value("( 3 + 4 )", "3 - 4") and not same_value("1 / 3", "0.333")
    assert not same_value("?", "?")


def test_the_metric_scores_values() -> None:
    assert sentence_scores("equation", ["( 4 + 3 )", "8", "eight"], ["3 + 4", "( 3 + 4 )", "8"]) == [100, 0, 0]
    assert signature("equation", []) == "arithmetic|tolerance:1e-06"
