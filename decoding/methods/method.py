"""Methods: when the teacher is called, whether it verifies the student's tokens, and under which budget.

Deferral keeps what the student wrote. Speculative decoding, BiLD and cascades verify it. All run in one loop
(`decoding.engine`); a `Method` names what differs.

Who keeps the budget:
- budget 0 never calls and budget 1 always does, whatever the rule: the engine sees to it;
- `strict`: the engine, at every prefix of every text (`wheels.decoding.methods.budget`);
- `average`: the rule's threshold, which was calibrated to this budget; nothing else limits the calls. A rule of another
  kind, without a threshold, keeps it by itself: it reads `Step.budget_B`;
- `online`: a threshold that moves with what was spent (`wheels.decoding.methods.online`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from wheels.decoding.methods.choices import MODES, PACED
from wheels.decoding.methods.rule import AnyRule, EvenRule, Rule
from wheels.decoding.methods.rules import RULES
from wheels.decoding.methods.verify import Cascade, Speculative, ThresholdVerifier, Verifier
from wheels.decoding.sampling import Sampling
from wheels.errors import WheelsError, check_budget, check_choice, check_kind, check_number, check_whole, shown

LONGEST_DRAFT = 16
"""Tokens of a draft at most where its length is chosen from the acceptance."""


@dataclass(frozen=True)
class Method:
    """A way of decoding.

    Raises:
        WheelsError: for parts that do not go together, or a budget that nothing would keep.
    """

    name: str
    """What it is called by in traces and results."""
    rule: AnyRule | None = None
    """Calls the teacher where the student should not write; None: only a full draft does."""
    verifier: Verifier | None = None
    """Verifies the draft; None: every student token is kept."""
    draft: int | None = None
    """K, the most student tokens between two teacher passes; None: no limit."""
    adaptive: bool = False
    """Whether each row's K follows from its acceptance and the measured costs, starting at `draft`. The distribution of
    texts stays, but which draw decides which token depends on K: sampled texts then differ between machines."""
    lookup: bool = False
    """Whether drafts are copied from source and text (`wheels.decoding.methods.lookup`): the student never runs."""
    budget: float | Sequence[float] | None = None
    """The share of tokens that the teacher may write, in [0, 1]: for all texts, or one for each. None: the one that the
    rule's threshold was calibrated to; where there is none, no limit."""
    mode: str = "average"
    """Who keeps the budget: `average`, `online` or `strict`; `dollars`: those of a remote teacher are kept."""
    burst: int = 0
    """Teacher tokens that strict mode may spend ahead."""

    def __post_init__(self) -> None:
        """Check that the parts go together; the rule takes the threshold of the budget."""
        own = self.rule.budget if self.budget is None and isinstance(self.rule, Rule) else self.budget
        object.__setattr__(self, "budget", _budgets_of(own))
        self._check_parts()
        check_choice("budget_mode", self.mode, (*MODES, PACED))
        check_whole("burst", self.burst)
        self._check_budget()
        object.__setattr__(self, "rule", self._rule_of_budget())

    def _check_parts(self) -> None:
        """Raise a `WheelsError` for parts that do not go together."""
        for part in ("rule", "verifier"):
            check_kind(part, getattr(self, part), (Callable, type(None)), f"a {part}, or None")
        if self.draft is not None:
            check_whole("draft length", self.draft)
        one_model = self.rule is None and self.verifier is None and self.budget in (0, 1)
        if self.draft is None and ((self.rule is None and not one_model) or self.adaptive or self.lookup):
            raise WheelsError(f"{self.name} calls the teacher when a draft is full: give it a draft length")
        if self.verifier is None and (self.adaptive or self.lookup):
            raise WheelsError(f"{self.name} has drafts that nobody verifies; give it a verifier")
        if self.rule is not None and self.lookup:
            raise WheelsError(f"{self.name} copies its drafts, and rule {self.rule.name!r} needs a student that writes")
        if self.rule is not None and self.rule.needs_teacher and self.verifier is not None:
            raise WheelsError(
                f"rule {self.rule.name!r} reads the teacher before every token: nothing is left to verify"
            )

    def _check_budget(self) -> None:
        """Raise a `WheelsError` for a budget or a mode that this method does not keep."""
        if self.mode == "strict" and self.verifier is not None:
            raise WheelsError(
                "strict mode cannot take tokens back; use budget_mode average with a method that verifies"
            )
        if self.mode == PACED and (self.budget is not None or self.verifier is not None or self.rule is None):
            raise WheelsError(f"budget_mode {PACED} spreads dollars over the calls of a rule; leave teacher_budget")
        if self.budget is None:
            if self.mode not in ("average", PACED):
                raise WheelsError(
                    f"{self.name} keeps no budget, so {self.mode} mode has nothing to do; give a budget in [0, 1], or "
                    "use budget_mode average"
                )
            return
        if self.rule is None and (self.draft is not None or self.between):
            raise WheelsError(f"{self.name} calls when a draft is full and keeps no budget; give budget=None")
        if self.complete and 0 in self.budgets:
            raise WheelsError(
                f"{self.name} verifies every token and cannot keep budget 0; give a larger one, or deferral"
            )
        if self.mode == "online" and self.adaptive:
            raise WheelsError(f"{self.name} drafts as its times were measured, so online mode would differ by the run")

    def _rule_of_budget(self) -> AnyRule | None:
        """Return the rule under the threshold of its budget; budgets 0 and 1 ask none.

        Raises:
            WheelsError: for a rule that would never call, or whose threshold does not keep the budget.
        """
        rule = self.rule
        if self.mode == "online" and self.between and not isinstance(rule, Rule):
            assert rule is not None, "checked before"
            raise WheelsError(
                f"rule {rule.name!r} has no threshold that online mode could move; use budget_mode average"
            )
        if self.mode == PACED:
            if not isinstance(rule, Rule) or isinstance(rule, EvenRule):
                assert rule is not None, "checked before"
                raise WheelsError(
                    f"rule {rule.name!r} has no threshold that budget_mode {PACED} could move; give a teacher_budget"
                )
            return rule.for_budget(0.5, "online")  # for its levels
        if not isinstance(rule, Rule):
            return rule
        if self.budget is None and rule.threshold == math.inf and self.draft is None:
            raise WheelsError(f"rule {rule.name!r} has no threshold, so it never calls; give a budget, or rule.at(...)")
        fitted = [rule.for_budget(budget, self.mode) for budget in self.between]
        moves = self.mode == "online" and not isinstance(rule, EvenRule)
        if not moves and any(each.threshold != fitted[0].threshold for each in fitted):
            raise WheelsError(
                f"rule {rule.name!r} has one threshold and cannot keep budgets {self.between[0]:g} and "
                f"{self.between[1]:g} at once; decode the texts of each budget by themselves, or use budget_mode online"
            )
        return fitted[0] if fitted else rule

    @property
    def complete(self) -> bool:
        """Whether every token must have been verified before a text is final."""
        return self.verifier is not None and self.verifier.complete

    def draft_probs(self, sampling: Sampling) -> int:
        """Return for how many draft tokens the student's distribution must be kept: its longest draft, or none."""
        if self.lookup or self.verifier is None or not self.verifier.needs_draft_probs(sampling):
            return 0
        assert self.draft is not None, "a verifier that compares distributions has drafts of a length"
        return max(LONGEST_DRAFT if self.adaptive else 0, self.draft)

    @property
    def budgets(self) -> tuple[float, ...]:
        """All budgets; none where there is no limit."""
        if self.budget is None:
            return ()
        return tuple(self.budget) if isinstance(self.budget, Sequence) else (self.budget,)

    @property
    def between(self) -> list[float]:
        """The budgets between 0 and 1, which something must keep, each once, in rising order."""
        return sorted({budget for budget in self.budgets if 0 < budget < 1})

    def budget_of(self, index: int) -> float:
        """Return the budget of the text at a place among the sources; without one, 1."""
        if self.budget is None:
            return 1.0
        return float(self.budget[index] if isinstance(self.budget, Sequence) else self.budget)

    def check_count(self, inputs: int) -> None:
        """Raise a `WheelsError` where there are several budgets, but not one for each input."""
        if isinstance(self.budget, Sequence) and len(self.budget) != inputs:
            raise WheelsError(
                f"budget must be one number or one for each of the {inputs} inputs, got {len(self.budget)}"
            )


