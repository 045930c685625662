"""Forked paths: texts of the present policy, and at their states the same text under the other action.

Both texts go on to their ends under one policy, one price and the same draws, so that only the decision differs. Where
both models choose the same token they differ by one call and nothing else: that is known from one pass of the teacher
over the finished text. Only the others are written: about a fifth of the states, for a student that was distilled well.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from wheels.agents.gate import gate_entropy
from wheels.decoding.step import Step
from wheels.decoding.teacher_forcing import teacher_choices
from wheels.envs.settings import Start
from wheels.envs.state import EpisodeState
from wheels.envs.vector import DeferralVectorEnv

Logit = Callable[[Step, torch.Tensor], torch.Tensor]
"""From the states of B rows and their prices `[B]`, nats, to the gate's logits z `[B]`."""


@dataclass
class Path:
    """One text, from its first state or from a fork to its end; T decisions."""

    start: Start
    call_T: list[bool] = field(default_factory=list)
    logit_T: list[float] = field(default_factory=list)
    """The gate's logit z at each."""
    reward_T: list[float] = field(default_factory=list)
    """What the environment gave for each."""
    token_T: list[int] = field(default_factory=list)
    student_T: list[int] = field(default_factory=list)
    """What the student would have written."""
    kept: list[Candidate] = field(default_factory=list)
    """States that may be forked."""
    teacher_tokens: int = 0
    """Tokens that the teacher was asked for, in it and in the texts that are forked from it, each once."""

    @property
    def calls(self) -> int:
        """N, the tokens that the teacher wrote."""
        return sum(self.call_T)


@dataclass
class Candidate:
    """A state of a text that may be forked."""

    key: float
    """Those with the largest keys are kept."""
    position: int
    """Decisions before it."""
    state: EpisodeState
    features_F: torch.Tensor


@dataclass
class Fork:
    """A state at which both actions were taken."""

    stem: Path
    at: Candidate
    other: Path | None = None
    """The text under the other action, from here on; None where it is the same text."""

    @property
    def called(self) -> bool:
        """Whether the stem called here."""
        return self.stem.call_T[self.at.position]

    def row(self) -> dict[str, float]:
        """Return the fields of `Forks` that are numbers."""
        at, stem, other = self.at.position, self.stem, self.other
        row = {"budget_N": stem.start.budget, "length_N": float(len(stem.call_T))}
        if other is None:
            return row | {"reward_N": 0.0, "calls_N": 1.0, "tokens_N": 0.0, "entropy_N": 0.0}
        sign = -1.0 if self.called else 1.0
        differences = {
            "reward_N": sum(other.reward_T) - sum(stem.reward_T[at:]),
            "calls_N": other.calls - sum(stem.call_T[at:]),
            "tokens_N": len(other.call_T) - len(stem.call_T[at:]),
            "entropy_N": _entropy(other.logit_T[1:]) - _entropy(stem.logit_T[at + 1 :]),
        }
        return row | {name: sign * value for name, value in differences.items()}


