"""What a caller asks of the engine: how to decode, and with what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wheels.decoding.choices import MODES
from wheels.decoding.method import Method
from wheels.decoding.sampling import GREEDY, Sampling
from wheels.decoding.shaping import Shaper
from wheels.decoding.state import Row
from wheels.errors import WheelsError, check_budget, check_choice

STUDENT_STREAM, TEACHER_STREAM, RULE_STREAM, ACCEPT_STREAM = range(4)
"""The streams of a row's noise: what each is drawn for."""


@dataclass(frozen=True)
class Request:
    """How to decode."""

    budget: float | Sequence[float] | None
    """The share of tokens that the teacher may write, in [0, 1]: for all, or one for each source; None: no limit."""
    mode: str = "average"
    """`average`, `online` or `strict` (`wheels.decoding.budget`)."""
    burst: int = 0
    """Teacher tokens that strict mode may spend ahead."""
    max_new_tokens: int = 128
    """The most tokens of an output."""
    sampling: Sampling = GREEDY
    """How tokens are drawn."""
    seed: int = 0
    """The seed of all draws."""
    shaper: Shaper | None = None
    """Changes the scores of both models, in place of the models' own settings."""
    stopping: Callable[[int, list[int]], bool] | None = None
    """Tells of an output, by its row's index and its tokens so far, whether it is to end there."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.budget is not None:
            for budget in self.budget if isinstance(self.budget, Sequence) else [self.budget]:
                check_budget(budget)
        check_choice("budget_mode", self.mode, MODES)
        if self.max_new_tokens < 1:
            raise WheelsError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.burst < 0:
            raise WheelsError(f"burst must be at least 0, got {self.burst}")


def give_budgets(rows: Sequence[Row], budget: float | Sequence[float] | None) -> None:
    """Tell each row its budget: one for all, or its own by its place among the sources; without one, 1."""
    for row in rows:
        row.budget = 1.0 if budget is None else float(budget[row.index] if isinstance(budget, Sequence) else budget)


def check_together(method: Method, wish: Request) -> None:
    """Hold a method to what it can keep.

    Raises:
        WheelsError: for a budget that no rule keeps, budget 0 of a method that verifies every token, or the strict mode
            of one that takes tokens back.
    """
    if wish.mode == "strict" and method.verifier is not None:
        raise WheelsError("strict mode cannot take tokens back; use budget_mode average with a method that verifies")
    if wish.budget is None:
        return
    if method.rule is None:
        raise WheelsError(f"{method.name} calls when a draft is full and keeps no budget; give budget=None")
    budgets = wish.budget if isinstance(wish.budget, Sequence) else [wish.budget]
    if method.complete and 0 in budgets:
        raise WheelsError(
            f"{method.name} verifies every token and cannot keep budget 0; give a larger one, or deferral"
        )
