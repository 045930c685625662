"""Forked paths: texts of the present policy, and at their states the same text under the other action.

Both texts go on to their ends under one policy, one price and the same draws, so that only the decision differs. Where
both models choose the same token they differ by one call and nothing else: that is known from one pass of the teacher
over the finished text. Only the others are written: about a fifth of the states, for a student that was distilled well.
Of a teacher that reads and writes text nothing is known before, and each is written.

At the same states a call may buy several tokens, a span. What that gains is the difference of two more such texts: the
one in which the teacher writes so many tokens, and the one in which it writes one. Where it would write what stands
there anyway, that is known too.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

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
    calls: int = 0
    """The tokens of the whole text that the teacher wrote, those before a fork too."""
    tokens: int = 0
    """The tokens of the whole text."""


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
    position: int
    """Decisions of the stem before it."""
    features_F: torch.Tensor
    other: Path | None = None
    """The text under the other action, from here on; None where it is the same text."""
    spans: dict[int, Path | None] = field(default_factory=dict)
    """The texts in which the teacher writes so many tokens, likewise; None where it is the text with one call."""

    @property
    def called(self) -> bool:
        """Whether the stem called here."""
        return self.stem.call_T[self.position]

    def row(self) -> dict[str, Any]:
        """Return the fields of `Forks` that are numbers, or some for the spans."""
        at, stem, other = self.position, self.stem, self.other
        row = {"budget_N": stem.start.budget, "length_N": float(stem.tokens), **self._span_rows()}
        if other is None:
            return row | {"reward_N": 0.0, "calls_N": 1.0, "tokens_N": 0.0, "entropy_N": 0.0}
        sign = -1.0 if self.called else 1.0
        differences = {
            "reward_N": sum(other.reward_T) - sum(stem.reward_T[at:]),
            "calls_N": float(other.calls - stem.calls),
            "tokens_N": float(other.tokens - stem.tokens),
            "entropy_N": _entropy(other.logit_T[1:]) - _entropy(stem.logit_T[at + 1 :]),
        }
        return row | {name: sign * value for name, value in differences.items()}

    def _span_rows(self) -> dict[str, list[float]]:
        """Return what each span changes, beside the text with one call."""
        stands = self.called or self.other is None
        one, at = (self.stem, self.position) if stands else (self.other, 0)
        assert one is not None
        found = [_span_row(one, at, path, size) for size, path in self.spans.items()]
        names = ("reward", "calls", "tokens", "entropy", "written")
        return {f"span_{name}_NK": [row[name] for row in found] for name in names}


@dataclass(frozen=True)
class Other:
    """A text that is forked from another one."""

    stem: Path
    path: Path
    decisions: list[bool]
    """Its first ones, whatever the policy says."""

    def decided(self, called: bool) -> bool:
        """Return its next decision, where the policy's is `called`."""
        done = len(self.path.call_T)
        return self.decisions[done] if done < len(self.decisions) else called


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
    span_reward_NK: torch.Tensor
    """`R_span - R_call`, for each of K spans."""
    span_calls_NK: torch.Tensor
    """`N_span - N_call`: calls after the span, and after the one call."""
    span_tokens_NK: torch.Tensor
    """`T_span - T_call`: tokens."""
    span_entropy_NK: torch.Tensor
    """`H_span - H_call`: entropies of the gate after the span, and after the one call, nats."""
    span_written_NK: torch.Tensor
    """Tokens that the teacher wrote at once: fewer than the span has where the text ended."""

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
        return cls(features_NF=torch.stack([fork.features_F for fork in forks]).cpu(), **columns)


def at_random(share: float) -> Logit:
    """Return a gate that calls at a share of the states, whatever they are."""
    always = math.log(share / (1 - share))
    return lambda state, price_B: torch.full_like(price_B, always)


def play(
    env: DeferralVectorEnv,
    starts: Sequence[Start],
    logit: Logit,
    *,
    states: int = 0,
    greedy: bool = False,
    spans: Sequence[int] = (),
) -> tuple[list[Path], Forks | None]:
    """Write a text from each start under the policy, and fork states of each.

    The policy calls with probability `sigmoid(z)`, by the row's own draw; a greedy one where `z > 0`.

    Args:
        env: In its factorised form.
        starts: Texts, budgets, prices and seeds.
        logit: Gives z.
        states: States to fork of each text at most, drawn without replacement: all of a shorter text.
        greedy: Whether the policy is greedy.
        spans: Tokens that the teacher writes at once there, in texts of their own.

    Returns:
        The paths of the starts, in order; and the forks, None where none were asked for.
    """
    player = _Player(env, logit, states, greedy, tuple(spans))
    player.run(starts)
    stems = list(player.stems.values())
    if not states:
        return stems, None
    place = {id(stem): number for number, stem in enumerate(stems)}
    return stems, Forks.of(sorted(player.forks, key=lambda fork: (place[id(fork.stem)], fork.position)))


