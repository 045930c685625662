"""Verification: how many draft tokens the teacher accepts, and which token it writes after them.

One forward pass of the teacher over a draft gives its distribution at every position. A verifier decides how many draft
tokens are accepted. The teacher writes the next one, so every pass yields at least one token. Sources: Leviathan et al.
2023 (arXiv 2211.17192; speculative decoding, lenience in its appendix), Kim et al. 2023 (2302.07863; BiLD), Narasimhan
et al. 2024 (2405.19261; speculative cascades).

Laws are those that tokens are drawn from: temperature, top-k and top-p applied. Greedy, they are the plain softmax, and
only the criteria read them: the student proposes `argmax q`, and the teacher writes `argmax p`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from wheels.decoding.methods.choices import CASCADES
from wheels.decoding.sampling import Sampling, argmax, best, draw
from wheels.errors import WheelsError, check_choice, check_number


@dataclass(frozen=True)
class Check:
    """The drafts of R rows, with both models' distributions. K is the longest draft."""

    logits_RWV: torch.Tensor
    """The teacher's logits before each draft token, and after the last: W = K + 1."""
    draft_RK: torch.Tensor
    """The draft tokens, int64; those beyond a row's own number are ignored."""
    num_draft_R: torch.Tensor
    """Draft tokens of each row, 0 to K."""
    sampling: Sampling
    """How tokens are drawn."""
    q_RKV: torch.Tensor | None
    """The student's distribution at each draft token; None where it is not needed, or the draft was copied."""
    accept_RK: torch.Tensor
    """A uniform number in [0, 1) for each acceptance, float64."""
    token_RW: torch.Tensor
    """One for each token that the teacher may write, float64."""

    @cached_property
    def p_RWV(self) -> torch.Tensor:
        """The teacher's distribution."""
        return self.sampling.probs(self.logits_RWV)

    @property
    def p_draft_RK(self) -> torch.Tensor:
        """The teacher's probability of each draft token."""
        return self.p_RWV[:, :-1].gather(2, self.draft_RK[..., None]).squeeze(2)

    @property
    def q_draft_RK(self) -> torch.Tensor:
        """The student's; 1 for a token that was copied."""
        if self.q_RKV is None:
            return torch.ones_like(self.draft_RK, dtype=self.p_RWV.dtype)
        return self.q_RKV.gather(2, self.draft_RK[..., None]).squeeze(2)

    @property
    def is_best_RK(self) -> torch.Tensor:
        """Whether each draft token is the teacher's own greedy choice."""
        return argmax(self.logits_RWV[:, :-1]) == self.draft_RK

    def q_at(self, place_R: torch.Tensor) -> torch.Tensor:
        """Return the student's distribution at one place of each row, `[R, V]`; all mass on a token that was copied."""
        row_R = torch.arange(len(place_R), device=place_R.device)
        if self.q_RKV is not None:
            return self.q_RKV[row_R, place_R]
        copied_R1 = self.draft_RK[row_R, place_R][:, None]
        return torch.zeros_like(self.p_RWV[:, 0]).scatter_(1, copied_R1, 1.0)

    def p_at(self, place_R: torch.Tensor) -> torch.Tensor:
        """Return the teacher's distribution at one place of each row, `[R, V]`."""
        return self.p_RWV[torch.arange(len(place_R), device=place_R.device), place_R]

    def num_accepted(self, accepted_RK: torch.Tensor) -> torch.Tensor:
        """Return how many draft tokens come before the first that is not accepted, `[R]`."""
        real_RK = torch.arange(accepted_RK.shape[1], device=accepted_RK.device) < self.num_draft_R[:, None]
        return (accepted_RK & real_RK).long().cumprod(1).sum(1)

    def own_token(self, place_R: torch.Tensor) -> torch.Tensor:
        """Return the teacher's token at one place of each row, as it writes alone, `[R]`."""
        row_R = torch.arange(len(place_R), device=place_R.device)
        if self.sampling.greedy:
            return best(self.logits_RWV[row_R, place_R], "teacher")
        return draw(self.p_at(place_R), self.token_RW[row_R, place_R], "teacher")

    def residual_token(self, num_accepted_R: torch.Tensor, mass_RV: torch.Tensor) -> torch.Tensor:
        """Draw the token after the accepted ones: by `mass`, normalised; where all were accepted, by `p`."""
        total_R1 = mass_RV.sum(-1, keepdim=True)
        cut_R1 = (num_accepted_R < self.num_draft_R)[:, None] & (total_R1 > 0)
        probs_RV = torch.where(cut_R1, mass_RV / total_R1.clamp(min=1e-30), self.p_at(num_accepted_R))
        return draw(
            probs_RV,
            self.token_RW[torch.arange(len(num_accepted_R), device=num_accepted_R.device), num_accepted_R],
            "teacher",
        )