def _budgets_of(given: Any) -> float | tuple[float, ...] | None:
    """Return budgets as floats: None, one, or a tuple of them for any list or array."""
    if given is None:
        return None
    several = isinstance(given, Iterable) and getattr(given, "ndim", 1) == 1
    if several and not isinstance(given, str | bytes | Mapping | Set):
        return tuple(map(check_budget, given))
    return check_budget(given)


def check_method(given: object) -> Method:
    """Return a method as it is.

    Raises:
        WheelsError: for anything else.
    """
    if isinstance(given, Method):
        return given
    hint = "; a rule becomes one by deferral(rule, budget=...)" if hasattr(given, "needs_teacher") else ""
    raise WheelsError(f"method must be a Method, such as deferral(rule, budget=0.2), got {shown(given)}{hint}")


def deferral(
    rule: AnyRule, budget: float | Sequence[float] | None = None, mode: str = "average", *, burst: int = 0
) -> Method:
    """Return deferral: the teacher writes where `rule` calls, the student everywhere else.

    Args:
        rule: Calls the teacher.
        budget: The share of tokens that the teacher may write, for all texts, or one for each. A rule with a threshold
            takes the one that was calibrated to this budget. None: no limit; the rule's own threshold decides alone.
        mode: Who keeps the budget: `strict` the engine, `average` the calibrated threshold, `online` one that moves. A
            threshold set by hand (`rule.at(...)`) goes with a budget in strict mode only.
        burst: Teacher tokens that strict mode may spend ahead.
    """
    check_kind("rule", rule, Callable, "a rule")
    return Method(rule.name, rule, budget=budget, mode=mode, burst=burst)