class _Player:
    """The rows of an environment, and which path each of them writes."""

    def __init__(self, env: DeferralVectorEnv, logit: Logit, states: int, greedy: bool, spans: tuple[int, ...]) -> None:
        self.env, self.logit, self.count, self.greedy, self.spans = env, logit, states, greedy, spans
        self.foreseen = not env.pair.by_text
        """Whether the teacher's next token is known at every state of a text: then it is not asked for it again."""
        self.stems: dict[int, Path] = {}
        """The texts, by the number that the environment gave them."""
        self.others: dict[int, Other] = {}
        """Those that are forked from them, likewise."""
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
            other, path = self.others.get(number), self._path(number)
            if other is None:
                self._consider(path, row)
            else:
                calls[row] = other.decided(calls[row])
            path.call_T.append(calls[row])
            path.logit_T.append(logits[row])
            path.student_T.append(students[row])
        _, reward_B, terminated_B, truncated_B, info = env.step(np.array(calls, dtype=np.int64))
        for row, number in writing:
            path, other = self._path(number), self.others.get(number)
            path.reward_T.append(float(reward_B[row]))
            path.token_T.append(int(info["token"][row]))
            if other is None or len(path.call_T) > 1 or not self.foreseen:
                (path if other is None else other.stem).teacher_tokens += int(info["cost"][row])
            if terminated_B[row] or truncated_B[row]:
                path.calls, path.tokens = int(info["teacher_tokens"][row]), int(env.episodes.position_B[row])
                self.ended += [path] if path.kept else []

    def _path(self, number: int) -> Path:
        """Return what the text of a number writes."""
        return self.stems[number] if number in self.stems else self.others[number].path

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
        """Begin the other texts of those that have ended, where the teacher's token is another or is not known."""
        pair, env, chosen = self.env.pair, self.env, list[list[int] | None]([None] * len(self.ended))
        if self.foreseen:
            sources = [env.episodes.sources[path.start.index].source for path in self.ended]
            chosen = [*teacher_choices(pair, sources, [path.token_T for path in self.ended], env.num_envs)]
        for path, teacher_T in zip(self.ended, chosen, strict=True):
            path.teacher_tokens += path.tokens - path.calls if self.foreseen else 0
            for at in path.kept:
                self.forks.append(Fork(path, at.position, at.features_F))
                self._begin_others(self.forks[-1], at.state, teacher_T)
            path.kept = []
        self.ended = []

    def _begin_others(self, fork: Fork, state: EpisodeState, teacher_T: Sequence[int] | None) -> None:
        """Begin the texts of a fork that are not known: under the other action, and with each span.

        The state is held by the environment's queue alone, for it has the caches.
        """
        stem, at = fork.stem, fork.position
        if teacher_T is None or teacher_T[at] != stem.student_T[at]:
            fork.other = self._begun(fork, state, [not fork.called])
        if teacher_T is None:
            return
        for size in self.spans:
            stands = list(teacher_T[at : at + size]) == stem.token_T[at : at + size]
            fork.spans[size] = None if stands else self._begun(fork, state, [True] * size)

    def _begun(self, fork: Fork, state: EpisodeState, decisions: list[bool]) -> Path:
        """Begin a text at a fork, with its first decisions."""
        path = Path(fork.stem.start)
        self.others[self.env.feed([state]).start] = Other(fork.stem, path, decisions)
        return path


def _span_row(one: Path, at: int, path: Path | None, size: int) -> dict[str, float]:
    """Return what a span changes beside the text with one call.

    Args:
        one: That text.
        at: The place of the call in it.
        path: The text from there on in which the teacher writes the span; None: the same.
        size: Tokens of the span.
    """
    after = slice(at + 1, None)
    if path is None:
        spared = slice(at + 1, at + size)
        calls, entropy = -sum(one.call_T[spared]), -_entropy(one.logit_T[spared])
        written = float(min(size, len(one.call_T) - at))
        return {"reward": 0.0, "calls": float(calls), "tokens": 0.0, "entropy": entropy, "written": written}
    return {
        "reward": sum(path.reward_T) - sum(one.reward_T[at:]),
        "calls": float(sum(path.call_T[size:]) - sum(one.call_T[after])),
        "tokens": float(len(path.call_T) - len(one.call_T[at:])),
        "entropy": _entropy(path.logit_T[size:]) - _entropy(one.logit_T[after]),
        "written": float(min(size, len(path.call_T))),
    }


def _entropy(logit_T: list[float]) -> float:
    """Return the sum of the gate's entropies over some decisions, nats."""
    return float(gate_entropy(torch.tensor(logit_T)).sum())
