"""When to call: every rule is a score of the state and a threshold, behind one protocol.

A rule sees a `Step` of B rows and answers which of them call the teacher for their next token. Its score is higher
where a call is worth more; the threshold is what a budget was calibrated to (`wheels calibrate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from wheels.decoding.commands.calibration_hint import calibration_hint
from wheels.decoding.methods.choices import RULES, SEEDED, TRAINED
from wheels.decoding.sampling import has_nan
from wheels.decoding.step import Step
from wheels.errors import WheelsError, check_choice, check_number, shown
from wheels.models.artefact import Artefact
from wheels.policy.calibration import Calibration, NotCalibrated
from wheels.policy.features import entropy
from wheels.policy.head import DeferralHead

Score = Callable[[Step], torch.Tensor]
Levels = tuple[tuple[float, float], ...]
"""Uses in rising order, each with the threshold that gives it, which falls."""


class Rule(Protocol):
    """Decides whether to call the teacher."""

    @property
    def name(self) -> str:
        """What it is called by in traces and results."""

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher must read every state: then the rule is a reference, not a way to save."""

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows that call, bool `[B]`."""


@dataclass(frozen=True)
class ThresholdRule:
    """Call where `score(step) > threshold`."""

    name: str
    score: Score
    threshold: float = float("inf")
    needs_teacher: bool = False
    levels: Levels = ()
    """Measured uses and their thresholds, which online mode moves along; it refuses a rule without any."""
    budget: float | None = None
    """The teacher budget that the threshold was calibrated to, the only one that it runs under; None: set by hand."""
    known_rate: bool = False
    """Whether it calls at the rate `1 - threshold` on any data: then no budget needs a calibration."""
    calibrated: Callable[[float, str], ThresholdRule] | None = None
    """Finds the rule under the threshold that a budget was calibrated to, in a mode; None: there is but one."""

    def __post_init__(self) -> None:
        """Check the threshold; an infinite one always or never calls."""
        check_number("threshold", self.threshold, -math.inf, math.inf)

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows whose score exceeds the threshold."""
        return self.scored(step) > self.threshold

    def scored(self, step: Step) -> torch.Tensor:
        """Return the score, `[B]`.

        Raises:
            WheelsError: where it is no number: it would exceed no threshold, and never call.
        """
        score_B = self.score(step)
        if has_nan(score_B):
            raise WheelsError(f"rule {self.name!r} scores a state with nan; check what it reads, and its trained head")
        return score_B

    def at(self, threshold: float, budget: float | None = None) -> ThresholdRule:
        """Return the same rule at another threshold: set by hand, or calibrated to a budget."""
        return replace(self, threshold=threshold, budget=budget, calibrated=None)

    def for_budget(self, budget: float, mode: str = "average") -> ThresholdRule:
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
                f"rule {self.name!r} has no threshold, so it never calls; calibrate it to the budget "
                "(wheels.decoding.methods.rules.calibrated), or set one with rule.at(threshold) and leave the budget"
            )
        if mode == "strict":
            return self
        raise WheelsError(
            f"rule {self.name!r}: threshold {self.threshold:g} decides alone, and teacher_budget={budget:g} would not "
            "be kept; give one of them, or budget_mode='strict', in which the engine keeps it"
        )

    def _moving(self) -> ThresholdRule:
        """Return the rule where online mode can move its threshold."""
        if len(self.levels) < 2:
            raise WheelsError(
                f"rule {self.name!r} does not say which thresholds give which use, and online mode moves along them; "
                "use a calibrated rule and leave its threshold, or set the rule's levels"
            )
        return self


@dataclass(frozen=True)
class EvenRule(ThresholdRule):
    """Call at every k-th token, `k = 1 / r` for the rate `r = 1 - threshold`.

    At position t where `floor((t + 1) r + phase) > floor(t r + phase)`: gaps of floor(k) and ceil(k) tokens only. The
    score is the phase in [0, 1), the row's own: with one for all, texts shorter than k would never call, or all would.
    """

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows whose turn it is."""
        rate = min(max(1.0 - self.threshold, 0.0), 1.0)
        phase_B, position_B = self.scored(step), step.position_B.double()
        return ((position_B + 1) * rate + phase_B).floor() > (position_B * rate + phase_B).floor()


def called(rule: Rule, step: Step) -> torch.Tensor:
    """Ask a rule which rows call, bool `[B]`.

    Raises:
        WheelsError: for an answer of another shape or kind, which would be taken for other rows.
    """
    call_B = rule(step)
    if not isinstance(call_B, torch.Tensor) or call_B.shape != step.position_B.shape or call_B.dtype != torch.bool:
        found = f"{call_B.dtype} {list(call_B.shape)}" if isinstance(call_B, torch.Tensor) else shown(call_B)
        raise WheelsError(
            f"rule {rule.name!r} must answer with one torch.bool for each of {len(step.position_B)} rows, got {found}"
        )
    return call_B


def random_score(step: Step) -> torch.Tensor:
    """Draw lots: a call rate of `r` is the threshold `1 - r`."""
    return step.noise_B


def first_score(step: Step) -> torch.Tensor:
    """`u - 1 - position`, `u` drawn from [0, 1): the threshold `-k` calls at the first k tokens, k any real number.

    Without the draw k would be whole, and use would jump from one k to the next: with it the token after the last whole
    one is the teacher's in the share of the texts that is left over.
    """
    return step.noise_B - 1.0 - step.position_B


def maxprob_score(step: Step) -> torch.Tensor:
    """`1 - max_v q(v)`: Chow's rule (Chow 1970); the fallback of BiLD (Kim et al. 2023, arXiv 2302.07863)."""
    return 1.0 - step.log_q_BV.max(-1).values.exp()


