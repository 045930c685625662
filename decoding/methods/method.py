"""What a way of decoding is: when the teacher is called, and what it does with the draft that it then reads.

Deferral trusts the draft; speculative decoding, BiLD and cascades verify it. All are one loop (`decoding.engine`) and
differ in the two small policies that a `Method` names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from wheels.decoding.methods.rules import SIMPLE, Rule, ThresholdRule
from wheels.decoding.methods.verify import Cascade, Speculative, TakeBack, Verifier
from wheels.errors import WheelsError, check_budget, check_kind, check_number, check_whole, shown

LONGEST_DRAFT = 16
"""Tokens of a draft at most where its length is chosen from the acceptance."""


@dataclass(frozen=True)
class Method:
    """A way of decoding.

    Raises:
        WheelsError: for parts that do not go together.
    """

    name: str
    """What it is called by in traces and results."""
    rule: Rule | None = None
    """Calls the teacher where the student should not write; None: only a full draft does."""
    verifier: Verifier | None = None
    """Judges the draft; None: what the student wrote stands."""
    draft: int | None = None
    """K, the most student tokens between two teacher passes; None: no limit."""
    adaptive: bool = False
    """Whether each row's K follows from its acceptance and the measured costs; `draft` is then where it starts. The law
    of the text stays, but which of a row's numbers decide depends on K: sampled texts then differ between machines."""
    lookup: bool = False
    """Whether drafts are copied from source and text (`wheels.decoding.methods.lookup`): the student never runs."""

    def __post_init__(self) -> None:
        """Check that the parts go together."""
        for part in ("rule", "verifier"):
            check_kind(part, getattr(self, part), (Callable, type(None)), f"a {part}, or None")
        if self.draft is not None:
            check_whole("draft length", self.draft)
        if self.draft is None and (self.rule is None or self.adaptive or self.lookup):
            raise WheelsError(f"{self.name} calls the teacher when a draft is full: give it a draft length")
        if self.verifier is None and (self.adaptive or self.lookup):
            raise WheelsError(f"{self.name} has drafts that nobody verifies; give it a verifier")
        if self.rule is not None and self.lookup:
            raise WheelsError(f"{self.name} copies its drafts, and rule {self.rule.name!r} needs a student that writes")
        if self.rule is not None and self.rule.needs_teacher and self.verifier is not None:
            raise WheelsError(
                f"rule {self.rule.name!r} reads the teacher before every token: nothing is left to verify"
            )

    @property
    def complete(self) -> bool:
        """Whether every token must have been verified before a text is final."""
        return self.verifier is not None and self.verifier.complete


def method_of(given: object) -> Method:
    """Return a method as it is, and deferral by a rule.

    Raises:
        WheelsError: for anything else.
    """
    if isinstance(given, Method):
        return given
    if not callable(given) or not hasattr(given, "needs_teacher"):
        hint = (
            f"; a rule by its name is wheels.decoding.methods.rules.SIMPLE[{given!r}]" if given in tuple(SIMPLE) else ""
        )
        raise WheelsError(f"method must be a Method or a rule, got {shown(given)}{hint}")
    return deferral(cast(Rule, given))


def deferral(rule: Rule) -> Method:
    """Return deferral: the teacher writes where `rule` calls, and what the student wrote stands."""
    check_kind("rule", rule, Callable, "a rule")
    return Method(rule.name, rule)


def speculative(draft: int = 5, *, lenience: float = 0.0, adaptive: bool = False) -> Method:
    """Return speculative decoding with drafts of `draft` tokens; the teacher's own law where `lenience` is 0."""
    return Method("lossy" if lenience else "speculative", None, Speculative(lenience), draft, adaptive)


def prompt_lookup(draft: int = 5, *, lenience: float = 0.0, adaptive: bool = False) -> Method:
    """Return speculative decoding whose drafts are copied from the source and the text."""
    return Method("lookup", None, Speculative(lenience), draft, adaptive, lookup=True)


def bild(fallback: float = 0.6, rollback: float = 3.0, draft: int = 10) -> Method:
    """Return BiLD (Kim et al. 2023, arXiv 2302.07863).

    Args:
        fallback: The teacher is called where `max q < fallback`.
        rollback: The draft is cut at the first token with `-log p > rollback`, in nats.
        draft: And where the student wrote so many tokens by itself.
    """
    rule = SIMPLE["maxprob"].at(1.0 - check_budget(fallback, "fallback"))
    return Method("bild", rule, TakeBack(rollback, "surprise", complete=True), draft)


def cascade(kind: str, alpha: float, draft: int = 5) -> Method:
    """Return a speculative cascade (`wheels.decoding.methods.verify.Cascade`)."""
    return Method(f"cascade-{kind}", None, Cascade(kind, alpha), draft)


def verified_deferral(rule: Rule, threshold: float, *, complete: bool = False, draft: int | None = None) -> Method:
    """Return deferral whose calls also verify the gap that they read anyway.

    Args:
        rule: Calls the teacher.
        threshold: The first token that is worse than the teacher's choice by more, in nats, is taken back.
        complete: Whether what was written after the last call is verified too, by a pass of its own.
        draft: The most student tokens between two passes; None: no limit.
    """
    check_kind("rule", rule, Callable, "a rule")
    return Method(f"{rule.name}-verified", rule, TakeBack(threshold, "regret", complete=complete), draft)


def priced_deferral(
    rule: ThresholdRule, scale: float = 1.0, *, offset: float = 0.0, longest: int | None = None, complete: bool = False
) -> Method:
    """Return deferral whose calls and whose trust in the draft follow one price, lambda, in nats per teacher pass.

    The rule calls where the gain that it predicts exceeds lambda, its threshold; the call's pass takes back the first
    token of the gap whose true regret, `max log p - log p(v)`, exceeds `max(0, scale * lambda + offset)`.

    Args:
        rule: Calls the teacher; its score is a gain in nats, as that of a trained head.
        scale: Nats of regret that are let pass for each nat of the price; infinite: nothing is taken back.
        offset: Nats that are let pass, or not, at any price.
        longest: Student tokens after which a row calls anyway; None: no limit.
        complete: Whether what was written after the last call is verified too, by a pass of its own.

    Raises:
        WheelsError: for a rule without a threshold, a scale below 0, or an offset that is no number.
    """
    check_kind("rule", rule, ThresholdRule, "a rule with a threshold")
    check_number("scale", scale, 0, math.inf)
    check_number("offset", offset)
    # 0 times an infinite price, which never calls, is no number; and an infinite scale trusts at any price.
    trusted = scale if math.isinf(scale) else scale and scale * rule.threshold
    verifier = TakeBack(max(0.0, trusted + offset), "regret", complete=complete)
    return Method(f"{rule.name}-priced", rule, verifier, longest)
