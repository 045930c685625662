"""What a caller asks of the engine: how to decode, and with what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any

from wheels.decoding.logits_processors import Shaper
from wheels.decoding.methods.choices import MODES
from wheels.decoding.methods.method import Method
from wheels.decoding.methods.rules import EvenRule, ThresholdRule
from wheels.decoding.sampling import GREEDY, Sampling
from wheels.decoding.sequences import Row
from wheels.errors import WheelsError, check_budget, check_choice, check_kind, check_whole
from wheels.fields import check_known

STUDENT_STREAM, TEACHER_STREAM, RULE_STREAM, ACCEPT_STREAM = range(4)
"""The streams of a row's noise: what each is drawn for."""
LONGEST_OUTPUT = 2**20
"""Tokens of an output at most: there is room for all of them from the start, in each row."""
LARGEST_SEED = 2**60
"""Four streams of each seed are counted apart in 64 bits."""


@dataclass(frozen=True)
class Request:
    """How to decode."""

    budget: float | Sequence[float] | None
    """The share of tokens that the teacher may write, in [0, 1]: for all, or one for each source; None: no limit."""
    mode: str = "average"
    """`average`, `online` or `strict` (`wheels.decoding.methods.budget`)."""
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
        """Check the ranges; budgets become floats, several a tuple of them."""
        object.__setattr__(self, "budget", _budgets_of(self.budget))
        check_choice("budget_mode", self.mode, MODES)
        check_whole("max_new_tokens", self.max_new_tokens, 1, LONGEST_OUTPUT)
        check_whole("burst", self.burst)
        check_whole("seed", self.seed, 0, LARGEST_SEED)
        check_kind("sampling", self.sampling, Sampling, "a Sampling, such as Sampling(temperature=0.7)")
        for name in ("shaper", "stopping"):
            check_kind(name, getattr(self, name), (Callable, type(None)), "a function, or None")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Request:
        """Make a request of keywords.

        Raises:
            WheelsError: for a keyword that is no field, with the one that was probably meant, or without a budget.
        """
        known = [field.name for field in fields(cls)]
        check_known(list(given), known, "setting")
        if "budget" not in given:
            raise WheelsError("budget is missing; give a share in [0, 1], or None for a method that keeps none")
        return cls(**given)

    def check_count(self, inputs: int) -> None:
        """Raise a `WheelsError` where there are several budgets, but not one for each input."""
        if isinstance(self.budget, tuple) and len(self.budget) != inputs:
            raise WheelsError(
                f"budget must be one number or one for each of the {inputs} inputs, got {len(self.budget)}"
            )

    @property
    def budgets(self) -> tuple[float | None, ...]:
        """The budgets of all rows, or None where there is no limit."""
        return tuple(self.budget) if isinstance(self.budget, Sequence) else (self.budget,)


def _budgets_of(given: Any) -> float | tuple[float, ...] | None:
    """Return budgets as floats: None, one, or a tuple of them for any list or array."""
    if given is None:
        return None
    several = isinstance(given, Iterable) and getattr(given, "ndim", 1) == 1
    if several and not isinstance(given, str | bytes | Mapping | Set):
        return tuple(map(check_budget, given))
    return check_budget(given)


def _check_threshold(method: Method, wish: Request) -> None:
    """Refuse a rule that would never call, and one that keeps another budget than was asked for.

    Budgets 0 and 1 ask no rule. A threshold that was set by hand decides alone, whatever the budget; online mode moves
    the threshold by itself.
    """
    rule, asked = method.rule, [budget for budget in wish.budgets if budget not in (0, 1)]
    if not isinstance(rule, ThresholdRule) or not asked:
        return
    moves = wish.mode == "online" and not isinstance(rule, EvenRule)
    if rule.budget is None and rule.threshold == math.inf and method.draft is None and not moves:
        raise WheelsError(
            f"rule {rule.name!r} has no threshold, so it never calls; calibrate it to the budget "
            "(wheels.decoding.methods.rules.calibrated), or set one with rule.at(threshold)"
        )
    others = [budget for budget in asked if budget != rule.budget]
    if rule.budget is not None and others:
        raise WheelsError(
            f"rule {rule.name!r} is calibrated for budget {rule.budget:g} and would not keep {others[0]}; calibrate it "
            "for that, or ask for its own"
        )


def give_budgets(rows: Sequence[Row], budget: float | Sequence[float] | None) -> None:
    """Tell each row its budget: one for all, or its own by its place among the sources; without one, 1."""
    for row in rows:
        row.budget = 1.0 if budget is None else float(budget[row.index] if isinstance(budget, Sequence) else budget)


def check_together(method: Method, wish: Request) -> None:
    """Hold a method to what it can keep.

    Raises:
        WheelsError: for a budget that no rule keeps, budget 0 of a method that verifies every token, the strict mode
            of one that takes tokens back, or a rule whose threshold is missing, or another budget's.
    """
    _check_threshold(method, wish)
    if wish.mode == "strict" and method.verifier is not None:
        raise WheelsError("strict mode cannot take tokens back; use budget_mode average with a method that verifies")
    if wish.budget is None:
        return
    if method.rule is None:
        raise WheelsError(f"{method.name} calls when a draft is full and keeps no budget; give budget=None")
    if method.complete and 0 in wish.budgets:
        raise WheelsError(
            f"{method.name} verifies every token and cannot keep budget 0; give a larger one, or deferral"
        )