@dataclass(frozen=True)
class Verdict:
    """The outcome of a verification."""

    num_accepted_R: torch.Tensor
    """Draft tokens that are accepted, from the first."""
    token_R: torch.Tensor
    """The teacher's token after them."""


class Verifier(Protocol):
    """Decides how many draft tokens are accepted."""

    @property
    def name(self) -> str:
        """What it is called by in traces and results."""

    @property
    def complete(self) -> bool:
        """Whether every token must have been verified before the text is final."""

    @property
    def bonus(self) -> bool:
        """Whether the teacher writes one token more where the whole draft is accepted."""

    def needs_draft_probs(self, sampling: Sampling) -> bool:
        """Tell whether it reads the student's distribution at every draft token."""

    def __call__(self, check: Check) -> Verdict:
        """Decide."""


@dataclass(frozen=True)
class Speculative:
    """Speculative decoding: accept a draft token v with `min(1, p(v) / ((1 - lenience) q(v)))`.

    Otherwise the teacher draws from `norm(max(0, p - (1 - lenience) q))`. At lenience 0 texts follow exactly the
    teacher's distribution (Leviathan et al. 2023, theorem 1). Greedy: accept where `p(v) >= (1 - lenience) max p`.
    """

    lenience: float = 0.0
    name: str = "speculative"
    complete: bool = True
    bonus: bool = True

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= check_number("lenience", self.lenience) < 1:
            raise WheelsError(f"lenience must be in [0, 1) (0 is lossless), got {self.lenience}")

    def needs_draft_probs(self, sampling: Sampling) -> bool:
        """Only to draw: a greedy draft is compared with the teacher alone."""
        return not sampling.greedy

    def __call__(self, check: Check) -> Verdict:
        """Accept or draw again."""
        strict = 1.0 - self.lenience
        if check.draft_RK.shape[1] == 0:
            return Verdict(check.num_draft_R, check.own_token(check.num_draft_R))
        if check.sampling.greedy:
            accepted_RK = check.is_best_RK
            if self.lenience:
                accepted_RK = accepted_RK | (check.p_draft_RK >= strict * check.p_RWV[:, :-1].amax(-1))
            num_accepted_R = check.num_accepted(accepted_RK)
            return Verdict(num_accepted_R, check.own_token(num_accepted_R))
        num_accepted_R = check.num_accepted(check.accept_RK * strict * check.q_draft_RK < check.p_draft_RK)
        place_R = num_accepted_R.clamp(max=check.draft_RK.shape[1] - 1)
        mass_RV = (check.p_at(place_R) - strict * check.q_at(place_R)).clamp(min=0.0)
        return Verdict(num_accepted_R, check.residual_token(num_accepted_R, mass_RV))


@dataclass(frozen=True)
class ThresholdVerifier:
    """Reject from the first token that the teacher finds worse than a threshold, in nats.

    `surprise`: `-log p(v) > threshold` (the rollback of BiLD, Kim et al. 2023). `regret`: `max log p - log p(v) >
    threshold`: how much better the teacher's own choice is. An infinite threshold accepts all.
    """

    threshold: float
    measure: str = "regret"
    complete: bool = False
    name: str = "take-back"
    bonus: bool = True

    def __post_init__(self) -> None:
        """Check the range."""
        check_choice("measure", self.measure, ("regret", "surprise"))
        check_number("threshold", self.threshold, 0, math.inf)

    def needs_draft_probs(self, sampling: Sampling) -> bool:
        """The teacher alone judges."""
        return False

    def __call__(self, check: Check) -> Verdict:
        """Reject from the first token beyond the threshold."""
        surprise_RK = -check.p_draft_RK.log()
        if self.measure == "regret":
            surprise_RK = surprise_RK + check.p_RWV[:, :-1].amax(-1).log()
        num_accepted_R = check.num_accepted(~(surprise_RK > self.threshold))
        return Verdict(num_accepted_R, check.own_token(num_accepted_R))


