"""Dollars mode: a threshold that moves with what calls cost, so that a budget of dollars lasts for all texts of a run.

After each decided state, with `u` the share of the states left that the money left pays for,

    u = money left / (cost of a call * states left),   level = u + sum RATE * (u - called),

and the threshold is the one that was calibrated to give the use `level`, as in online mode
(`wheels.decoding.methods.online`). What is left is measured: the money by the ledger, the cost of a call by the latest
of them, the states by the texts that have ended. So an error of any of the three, or a drift, is spread over the texts
that are left. Where u >= 1 every state calls. The plan is to be done before the end: by half a text for each one in
flight, for nobody knows how long these will be, and by the time that the last calls take; but by no more than a 32nd of
all. Under a low ceiling one call is more than half a percent of it. So what is left for less than `CLOSING` of them
goes to the first state, whatever its score, and buys as many tokens as it pays for. What a server finds in its cache
was reserved, and is left over; so this state is of a text of which nothing was found there yet, if there is one.

The ledger holds the ceiling, whatever is decided here: a call that could pass it is not made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from wheels.decoding.methods.choices import PACED
from wheels.decoding.methods.method import Method
from wheels.decoding.methods.online import HIGHEST, LOWEST, RATE, threshold_at
from wheels.decoding.methods.rule import Rule
from wheels.decoding.remote.auto import choose_spans
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.span import LONGEST
from wheels.decoding.remote.teacher import RemoteTeacher
from wheels.decoding.sequences import Sequence
from wheels.decoding.step import Step
from wheels.errors import WheelsError
from wheels.models.pair import Pair

LATEST = 100
"""Calls, and ended texts, that a mean is about: one of more forgets the oldest."""
USUAL = 4
"""Tokens that a call is taken to buy where that is chosen, until there has been one."""
CLOSING = 2
"""Calls that the last money pays for, which is spent to the end."""
LAST = 4
"""Calls whose answers are not waited for together with others': what they cost decides about the rest."""


@dataclass
class Mean:
    """A mean of the latest values; of the first ones a plain mean, and a guess before there is one."""

    value: float
    count: int = 0

    def add(self, value: float) -> None:
        """Take in a value."""
        self.count = min(self.count + 1, LATEST)
        self.value += (value - self.value) / self.count


