"""Texts under given sets of calls: the teacher writes at some positions, the student everywhere else.

Axes: N sets, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from wheels.decoding.methods.method import deferral
from wheels.decoding.params import DecodeParams
from wheels.decoding.step import Step
from wheels.decoding.streaming import decode
from wheels.decoding.teacher_forcing import greedy_tokens
from wheels.models.pair import Pair

Calls = tuple[int, ...]
"""Positions in rising order."""


@dataclass(frozen=True)
class CallSetRule:
    """Call at the positions given for each text, and nowhere else."""

    called_NT: torch.Tensor
    """Bool; the last column is empty, and stands for all positions beyond."""
    name: str = "ceiling"
    needs_teacher: bool = False

    @classmethod
    def of(cls, sets: Sequence[Calls]) -> CallSetRule:
        """Return the rule that calls at `sets[n]` in the n-th text."""
        called_NT = torch.zeros(len(sets), max((max(calls, default=-1) for calls in sets), default=-1) + 2)
        for row, calls in enumerate(sets):
            called_NT[row, list(calls)] = 1
        return cls(called_NT.bool())

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the rows whose position is one of theirs."""
        called_NT = self.called_NT.to(step.position_B.device)
        return called_NT[step.index_B, step.position_B.clamp(max=called_NT.shape[1] - 1)]


@dataclass(frozen=True)
class Text:
    """What a set of calls makes of a row."""

    calls: Calls
    """The set, without calls that change nothing."""
    length: int
    """Tokens, the end of sequence included."""
    text: str
    score: float
    """The sentence metric, 0 to 100."""
    others: Calls = field(default=(), repr=False)
    """Positions after the last call at which the teacher would write another token: the calls that may be added."""


@dataclass(frozen=True)
class Writer:
    """Writes texts under sets of calls."""

    pair: Pair
    sources: Sequence[str]
    score: Callable[[list[int], list[str]], list[float]]
    """Rows and their texts to the sentence metric."""
    params: DecodeParams
    batch_size: int

    def write(self, wanted: Sequence[tuple[int, Calls]]) -> list[Text]:
        """Return the text of each row under each set, all of them decoded together."""
        rows = [row for row, _ in wanted]
        sources = [self.sources[row] for row in rows]
        rule = CallSetRule.of([calls for _, calls in wanted])
        traces = decode(self.pair, sources, deferral(rule), self.params, batch_size=self.batch_size)
        written = [trace.token_ids for trace in traces]
        choices = self._choices(self.pair.teacher, sources, written)
        scores = self.score(rows, [trace.text for trace in traces])
        return [
            Text(calls, trace.tokens, trace.text, score, _differing(trace.token_ids, best, max(calls, default=-1) + 1))
            for (_, calls), trace, best, score in zip(wanted, traces, choices, scores, strict=True)
        ]

    def effective(self, rows: Sequence[int], written: Sequence[Sequence[int]]) -> list[Calls]:
        """Return the sets of calls behind finished texts: the positions where the student would write another token."""
        choices = self._choices(self.pair.student, [self.sources[row] for row in rows], written)
        return [_differing(tokens, best) for tokens, best in zip(written, choices, strict=True)]

    def _choices(self, model: PreTrainedModel, sources: list[str], written: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return what a model would write in place of each token."""
        encoded = self.pair.encode(sources)
        return greedy_tokens(self.pair, model, encoded, written, self.params.max_new_tokens, self.batch_size)


def _differing(tokens: Sequence[int], choices: Sequence[int], first: int = 0) -> Calls:
    """Return the positions from `first` on at which a text has another token than a model would choose."""
    return tuple(place for place in range(first, len(tokens)) if tokens[place] != choices[place])