@dataclass(frozen=True, eq=False)
class Forks:
    """N states at which both actions were taken and both texts finished; differences are call minus write."""

    features_NF: torch.Tensor
    """What the head sees there, float32."""
    budget_N: torch.Tensor
    """The budget of both texts, a share."""
    length_N: torch.Tensor
    """The length of the text that was forked, tokens."""
    reward_N: torch.Tensor
    """`R_call - R_write`, in units of the environment's reward."""
    calls_N: torch.Tensor
    """`N_call - N_write`: calls from the fork on, its own included."""
    tokens_N: torch.Tensor
    """`T_call - T_write`: tokens."""
    entropy_N: torch.Tensor
    """`H_call - H_write`: entropies of the gate after the fork, nats."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.reward_N)

    def __getitem__(self, places: torch.Tensor) -> Forks:
        """Return some of the forks: by their places, or by a mask."""
        return Forks(**{name: value[places] for name, value in vars(self).items()})

    @classmethod
    def joined(cls, parts: Sequence[Forks]) -> Forks:
        """Return several lots of forks as one."""
        return cls(**{each.name: torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)})

    @classmethod
    def of(cls, forks: Sequence[Fork]) -> Forks:
        """Return forks as tensors."""
        rows = [fork.row() for fork in forks]
        columns = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
        return cls(features_NF=torch.stack([fork.at.features_F for fork in forks]).cpu(), **columns)


def play(
    env: DeferralVectorEnv, starts: Sequence[Start], logit: Logit, *, states: int = 0, greedy: bool = False
) -> tuple[list[Path], Forks | None]:
    """Write a text from each start under the policy, and fork states of each.

    The policy calls with probability `sigmoid(z)`, by the row's own draw; a greedy one where `z > 0`.

    Args:
        env: In its factorised form.
        starts: Texts, budgets, prices and seeds.
        logit: Gives z.
        states: States to fork of each text at most, drawn without replacement: all of a shorter text.
        greedy: Whether the policy is greedy.

    Returns:
        The paths of the starts, in order; and the forks, None where none were asked for.
    """
    player = _Player(env, logit, states, greedy)
    player.run(starts)
    stems = list(player.stems.values())
    if not states:
        return stems, None
    place = {id(stem): number for number, stem in enumerate(stems)}
    return stems, Forks.of(sorted(player.forks, key=lambda fork: (place[id(fork.stem)], fork.at.position)))


class _Player:
    """The rows of an environment, and which path each of them writes."""

    def __init__(self, env: DeferralVectorEnv, logit: Logit, states: int, greedy: bool) -> None:
        self.env, self.logit, self.count, self.greedy = env, logit, states, greedy
        self.stems: dict[int, Path] = {}
        """The texts, by the number that the environment gave them."""
        self.others: dict[int, Fork] = {}
        """The forks whose other text is written, likewise."""
        self.ended: list[Path] = []
        """Texts whose forks have not begun."""
        self.forks: list[Fork] = []

    def run(self, starts: Sequence[Start]) -> None:
        """Write all texts and their forks."""
        waiting = deque(starts)
        self._feed(waiting)
        self.env.reset(seed=0)
        while self._goes_on() or waiting or self.ended:
            if len(self.ended) >= self.env.num_envs or not (self._goes_on() or waiting):
                self._fork()
            self._feed(waiting)
            self._step()

    def _goes_on(self) -> bool:
        """Whether a row writes, or is going to."""
        return bool(self.env.active_B.any()) or self.env.waiting > 0

    def _feed(self, waiting: deque[Start]) -> None:
        """Hand over some texts: few wait in the environment, since forks, which hold caches, wait behind them."""
        if waiting and self.env.waiting < self.env.num_envs:
            some = [waiting.popleft() for _ in range(min(self.env.num_envs, len(waiting)))]
            self.stems |= {number: Path(start) for number, start in zip(self.env.feed(some), some, strict=True)}

    def _step(self) -> None:
        """Take one step in every row."""
        env, state, rows = self.env, self.env.state, self.env.active_B.nonzero().squeeze(-1).tolist()
        z_B = self.logit(state, env.episodes.price_B)
        call_B = (z_B > 0) if self.greedy else state.noise_B < torch.sigmoid(z_B)
        calls, logits = call_B.tolist(), z_B.tolist()
        students = env.episodes.student_choices().tolist() if self.count else [0] * len(calls)
        writing = [(row, int(env.numbers[row])) for row in rows]
        for row, number in writing:
            fork, path = self.others.get(number), self._path(number)
            if fork is None:
                path.teacher_tokens += calls[row]
                self._consider(path, row)
            elif path.call_T:
                fork.stem.teacher_tokens += calls[row]
            else:
                calls[row] = not fork.called  # what the teacher writes there is known
            path.call_T.append(calls[row])
            path.logit_T.append(logits[row])
            path.student_T.append(students[row])
        _, reward_B, terminated_B, truncated_B, info = env.step(np.array(calls, dtype=np.int64))
        for row, number in writing:
            path = self._path(number)
            path.reward_T.append(float(reward_B[row]))
            path.token_T.append(int(info["token"][row]))
            if path.kept and (terminated_B[row] or truncated_B[row]):
                self.ended.append(path)

    def _path(self, number: int) -> Path:
        """Return what the text of a number writes."""
        path = self.stems[number] if number in self.stems else self.others[number].other
        assert path is not None
        return path

    def _consider(self, path: Path, row: int) -> None:
        """Keep the present state of a row where it is among the first ones to be forked: reservoir sampling."""
        if not self.count:
            return
        position, start = len(path.call_T), path.start
        key = random.Random(f"{start.seed} {start.index} {start.budget} {position}").random()
        if len(path.kept) == self.count:
            least = min(path.kept, key=lambda kept: kept.key)
            if key <= least.key:
                return
            path.kept.remove(least)
        features_F = self.env.state.features_BF[row].clone()
        path.kept.append(Candidate(key, position, self.env.snapshot([row])[0], features_F))

    def _fork(self) -> None:
        """Begin the other texts of those that have ended, where the teacher's token is another."""
        pair, env = self.env.pair, self.env
        sources = [env.episodes.sources[path.start.index].source for path in self.ended]
        chosen = teacher_choices(pair, sources, [path.token_T for path in self.ended], env.num_envs)
        for path, teacher_T in zip(self.ended, chosen, strict=True):
            path.teacher_tokens += len(path.call_T) - path.calls
            for at in path.kept:
                self.forks.append(Fork(path, at))
                if teacher_T[at.position] != path.student_T[at.position]:
                    self.forks[-1].other = Path(path.start)
                    self.others[env.feed([at.state]).start] = self.forks[-1]
            path.kept = []
        self.ended = []


def _entropy(logit_T: list[float]) -> float:
    """Return the sum of the gate's entropies over some decisions, nats."""
    return float(gate_entropy(torch.tensor(logit_T)).sum())
