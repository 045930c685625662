"""What the other model would have written in place of each token of a text that has ended.

The student has seen some of a text's states and the teacher others. So both read the text once more, on request: the
teacher before the student's tokens, the student before the teacher's. Both choose as they do in decoding, with the
text's own draws; so each answer is the token that the other model writes there. These passes are in no text's cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from wheels.decoding.models.forward_batches import CHUNK
from wheels.decoding.params import STUDENT_STREAM, TEACHER_STREAM, DecodeParams
from wheels.decoding.passes import Passes
from wheels.decoding.sequences import Sequence, TextBatch
from wheels.decoding.trace import STUDENT, TEACHER
from wheels.models.pair import Pair
from wheels.policy.features import LOG_FLOOR

STATES = 64
"""States at a time whose logits are computed."""


@dataclass(frozen=True)
class Alternative:
    """What the model that did not write a token would have written, at the same state."""

    token: int
    logprob: float
    """Its log-probability by that model, in nats, before temperature; floored at `LOG_FLOOR`."""
    written_logprob: float
    """That of the token that stands there, by the same model."""


class Rereader:
    """Both models over one text that has ended.

    Args:
        pair: The models.
        params: How tokens were drawn.
    """

    def __init__(self, pair: Pair, params: DecodeParams) -> None:
        self.texts = TextBatch(pair, 1, [])
        self.passes, self.sampling = Passes(pair, self.texts, params), params.sampling
        self.slot_R = torch.zeros(1, dtype=torch.long, device=pair.device)

    def read(self, sequence: Sequence, first: int, last: int) -> Iterator[list[Alternative] | None]:
        """Yield None after each pass, then the alternatives to the tokens from `first` to `last`, in their order."""
        own = replace(sequence, tokens=sequence.tokens[:last], by_teacher=sequence.by_teacher[:last], best=None)
        self.passes.admit([0], [own])
        found: dict[int, Alternative] = {}
        for model in (STUDENT, TEACHER):
            states = [state for state in range(first, last) if own.by_teacher[state] is (model == STUDENT)]
            if states:
                yield from self._read_by(model, states, found)
        yield [found[state] for state in range(first, last)]

    def _read_by(self, model: str, states: list[int], found: dict[int, Alternative]) -> Iterator[None]:
        """Let a model read up to the last of some states; add what it would have written at each."""
        runner, prefix = self.passes.runners[model], int(self.texts.prefix_Q[0])
        begin, end = prefix + states[0] - 1, prefix + states[-1]
        while (cursor := int(runner.cursor_B[0])) < end:
            stop = min(cursor + CHUNK, begin) if cursor < begin else min(cursor + STATES, end)
            keep_R = torch.tensor([stop - cursor if stop > begin else 1], device=self.slot_R.device)
            length_B = torch.tensor([stop], device=self.slot_R.device)
            logits_TV = runner.read(None, self.texts.tokens_QT, length_B, keep_R).logits_RV[0]
            read = [state for state in states if cursor <= prefix + state - 1 < stop]
            if read:
                rows = [prefix + state - 1 - cursor for state in read]
                found |= zip(read, self._choices(model, logits_TV[rows], read), strict=True)
            yield

    def _choices(self, model: str, logits_NV: torch.Tensor, states: list[int]) -> list[Alternative]:
        """Return what a model writes at some states, as `Passes` chooses it."""
        process, stream = {
            STUDENT: (self.passes.process_student, STUDENT_STREAM),
            TEACHER: (self.passes.process_teacher, TEACHER_STREAM),
        }[model]
        state_N = torch.tensor(states, device=logits_NV.device)
        slot_N = torch.zeros_like(state_N)
        logits_NV = process(logits_NV, self.texts, slot_N, state_N)
        noise_N = None if self.sampling.greedy else self.texts.noise(slot_N, stream)(state_N)
        token_N = self.sampling.choose(logits_NV, noise_N, model)
        written_N = self.texts.tokens_QT[0, self.texts.prefix_Q[0] + state_N]
        log_p_NV = logits_NV.log_softmax(-1)
        both_N2 = log_p_NV.gather(1, torch.stack([token_N, written_N], 1)).clamp(min=LOG_FLOOR)
        pairs = zip(token_N.tolist(), both_N2.tolist(), strict=True)
        return [Alternative(token, *values) for token, values in pairs]
