"""What a rule is: a score of the state, a threshold, and how it is shown. Imports nothing heavy.

A rule sees a `Step` of B rows and answers which of them call the teacher for their next token. Its score is higher
where a call is worth more; the threshold is what a budget was calibrated to (`wheels calibrate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from wheels.errors import WheelsError, check_kind, check_number, shown

if TYPE_CHECKING:
    import torch

    from wheels.decoding.step import Step
    from wheels.policy.head import DeferralHead

Score = Callable[["Step"], "torch.Tensor"]
Levels = tuple[tuple[float, float], ...]
"""Uses in rising order, each with the threshold that gives it, which falls."""


class AnyRule(Protocol):
    """Decides whether to call the teacher: all that the engine asks of a rule."""

    @property
    def name(self) -> str:
        """What it is called by in traces and results."""

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher must read every state: then the rule is a reference, not a way to save."""

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows that call, bool `[B]`."""


@dataclass(frozen=True)
class Rule:
    """Call where `score(step) > threshold`. One record holds all that the project knows of a rule.

    Raises:
        WheelsError: for a field of another kind.
    """

    name: str
    """What it is called by in commands, traces and results."""
    score: Score | None = None
    """From a `Step` of B rows to `[B]`, higher where a call is worth more. None: a trained head gives it."""
    threshold: float = math.inf
    """The rule calls where the score exceeds it; infinite: never, or always."""
    label: str = ""
    """Where it calls, in at most six words for legends and reports: "at random"."""
    color: str = "#4D4D4D"
    """Its colour in pictures."""
    mark: str = "o"
    """Its mark in pictures, as matplotlib names it."""
    needs_teacher: bool = False
    """Whether the score reads the teacher at every state: a reference, not a way to save."""
    head: Callable[[DeferralHead], Score] | None = None
    """Makes the score of a head that was trained for this rule (`wheels train`)."""
    draws: bool = False
    """Whether its calls are drawn, so that each seed is another run."""
    known_rate: bool = False
    """Whether it calls at the rate `1 - threshold` on any data: then no budget needs a calibration."""
    in_nats: bool = False
    """Whether the score is a gain in nats, so that a threshold is a price (`priced`)."""
    place: str = ""
    """Where a rule from outside the package was read, such as `my_rules.py:gap`; "" for the package's own."""
    code: str = ""
    """The digest of that file."""
    levels: Levels = ()
    """Measured uses and their thresholds, which online mode moves along; it refuses a rule without any."""
    budget: float | None = None
    """The teacher budget that the threshold was calibrated to, the only one that it runs under; None: set by hand."""
    calibrated: Callable[[float, str], Rule] | None = None
    """Finds the rule under the threshold that a budget was calibrated to, in a mode; None: there is but one."""

    def __post_init__(self) -> None:
        """Check the kinds of the fields."""
        if not isinstance(self.name, str) or not self.name.replace("-", "").replace("_", "").isalnum():
            raise WheelsError(f"a rule's name must be letters, digits, - and _, got {shown(self.name)}")
        for part in ("score", "head"):
            check_kind(part, getattr(self, part), (Callable, type(None)), "a function, or None")
        if self.score is None and self.head is None:
            raise WheelsError(f"rule {self.name!r} needs a score: a function of a Step that returns one number a row")
        check_number("threshold", self.threshold, -math.inf, math.inf)

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows whose score exceeds the threshold."""
        return self.scored(step) > self.threshold

    def scored(self, step: Step) -> torch.Tensor:
        """Return the score, `[B]`.

        Raises:
            WheelsError: where it is no number: it would exceed no threshold, and never call.
        """
        from wheels.decoding.sampling import has_nan

        if self.score is None:
            raise WheelsError(f"rule {self.name!r} reads a trained head; ask a model for it: model.rule({self.name!r})")
        score_B = self.score(step)
        if has_nan(score_B):
            raise WheelsError(f"rule {self.name!r} scores a state with nan; check what it reads, and its trained head")
        return score_B

    @property
    def is_set(self) -> bool:
        """Whether it has a threshold: set by hand, or calibrated to a budget."""
        return self.threshold < math.inf

    @property
    def given(self) -> str:
        """What a command takes for it."""
        return self.place or self.name

    @property
    def seeded(self) -> bool:
        """Whether it is measured seed by seed: a trained head, or draws."""
        return self.draws or self.head is not None

    def at(self, threshold: float, budget: float | None = None) -> Rule:
        """Return the same rule at another threshold: set by hand, or calibrated to a budget."""
        return replace(self, threshold=threshold, budget=budget, calibrated=None)

    def for_budget(self, budget: float, mode: str = "average") -> Rule:
        """Return the rule under the threshold that keeps a budget in (0, 1).

        Online mode moves along the levels, whatever the threshold. In strict mode a threshold that was set by hand will
        do: the engine keeps the budget.

        Raises:
            WheelsError: where there is none, or one that was set by hand or for another budget.
        """
        if self.calibrated is not None:
            return self.calibrated(budget, mode)
        if mode == "online" and not isinstance(self, EvenRule):
            return self._moving()
        if self.budget == budget:
            return self
        if self.budget is not None:
            raise WheelsError(
                f"rule {self.name!r} is calibrated for budget {self.budget:g} and would not keep {budget:g}; calibrate "
                "it for that, or ask for its own"
            )
        if self.threshold == math.inf:
            if self.known_rate:
                return self.at(1.0 - budget, budget)
            raise WheelsError(
                f"rule {self.name!r} has no threshold, so it never calls; ask a calibrated model for it "
                f"(model.rule({self.name!r})), or set one with rule.at(threshold) and leave the budget"
            )
        if mode == "strict":
            return self
        raise WheelsError(
            f"rule {self.name!r}: threshold {self.threshold:g} decides alone, and teacher_budget={budget:g} would not "
            "be kept; give one of them, or budget_mode='strict', in which the engine keeps it"
        )

    def _moving(self) -> Rule:
        """Return the rule where online mode can move its threshold."""
        if len(self.levels) < 2:
            raise WheelsError(
                f"rule {self.name!r} does not say which thresholds give which use, and online mode moves along them; "
                "use a calibrated rule and leave its threshold, or set the rule's levels"
            )
        return self


@dataclass(frozen=True)
class EvenRule(Rule):
    """Call at every k-th token, `k = 1 / r` for the rate `r = 1 - threshold`.

    At position t where `floor((t + 1) r + phase) > floor(t r + phase)`: gaps of floor(k) and ceil(k) tokens only. The
    score is the phase in [0, 1), the row's own: with one for all, texts shorter than k would never call, or all would.
    """

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows whose turn it is."""
        rate = min(max(1.0 - self.threshold, 0.0), 1.0)
        phase_B, position_B = self.scored(step), step.position_B.double()
        return ((position_B + 1) * rate + phase_B).floor() > (position_B * rate + phase_B).floor()