@dataclass(frozen=True)
class Cascade:
    """Speculative cascades: speculative sampling against a target distribution between student and teacher.

    `chow`, `diff` and `opt` take the whole distribution of one model at each position. The token rules take the
    student's probability of the tokens that they accept, and the teacher's distribution for the remaining mass:
    `pi(v) = q(v) [v accepted] + (sum of q over what is not accepted) p(v)` (Narasimhan et al. 2024, tables 1 and 2).
    No bonus token: the target is known only where both models have read.
    """

    kind: str
    alpha: float
    complete: bool = True
    bonus: bool = False

    def __post_init__(self) -> None:
        """Check the rule's name, and alpha."""
        check_choice("cascade", self.kind, CASCADES)
        check_number("alpha", self.alpha, -math.inf, math.inf)

    @property
    def name(self) -> str:
        """The rule."""
        return f"cascade-{self.kind}"

    def needs_draft_probs(self, sampling: Sampling) -> bool:
        """Every criterion compares both distributions."""
        return True

    def target(self, p_RKV: torch.Tensor, q_RKV: torch.Tensor) -> torch.Tensor:
        """Compute the distribution that the text follows, pi, at each place."""
        accepted_RKV = self.accepted(p_RKV, q_RKV)
        if self.kind in ("chow", "diff", "opt"):
            return torch.where(accepted_RKV, q_RKV, p_RKV)
        taken_RKV = q_RKV * accepted_RKV
        return taken_RKV + (1.0 - taken_RKV.sum(-1, keepdim=True)).clamp(min=0.0) * p_RKV

    def accepted(self, p_RKV: torch.Tensor, q_RKV: torch.Tensor) -> torch.Tensor:
        """Tell which tokens the student may write: all or none at a place, or each by itself; bool `[R, K, V or 1]`."""
        best_p, best_q = p_RKV.max(-1, keepdim=True).values, q_RKV.max(-1, keepdim=True).values
        if self.kind == "chow":
            return best_q >= 1.0 - self.alpha
        if self.kind == "diff":
            return best_q >= best_p - self.alpha
        if self.kind == "opt":
            distance = 0.5 * (p_RKV - q_RKV).abs().sum(-1, keepdim=True)
            return best_q >= best_p - self.alpha * distance
        if self.kind == "token-v1":
            return q_RKV >= best_p - self.alpha
        if self.kind == "token-v2":
            return p_RKV >= best_p - self.alpha
        return p_RKV >= (1.0 - self.alpha) * best_p

    def __call__(self, check: Check) -> Verdict:
        """Accept or draw again, against the target."""
        if check.draft_RK.shape[1] == 0:
            return Verdict(check.num_draft_R, check.own_token(check.num_draft_R))
        if check.q_RKV is None:
            raise WheelsError(
                "a cascade compares two distributions, and a draft that is copied has none; let the student draft"
            )
        p_RKV, q_RKV = check.p_RWV[:, :-1], check.q_RKV
        if check.sampling.greedy:
            accepted_RKV = self.accepted(p_RKV, q_RKV)
            may_RK = accepted_RKV.expand_as(p_RKV).gather(2, check.draft_RK[..., None]).squeeze(2)
            num_accepted_R = check.num_accepted(may_RK | check.is_best_RK)
            return Verdict(num_accepted_R, check.own_token(num_accepted_R))
        target_RKV = self.target(p_RKV, q_RKV)
        drafted_RK = target_RKV.gather(2, check.draft_RK[..., None]).squeeze(2)
        num_accepted_R = check.num_accepted(check.accept_RK * check.q_draft_RK < drafted_RK)
        place_R = num_accepted_R.clamp(max=check.draft_RK.shape[1] - 1)
        row_R = torch.arange(len(place_R), device=place_R.device)
        mass_RV = (target_RKV[row_R, place_R] - q_RKV[row_R, place_R]).clamp(min=0.0)
        return Verdict(num_accepted_R, check.residual_token(num_accepted_R, mass_RV))