class DollarPacer:
    """A rule whose threshold follows the money that is left; what moves the threshold of online mode has the same form.

    Args:
        rule: Scores the states; its levels say which threshold gives which use.
        remote: The teacher, and its ledger.
        sequences: The first texts of the run.
        total: Its texts; None: these alone.
    """

    def __init__(self, rule: Rule, remote: RemoteTeacher, sequences: list[Sequence], total: int | None = None) -> None:
        self.rule, self.remote, self.ledger = rule, remote, remote.ledger
        self.left = len(sequences) if total is None else total
        """Texts that have not ended."""
        self.total = self.left
        length = sum(min(len(each.source), each.limit) for each in sequences) / max(1, len(sequences))
        usual = USUAL if remote.span.chosen else remote.span.most
        self.typical = max(1.0, length / usual)
        """States of a text, as far as its source tells: as many as that has tokens."""
        self.ended: deque[int] = deque(maxlen=LATEST)
        """States of the latest ended texts in which the rule was asked."""
        self.cost = Mean(self.ledger.cost_of(round(length), usual))
        """Picodollars of a call."""
        self.decided = self.called = 0
        """States, and those of them that called."""
        self.drift = 0.0
        """What the level has beyond u."""
        self.asked: dict[int, int] = {}
        """States of the texts in flight, by their index."""
        self.waiting: set[int] = set()
        """Those whose call has not been answered yet."""
        self.paid: dict[int, int] = {}
        """Picodollars of what they were answered so far."""
        self.cached: set[int] = set()
        """Those of which a server found something in its cache."""

    @property
    def spent(self) -> dict[float, tuple[int, int]]:
        """Nothing beside what the ledger holds."""
        return {}

    def resume(self, spent: Mapping[float, tuple[int, int]]) -> None:
        """Go on from what the ledger holds."""

    def decide(self, step: Step, sequences: list[Sequence]) -> torch.Tensor:
        """Return the texts that call, bool `[R]`; one is decided after the other, in their order."""
        share = min(max(self._share(), 0.0), 1.0)  # what a trained head is told as its budget
        step = replace(step, budget_B=torch.full_like(step.budget_B, share))
        scores = self.rule.scored(step).tolist()
        called = [self._decide(sequence, score) for sequence, score in zip(sequences, scores, strict=True)]
        choose_spans(self.rule, step, sequences, lambda _: self._price())
        for sequence, call in zip(sequences, called, strict=True):
            if call and self._money() < self.cost.value and len(self.waiting) == 1:
                read = len(sequence.source) + len(sequence.tokens)
                sequence.span = max(1, int(min(self.ledger.fits(read, 1), LONGEST)))
        return torch.tensor(called, device=step.position_B.device)

    def _share(self) -> float:
        """Return u, the share of the states left that the money left pays for."""
        if not self.cost.value:
            return 1.0
        return self._money() / (self.cost.value * self._states_left())

    @property
    def hurries(self) -> bool:
        """Whether the money is for the last calls."""
        return self._money() < LAST * self.cost.value

    def _money(self) -> float:
        """Return the picodollars that are left once the calls that wait are paid, at the price of the latest ones."""
        return self.ledger.left - self.cost.value * len(self.waiting)

    def _price(self) -> float:
        """Return what a call has to gain now, in what its rule scores: nothing where the money pays for all of them."""
        share = self._share()
        return 0.0 if share >= 1 else threshold_at(self.rule.levels, share + self.drift)

    def _decide(self, sequence: Sequence, score: float) -> bool:
        """Return whether a text calls, and move the level for the next."""
        read, share = len(sequence.source) + len(sequence.tokens), self._share()
        self.asked[sequence.index] = self.asked.get(sequence.index, 0) + 1
        if self._money() < self.ledger.cost_of(read, 1):
            return False
        level = share + self.drift
        if self._money() < CLOSING * self.cost.value:
            is_last = not self.waiting and not (sequence.index in self.cached and self._is_more_uncached())
            called = is_last or self._money() > self.cost.value
        else:
            called = (
                share >= 1 or level >= HIGHEST or (level > LOWEST and score > threshold_at(self.rule.levels, level))
            )
        if share < 1:
            self.drift = min(max(self.drift + RATE * (share - called), LOWEST), 1.0)
        self.decided, self.called = self.decided + 1, self.called + called
        if called:
            self.waiting.add(sequence.index)
        return called

    def _is_more_uncached(self) -> bool:
        """Whether there is a text, or will be one, of which nothing was found in a cache."""
        return self.left > len(self.asked) or not self.cached.issuperset(self.asked)

    def _states_of_a_text(self) -> float:
        """Return the states of a text, on average.

        The texts that end first are short ones. So those in flight count too, as half written; and until half as many
        have ended as are in flight nothing is known.
        """
        ended, flight = self.ended, len(self.asked)
        if not ended or len(ended) < flight / 2:
            return max(self.typical, sum(ended) / max(1, len(ended)), *self.asked.values())
        return (sum(ended) + sum(self.asked.values())) / (len(ended) + flight / 2)

    def _states_left(self) -> float:
        """Return the states in which the rule will still be asked, but for those of half a text.

        Of a text in flight that is what those that ended had beyond it, if they came as far.
        """
        mean = self._states_of_a_text()
        begun = 0.0
        for asked in self.asked.values():
            beyond = [states - asked for states in self.ended if states >= asked]
            begun += sum(beyond) / len(beyond) if len(beyond) > 1 else max(mean - asked, mean / 4)
        early = max(mean * max(1, len(self.asked)) / 2, CLOSING * self.decided / max(1, self.called))
        return max(1.0, begun + (self.left - len(self.asked)) * mean - min(early, mean * max(0.5, self.total / 32)))

    def recount(self, sequences: Iterable[Sequence]) -> None:
        """Take in what texts were answered; no call of theirs may be waiting."""
        for sequence in sequences:
            self.waiting.discard(sequence.index)
            if sequence.usage.cached:
                self.cached.add(sequence.index)
            paid = self.ledger.pico(sequence.usage)
            if cost := paid - self.paid.get(sequence.index, 0):
                self.cost.add(cost)
            self.paid[sequence.index] = paid

    def leave(self, sequence: Sequence) -> None:
        """Take note of a text that has ended, or is given up."""
        self.recount([sequence])
        self.left -= 1
        if states := self.asked.pop(sequence.index, 0):
            self.ended.append(states)


def pacer_of(pair: Pair, method: Method, sequences: list[Sequence], total: int | None) -> DollarPacer | None:
    """Return what spreads the dollars of a remote teacher over the texts of a run; None outside dollars mode.

    Raises:
        WheelsError: where there are no dollars to spread.
    """
    if method.mode != PACED:
        return None
    if not isinstance(pair, RemotePair) or pair.remote.ledger.budget is None:
        raise WheelsError("budget_mode dollars spreads the budget_dollars of a remote teacher; there are none")
    assert isinstance(method.rule, Rule), "a method refuses what dollars mode cannot move"
    return DollarPacer(method.rule, pair.remote, sequences, total)
