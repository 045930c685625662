from __future__ import annotations

import subprocess
import sys

import pytest

from wheels.benchmarks.curve.config import CurveConfig
from wheels.config.parsing import parse
from wheels.errors import WheelsError


def test_the_command_line_of_the_issue_is_understood() -> None:
    line = "--model m --data d.jsonl --budgets 0,0.2,1 --rules learned,foresight --seeds 2 --output o --limit 10"
    config = parse(CurveConfig, line.split(), prog="wheels bench curve")
    assert (config.model, config.data, config.output, config.seeds, config.limit) == ("m", "d.jsonl", "o", 2, 10)
    assert config.budgets == (0.0, 0.2, 1.0)
    assert config.interior_budgets == (0.2,)
    assert config.rules == ("learned", "foresight")


def test_budgets_are_put_in_order_and_stand_once() -> None:
    config = CurveConfig(budgets=(1, 0.3, 0.1, 0.3, 0), rules=("random", "learned", "random"))
    assert config.budgets == (0.0, 0.1, 0.3, 1.0)
    assert config.rules == ("random", "learned")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budgets": (20.0,)}, r"budgets must be in \[0, 1\], got 20.0; did you mean 0.2"),
        ({"budgets": (-0.1,)}, r"budgets must be in \[0, 1\]"),
        ({"budgets": (float("nan"),)}, r"budgets must be in \[0, 1\]"),
        ({"budgets": ()}, "budgets must hold at least one value"),
        ({"rules": ()}, "rules must hold at least one value"),
        ({"rules": ("lerned",)}, "did you mean 'learned'"),
        ({"mode": "strikt"}, "did you mean 'strict'"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"resamples": 10}, "resamples must be at least 100"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_bad_values_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(WheelsError, match=words):
        CurveConfig(**settings)  # type: ignore[arg-type]


def test_the_configuration_is_light() -> None:
    heavy = ("torch", "numpy", "matplotlib")
    program = f"import sys, wheels.benchmarks.curve.config; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