def entropy_score(step: Step) -> torch.Tensor:
    """`H(q)`, in nats."""
    return entropy(step.log_q_BV)


def margin_score(step: Step) -> torch.Tensor:
    """`-(q_1 - q_2)`, the two best probabilities."""
    best_B2 = step.log_q_BV.topk(2, dim=-1).values.exp()
    return best_B2[:, 1] - best_B2[:, 0]


def oracle_score(step: Step) -> torch.Tensor:
    """The true greedy regret, with the teacher at hand: a reference for every rule that predicts it.

    No ceiling: it knows what the next token costs, and not what a call does to the rest of the text.

    Where both models agree the regret is 0; such ties are broken by the student's entropy, so that every budget has a
    threshold.
    """
    return step.regret_B + 1e-5 * entropy(step.log_q_BV)


def head_score(head: DeferralHead) -> Score:
    """The expected gain of a call, predicted by a trained head that is told the budget.

    In nats for `learned` and `regret`; for `gate` it is the logit that the student's token is not the teacher's.
    """

    def score(step: Step) -> torch.Tensor:
        with torch.no_grad():
            return head.gain(step.features_BF, step.budget_B)

    return score


def router_score(head: DeferralHead) -> Score:
    """The predicted gain of having the teacher write the whole text, asked once, before anything is written.

    The routing of RouteLMT (Luo et al. 2026, arXiv 2604.22520): the text is the teacher's where its first state's gain
    exceeds the threshold. Later states follow: plus infinity where the teacher wrote every token so far, else minus.
    Left out: the variant that guards against losses.
    """
    gain = head_score(head)

    def score(step: Step) -> torch.Tensor:
        gain_B = gain(step)
        follows_B = torch.where(step.calls_B == step.position_B, float("inf"), float("-inf")).to(gain_B)
        return torch.where(step.position_B == 0, gain_B, follows_B)

    return score


SIMPLE: dict[str, ThresholdRule] = {
    rule.name: rule
    for rule in (
        ThresholdRule("random", random_score, levels=((0.0, 1.0), (1.0, 0.0)), known_rate=True),
        EvenRule("every-k", lambda step: step.row_noise_B, known_rate=True),
        ThresholdRule("first-k", first_score),
        ThresholdRule("maxprob", maxprob_score),
        ThresholdRule("entropy", entropy_score),
        ThresholdRule("margin", margin_score),
        ThresholdRule("oracle", oracle_score, needs_teacher=True),
    )
}
"""The rules that nothing was trained for, by name."""


def scorer(artefact: Artefact, name: str, seed: int = 0) -> ThresholdRule:
    """Return a rule of a trained model: under a budget, with the threshold that it was calibrated to.

    Raises:
        WheelsError: for an unknown rule, or a seed that was not trained.
    """
    check_choice("rule", name, RULES)
    found = SIMPLE.get(name)
    if found is None:
        made = router_score if name == "router" else head_score
        found = ThresholdRule(name, made(artefact.head(name, seed)))
    return replace(found, calibrated=lambda budget, mode: calibrated(artefact, name, budget, seed, mode))


def known_rules(artefact: Artefact) -> tuple[str, ...]:
    """Return the rules that a trained model can be asked for: all but those that need a head that it has not."""
    return tuple(name for name in RULES if name not in TRAINED or artefact.heads.get(name))


def calibrated(artefact: Artefact, name: str, budget: float, seed: int = 0, mode: str = "average") -> ThresholdRule:
    """Return a rule of a trained model with the threshold that its budget was calibrated to.

    In online mode that is where it starts, and the nearest calibrated one will do; it gets those of other uses too.

    Raises:
        WheelsError: as `scorer`, and for a budget that was not calibrated; in online mode for a rule that was not.
    """
    rule, held = scorer(artefact, name, seed), seed if name in SEEDED else 0
    try:
        threshold = threshold_of(artefact.calibration, name, budget, held, mode)
    except NotCalibrated as error:
        raise WheelsError(
            f"{error}{calibration_hint(artefact, [name], None if mode == 'online' else [budget], held)}"
        ) from None
    try:
        levels = artefact.calibration.levels(name, held) if mode == "online" and 0 < budget < 1 else rule.levels
    except NotCalibrated as error:
        raise WheelsError(f"{error}{calibration_hint(artefact, [name], None, held)}") from None
    return replace(rule, levels=levels).at(threshold, budget)


def threshold_of(calibration: Calibration, name: str, budget: float, seed: int, mode: str) -> float:
    """Return the threshold of a budget; in online mode that of the nearest one that was calibrated will do."""
    if mode == "online":
        return calibration.nearest(name, budget, seed)
    return calibration.threshold(name, budget, seed)
