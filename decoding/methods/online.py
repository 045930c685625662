"""Online mode: a threshold that moves with the teacher tokens spent so far, and so keeps the budget on any data.

Adaptive conformal inference (Gibbs and Candes 2021, https://arxiv.org/abs/2106.00170, eq. 2 and proposition 4.1), whose
error is a call here: after each decided state

    level <- level + RATE * (budget - called),   so that   level = start - RATE * (calls - budget * tokens),

and the threshold is the one that was calibrated to give the use `level` (`threshold_at`). So the threshold moves by
`RATE * slope * (called - budget)`, with `slope` the distance between the thresholds of neighbouring calibrated uses
over that of the uses: no unit of the score matters, and steps are large only where the scores lie far apart. It goes on
beyond the calibrated uses, for other data may need that; where the level leaves [-1, 2] it never, or always, calls. The
level is thus within `reach = 1 + max(start, 1 - start)` of where it began, but for one step, and

    |calls / N - budget| <= (reach + RATE) / (RATE * N)

after N states, whatever the data: drifting, or chosen by an adversary who knows the threshold. Scores in [lowest,
highest] narrow it to `(highest - lowest + step) / (step * N)` where the thresholds are one line, `step = RATE * slope`.
Left out: rates that decay. A threshold that moves ever less cannot follow what changes late, and the bound falls as
1 / N without them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from wheels.decoding.methods.method import Method
from wheels.decoding.methods.rule import EvenRule, Levels, Rule
from wheels.decoding.remote.auto import choose_spans
from wheels.decoding.sequences import Sequence
from wheels.decoding.step import Step

RATE = 0.01
"""The share of an error in use that one state corrects. An error is gone after some 1 / RATE = 100 tokens; a
threshold that is wrong by d of use costs d / RATE tokens once, so d = 0.3 is 0.01 of use after 3,000; and in a text of
20 tokens the threshold moves by no more than 0.2 of use, so that the scores still decide."""
LOWEST, HIGHEST = -1.0, 2.0
"""Levels at which nothing, and everything, calls: far enough from [0, 1] that a threshold can go on beyond the
calibrated uses by their whole range."""


def threshold_at(levels: Levels, level: float) -> float:
    """Compute the threshold of a level: on the straight line between the neighbouring points, or on from the last two.

    Args:
        levels: Measured uses in rising order, each with its threshold, which falls; two at least.
        level: The use that is wanted; may lie outside [0, 1].
    """
    pairs = list(itertools.pairwise(levels))
    (left, high), (right, low) = next((pair for pair in pairs if level <= pair[1][0]), pairs[-1])
    return high + (low - high) * (level - left) / (right - left)


@dataclass
class OnlineThreshold:
    """The threshold of one budget."""

    budget: float
    """The share of the tokens that the teacher may write, in (0, 1)."""
    levels: Levels
    """Uses and their thresholds."""
    calls: int = 0
    """Tokens that the teacher wrote, or has been called for."""
    tokens: int = 0
    """All tokens."""

    @property
    def start(self) -> float:
        """The level before the first state: the budget, or the nearest use that was calibrated."""
        return min(max(self.budget, self.levels[0][0]), self.levels[-1][0])

    @property
    def level(self) -> float:
        """`start - RATE * (calls - budget * tokens)`: from the counts, so that no rounding adds up."""
        return self.start - RATE * (self.calls - self.budget * self.tokens)

    def decide(self, score: float) -> bool:
        """Return whether a state calls, and move the threshold for the next."""
        level = self.level
        called = level >= HIGHEST or (level > LOWEST and score > threshold_at(self.levels, level))
        self.count(int(called), 1)
        return called

    def count(self, calls: int, tokens: int) -> None:
        """Take in tokens; negative ones were rolled back."""
        self.calls, self.tokens = self.calls + calls, self.tokens + tokens


class OnlineBudget:
    """A rule whose threshold follows the texts of one run: a threshold for each budget among them.

    It counts tokens. A state in which the rule is asked is one token: the teacher's where it calls, counted at once
    though the text may wait for others; else the student's. A text is counted again (`recount`) where tokens are rolled
    back, where it ends early, or where the teacher writes unasked (a full draft). Texts of budget 0 or 1 are never
    asked, and do not count. The router decides once for a text and its later states follow, so its error may be larger
    by the texts in flight.

    Args:
        rule: Scores the states. Its levels are read, and not its threshold.
        budgets: Those of the texts.
        levels: Those of the rule.
    """

    def __init__(self, rule: Rule, budgets: set[float], levels: Levels) -> None:
        self.rule = rule
        self.thresholds = {budget: OnlineThreshold(budget, levels) for budget in budgets if 0 < budget < 1}

    @property
    def spent(self) -> dict[float, tuple[int, int]]:
        """Calls and tokens by budget."""
        return {budget: (threshold.calls, threshold.tokens) for budget, threshold in self.thresholds.items()}

    def resume(self, spent: Mapping[float, tuple[int, int]]) -> None:
        """Go on from what earlier texts spent, as `spent` tells it; before any text is decided."""
        for budget, (calls, tokens) in spent.items():
            self.thresholds[budget].count(calls, tokens)

    def decide(self, step: Step, sequences: list[Sequence]) -> torch.Tensor:
        """Return the texts that call, bool `[R]`; one is decided after the other, in their order."""
        call_R = []
        for sequence, score in zip(sequences, self.rule.scored(step).tolist(), strict=True):
            threshold = self.thresholds.get(sequence.budget)
            called = threshold is not None and threshold.decide(score)
            calls, tokens = sequence.counted
            sequence.counted = calls + called, tokens + 1
            call_R.append(called)
        choose_spans(self.rule, step, sequences, self._price)
        return torch.tensor(call_R, device=step.position_B.device)

    def _price(self, sequence: Sequence) -> float:
        """Return the present threshold of a text's budget."""
        threshold = self.thresholds.get(sequence.budget)
        return 0.0 if threshold is None else threshold_at(threshold.levels, threshold.level)

    def leave(self, sequence: Sequence) -> None:
        """Count a text that has ended, or is given up, as it is."""
        self.recount([sequence])

    def recount(self, sequences: Iterable[Sequence]) -> None:
        """Count texts as they are; no call of theirs may be waiting."""
        for sequence in sequences:
            calls, tokens = sequence.counted
            sequence.counted = found = sequence.by_teacher.count(True), len(sequence.tokens)
            if (threshold := self.thresholds.get(sequence.budget)) is not None:
                threshold.count(found[0] - calls, found[1] - tokens)


def online_budget_of(method: Method, budgets: set[float]) -> OnlineBudget | None:
    """Return what moves the threshold of a method's rule; None outside online mode, and where nothing need move.

    Nothing need move without a budget between 0 and 1, and for `every-k`, which calls at its rate on any data.
    """
    rule = method.rule
    if method.mode != "online" or not any(0 < budget < 1 for budget in budgets) or isinstance(rule, EvenRule):
        return None
    assert isinstance(rule, Rule), "a method refuses what online mode cannot move"
    return OnlineBudget(rule, budgets, rule.levels)
