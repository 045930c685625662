"""A decision process of short texts, small enough to be solved and enumerated exactly (float64).

A state is the decisions so far: writing and calling lead to texts of their own, which end at given lengths. Each end
has a reward. A step costs `price (c - b)`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from wheels.agents.rl.paths import Forks

State = tuple[bool, ...]


def no_spans(count: int) -> list[torch.Tensor]:
    """What forks hold of spans where none are asked for."""
    return [torch.empty(count, 0)] * 5


@dataclass(frozen=True)
class Texts:
    """Random rewards and lengths of all decision paths, at most `horizon` long."""

    seed: int
    horizon: int = 4
    alpha: float = 0.7
    price: float = 0.8
    budget: float = 0.3

    @cached_property
    def reward(self) -> dict[State, float]:
        draw = random.Random(self.seed)
        return {state: draw.gauss(0, 1) for state in self.every(self.horizon)}

    @cached_property
    def ends(self) -> dict[State, bool]:
        draw = random.Random(self.seed + 1)
        return {s: len(s) == self.horizon or (len(s) > 1 and draw.random() < 0.25) for s in self.every(self.horizon)}

    @cached_property
    def states(self) -> list[State]:
        """All in which a decision is due and that can be reached, the longest first."""
        reached = [s for s in self.every(self.horizon - 1) if not any(self.ends[s[:k]] for k in range(len(s) + 1))]
        return sorted(reached, key=len, reverse=True)

    def every(self, longest: int) -> Iterator[State]:
        level: list[State] = [()]
        for _ in range(longest + 1):
            yield from level
            level = [(*s, called) for s in level for called in (False, True)]

    def solve(self) -> dict[State, float]:
        """z at the soft optimum, by backward induction: `V = alpha log(e^(Q_w / alpha) + e^(Q_c / alpha))`."""
        value: dict[State, float] = {}
        logit = {}
        for s in self.states:
            write, call = (
                -self.price * (called - self.budget)
                + (self.reward[(*s, called)] if self.ends[(*s, called)] else value[(*s, called)])
                for called in (False, True)
            )
            both = torch.tensor([write, call], dtype=torch.float64) / self.alpha
            value[s] = self.alpha * float(torch.logsumexp(both, 0))
            logit[s] = (call - write) / self.alpha
        return logit

    def suffixes(self, s: State, logit: dict[State, float]) -> Iterator[tuple[float, float, int, int, float]]:
        """All ways on from a state: probability, reward, calls, tokens, and the entropies of the decisions."""
        if self.ends[s]:
            yield 1.0, self.reward[s], 0, 0, 0.0
            return
        g = torch.distributions.Bernoulli(logits=torch.tensor(logit[s], dtype=torch.float64))
        for called in (False, True):
            share = float(g.probs) if called else 1 - float(g.probs)
            for p, reward, calls, tokens, entropy in self.suffixes((*s, called), logit):
                yield share * p, reward, calls + called, tokens + 1, entropy + float(g.entropy())

    def forks(self, logit: dict[State, float]) -> tuple[Forks, torch.Tensor, torch.Tensor]:
        """Every pair of ways on after both actions of every state: the forks, their probabilities, and the states."""
        rows, share, place = [], [], []
        for number, s in enumerate(self.states):
            for after_write in self.suffixes((*s, False), logit):
                for after_call in self.suffixes((*s, True), logit):
                    share.append(after_write[0] * after_call[0])
                    rows.append([call - write for write, call in zip(after_write[1:], after_call[1:], strict=True)])
                    place.append(number)
        reward_N, calls_N, tokens_N, entropy_N = torch.tensor(rows, dtype=torch.float64).T
        budget_N = torch.full_like(reward_N, self.budget)
        empty = torch.zeros(len(rows), 0)
        known = Forks(
            empty, budget_N, torch.ones_like(reward_N), reward_N, calls_N + 1, tokens_N, entropy_N, *no_spans(len(rows))
        )
        return known, torch.tensor(share, dtype=torch.float64), torch.tensor(place)