def student_only() -> Method:
    """Return the student alone."""
    return Method("student", budget=0.0)


def teacher_only() -> Method:
    """Return the teacher alone."""
    return Method("teacher", budget=1.0)


def speculative(draft: int = 5, *, lenience: float = 0.0, adaptive: bool = False) -> Method:
    """Return speculative decoding with drafts of `draft` tokens; lossless where `lenience` is 0."""
    return Method("lossy" if lenience else "speculative", None, Speculative(lenience), draft, adaptive)


def prompt_lookup(draft: int = 5, *, lenience: float = 0.0, adaptive: bool = False) -> Method:
    """Return speculative decoding whose drafts are copied from the source and the text."""
    return Method("lookup", None, Speculative(lenience), draft, adaptive, lookup=True)


def bild(fallback: float = 0.6, rollback: float = 3.0, draft: int = 10) -> Method:
    """Return BiLD (Kim et al. 2023, arXiv 2302.07863).

    Args:
        fallback: The teacher is called where `max q < fallback`.
        rollback: The draft is rolled back to the first token with `-log p > rollback`, in nats.
        draft: The most student tokens between two teacher passes.
    """
    rule = RULES["maxprob"].at(1.0 - check_budget(fallback, "fallback"))
    return Method("bild", rule, ThresholdVerifier(rollback, "surprise", complete=True), draft)


def take_back(draft: int = 16, tolerance: float = 2.0) -> Method:
    """Return drafts of one length, cut at the first token that the teacher finds too bad; no rule calls.

    Args:
        draft: Student tokens between two passes of the teacher.
        tolerance: The first token with `max log p - log p(v)` above this, in nats, is taken back.
    """
    return Method("take-back", None, ThresholdVerifier(tolerance, "regret", complete=True), draft)


def cascade(kind: str, alpha: float, draft: int = 5) -> Method:
    """Return a speculative cascade (`wheels.decoding.methods.verify.Cascade`)."""
    return Method(f"cascade-{kind}", None, Cascade(kind, alpha), draft)


def verified(
    rule: AnyRule,
    budget: float | Sequence[float] | None = None,
    mode: str = "average",
    *,
    tolerance: float = 2.0,
    complete: bool = False,
    draft: int | None = None,
) -> Method:
    """Return deferral whose calls also verify the student tokens since the last one.

    The budget counts tokens that were kept. Full drafts, and `complete`, call where the rule does not.

    Args:
        rule: Calls the teacher.
        budget: As in `deferral`.
        mode: `average` or `online`: strict mode cannot take tokens back.
        tolerance: Nats below the teacher's own choice that a token may be; the first that is worse is rolled back.
        complete: Whether the tokens after the last call are verified too, by a pass of their own.
        draft: The most student tokens between two passes; None: no limit.
    """
    check_kind("rule", rule, Callable, "a rule")
    verifier = ThresholdVerifier(tolerance, "regret", complete=complete)
    return Method(f"{rule.name}-verified", rule, verifier, draft, budget=budget, mode=mode)


def priced(
    rule: Rule,
    budget: float | None = None,
    mode: str = "average",
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    draft: int | None = None,
    complete: bool = False,
) -> Method:
    """Return deferral whose calls and whose trust in the draft follow one price, lambda, in nats per teacher pass.

    The rule calls where its predicted gain exceeds lambda, its threshold. The call's pass rolls back to the first draft
    token whose true regret, `max log p - log p(v)`, exceeds `max(0, scale * lambda + offset)`.

    Args:
        rule: Calls the teacher; its score is a gain in nats, as that of a trained head.
        budget: As in `deferral`.
        mode: `average` or `online`.
        scale: Nats of regret that are let pass for each nat of the price; infinite: nothing is rolled back.
        offset: Nats that are let pass, or not, at any price.
        draft: The most student tokens between two passes; None: no limit.
        complete: Whether the tokens after the last call are verified too, by a pass of their own.

    Raises:
        WheelsError: for a rule without a threshold, a scale below 0, or an offset that is no number.
    """
    check_kind("rule", rule, Rule, "a rule with a threshold")
    check_number("scale", scale, 0, math.inf)
    check_number("offset", offset)
    ruled = Method(rule.name, rule, budget=budget, mode=mode, draft=draft).rule
    assert isinstance(ruled, Rule)
    # 0 times an infinite price, which never calls, is no number; and an infinite scale trusts at any price.
    trusted = scale if math.isinf(scale) else scale and scale * ruled.threshold
    verifier = ThresholdVerifier(max(0.0, trusted + offset), "regret", complete=complete)
    return Method(f"{rule.name}-priced", ruled, verifier, draft, budget=budget, mode=mode)
