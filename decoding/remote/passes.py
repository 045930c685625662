"""Teacher passes over HTTP: texts that call are sent as token ids, and go on with the ids that come back."""

from __future__ import annotations

import torch

from wheels.decoding.methods.method import Method
from wheels.decoding.params import TEACHER_STREAM, DecodeParams
from wheels.decoding.passes import Passes
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.protocol import Span, TextSoFar
from wheels.decoding.sequences import Sequence, TextBatch
from wheels.errors import WheelsError
from wheels.models.pair import Pair


def passes_for(pair: Pair, texts: TextBatch, params: DecodeParams, method: Method, overhead: int) -> Passes:
    """Return what computes for a pair and a method; the arguments are those of `Passes`.

    Raises:
        WheelsError: where the method needs more of its teacher than a remote one tells.
    """
    kind: type[Passes] = Passes
    if isinstance(pair, RemotePair):
        check_remote(pair, method, params)
        kind = RemotePasses
    return kind(pair, texts, params, overhead=overhead, longest_draft=method.draft_probs(params.sampling))


def check_remote(pair: RemotePair, method: Method, params: DecodeParams) -> None:
    """Raise a `WheelsError` where a method needs more of its teacher than a remote one tells."""
    told = f"and the teacher {pair.remote.place} tells the tokens that it writes, and no logits"
    if method.rule is not None and method.rule.needs_teacher:
        raise WheelsError(
            f"rule {method.rule.name!r} reads the teacher's logits before every token, {told}; use another rule, or "
            "the folder of a teacher"
        )
    if method.verifier is not None:
        raise WheelsError(
            f"method {method.name!r} verifies drafts by the teacher's logits, {told}; use deferral, or the folder of a "
            "teacher"
        )
    if pair.remote.span.most > 1 and method.between and method.mode != "online":
        raise WheelsError(
            f"a call buys up to {pair.remote.span.most} tokens, and {method.mode} mode counts on one: use budget_mode "
            "online, which counts those that came, or span tokens:1"
        )
    if params.logits_processor is not None:
        raise WheelsError(f"logits_processor changes the logits of both models, {told}; leave it out")
    if params.sampling.top_k and pair.probe is not None and pair.probe.is_wheels:
        raise WheelsError("top_k is no setting of `wheels serve`, where the teacher is; use top_p")


class RemotePasses(Passes):
    """A student here and a teacher elsewhere, over one batch of texts."""

    def _open_teacher(self, pair: Pair) -> None:
        """Take the teacher as it is: it holds nothing of a text between two calls."""
        assert isinstance(pair, RemotePair)
        self.remote, self.end_id, self.eos = pair.remote, pair.eos_ids[0], frozenset(pair.eos_ids)
        self.read_Q = torch.zeros_like(self.texts.length_Q)
        """Tokens of each text that the teacher has been sent."""

    def admit(self, slots: list[int], sequences: list[Sequence]) -> None:
        """Let texts begin in `slots`; nothing is computed yet."""
        super().admit(slots, sequences)
        self.read_Q[slots] = 0

    def unread_prompt(self, model: str, slot: int) -> int:
        """Return how much of the tokens before an output a model has not read; the server reads them at once."""
        return 0 if model == "teacher" else super().unread_prompt(model, slot)

    def call_teacher(self, slots: list[int], slots_R: torch.Tensor, logits_RV: torch.Tensor | None = None) -> None:
        """Let the teacher write after some texts; where it does not answer the student writes in its place."""
        assert logits_RV is None, "a remote teacher has no logits"
        texts = self._texts(slots, slots_R)
        answers = self.remote.write(texts, self.params.sampling)
        for slot, answer in zip(slots, answers, strict=True):
            self.texts.sequence(slot).usage += answer.usage
            if answer.span is not None:
                self._append(slot, answer.span)
        if lost := [slot for slot, answer in zip(slots, answers, strict=True) if answer.span is None]:
            self._write_instead(lost)

    def _texts(self, slots: list[int], slots_R: torch.Tensor) -> list[TextSoFar]:
        """Return texts as they are sent."""
        sequences = [self.texts.sequence(slot) for slot in slots]
        seeds = [0] * len(slots)
        if not self.params.sampling.greedy:
            drawn_R = self.texts.noise(slots_R, TEACHER_STREAM)(self.texts.position(slots_R))
            seeds = (drawn_R * 2**31).long().tolist()
        return [
            TextSoFar(each.source, each.tokens, each.limit, seed) for each, seed in zip(sequences, seeds, strict=True)
        ]

    def _append(self, slot: int, span: Span) -> None:
        """Put what the teacher wrote after a text, up to the first end token."""
        sequence = self.texts.sequence(slot)
        tokens = list(span.tokens)
        ends = [place for place, token in enumerate(tokens, 1) if token in self.eos]
        if ends:
            tokens = tokens[: ends[0]]
        elif span.ended:  # with an end token of its own, or one that the server keeps to itself
            tokens = [*tokens[:-1], self.end_id]
        sequence.teacher_passes += 1
        known = max(int(self.read_Q[slot]), int(self.texts.prefix_Q[slot]) - 1)
        sequence.teacher_positions += int(self.texts.length_Q[slot]) - known
        self.read_Q[slot] = self.texts.length_Q[slot]
        self.texts.append_span(slot, tokens, by_teacher=True)

    def _write_instead(self, slots: list[int]) -> None:
        """Let the student write where the teacher did not answer."""
        slots_R = torch.tensor(slots, device=self.texts.length_Q.device)
        self.student.rollback(slots_R, self.texts.length_Q[slots_R] - 1)  # it has read what it called after
        logits_RV = self.read_student(slots, slots_R).logits_RV
        self.texts.append(slots, slots_R, self.student_tokens(slots_R, logits_RV), by_teacher=False)
        for slot in slots:
            self.texts.sequence(slot).degraded += 1
