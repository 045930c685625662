"""A decision process of short texts over three tokens, small enough to be solved and enumerated exactly (float64)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

VOCABULARY = 3
END = 0
Prefix = tuple[int, ...]


@dataclass(frozen=True)
class TextProcess:
    """Random student and teacher over prefixes; a write or a call appends one token."""

    log_p: dict[Prefix, torch.Tensor]
    log_q: dict[Prefix, torch.Tensor]
    limit_value: dict[Prefix, float]  # V(s_T) of texts that the limit cuts
    horizon: int
    gamma: float = 1.0
    alpha: float = 1.0
    price: float = 0.4
    greedy: bool = False  # a call appends argmax p; a fixed student writes argmax q
    free: bool = False  # the token policy is learned too
    ends: bool = True  # token END ends the text

    def is_over(self, prefix: Prefix) -> bool:
        return len(prefix) == self.horizon or self.has_ended(prefix)

    def has_ended(self, prefix: Prefix) -> bool:
        return self.ends and bool(prefix) and prefix[-1] == END

    def write_law(self, prefix: Prefix) -> torch.Tensor:
        """Probabilities of the token that a fixed student writes."""
        log_q = self.log_q[prefix]
        return one_hot(log_q) if self.greedy else log_q.exp()

    def call_law(self, prefix: Prefix) -> torch.Tensor:
        log_p = self.log_p[prefix]
        return one_hot(log_p) if self.greedy else log_p.exp()

    def regret(self, prefix: Prefix) -> float:
        log_p = self.log_p[prefix]
        return float(log_p.max() - log_p[self.log_q[prefix].argmax()])

    @property
    def by_regret(self) -> bool:
        """Whether a written token is rewarded by its regret instead of its log-ratio."""
        return self.greedy and not self.free


def one_hot(log_probs: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(log_probs.argmax(), VOCABULARY).double()


def prefixes(horizon: int) -> Iterator[Prefix]:
    level: list[Prefix] = [()]
    for _ in range(horizon + 1):
        yield from level
        level = [(*prefix, token) for prefix in level for token in range(VOCABULARY)]


def random_process(seed: int, horizon: int = 3, **options: float | bool) -> TextProcess:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> torch.Tensor:
        return torch.log_softmax(1.5 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64), 0)

    every = list(prefixes(horizon))
    limit = {prefix: float(torch.randn((), generator=generator)) for prefix in every}
    process = TextProcess({s: draw() for s in every}, {s: draw() for s in every}, limit, horizon)
    return replace(process, **options)


@dataclass(frozen=True)
class Solution:
    """The soft optimum at every prefix."""

    value: dict[Prefix, float]
    call_logit: dict[Prefix, float]
    log_token: dict[Prefix, torch.Tensor]  # log-probabilities of the token policy: the student's, or the optimal one
    write_value: dict[Prefix, float]  # Q_w, without the gate's entropy
    call_value: dict[Prefix, float]  # Q_c


def solve(process: TextProcess) -> Solution:
    """Exact soft value iteration, from the longest prefixes back."""
    solution = Solution({}, {}, {}, {}, {})
    for s in sorted(prefixes(process.horizon), key=len, reverse=True):
        if process.is_over(s):
            solution.value[s] = 0.0 if process.has_ended(s) else process.limit_value[s]
            continue
        next_V = torch.tensor([solution.value[(*s, v)] for v in range(VOCABULARY)], dtype=torch.float64)
        q_write, log_token = write_optimum(process, s, process.gamma * next_V)
        q_call = -process.price + process.gamma * process.call_law(s) @ next_V
        solution.value[s] = float(process.alpha * torch.logaddexp(q_write / process.alpha, q_call / process.alpha))
        solution.call_logit[s] = float((q_call - q_write) / process.alpha)
        solution.log_token[s] = log_token
        solution.write_value[s], solution.call_value[s] = float(q_write), float(q_call)
    return solution


def write_optimum(process: TextProcess, s: Prefix, next_V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The value of episodes, and the law it is written by."""
    log_p, log_q = process.log_p[s], process.log_q[s]
    if process.free:
        value = torch.logsumexp(log_p + next_V, 0)
        return value, log_p + next_V - value
    reward_V = torch.full_like(log_p, -process.regret(s)) if process.by_regret else log_p - log_q
    return process.write_law(s) @ (reward_V + next_V), log_q


@dataclass(frozen=True)
class Path:
    """One text from the start, with its probability."""

    steps: tuple[tuple[Prefix, bool, int], ...]  # state, called, token
    probability: float
    end: Prefix


def every_path(process: TextProcess, call_probability: dict[Prefix, float] | float = 0.5) -> list[Path]:
    """All paths that have a probability, under a gate; a free token policy explores uniformly."""
    done: list[Path] = []
    open_paths = [Path((), 1.0, ())]
    while open_paths:
        path = open_paths.pop()
        s = path.end
        if process.is_over(s):
            done.append(path)
            continue
        g = call_probability if isinstance(call_probability, float) else call_probability[s]
        write_law = torch.full((VOCABULARY,), 1 / VOCABULARY) if process.free else process.write_law(s)
        for called, share, law in ((False, 1 - g, write_law), (True, g, process.call_law(s))):
            for v in range(VOCABULARY):
                if share * law[v] > 0:
                    steps = (*path.steps, (s, called, v))
                    open_paths.append(Path(steps, path.probability * share * float(law[v]), (*s, v)))
    return done
