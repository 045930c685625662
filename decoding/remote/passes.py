"""Teacher passes over HTTP: texts that call are sent as token ids, and go on with the ids that come back."""

from __future__ import annotations

from concurrent.futures import Future

import torch

from wheels.decoding.params import TEACHER_STREAM, DecodeParams
from wheels.decoding.remote.pair import RemotePair
from wheels.decoding.remote.protocol import Answer, Span, TextSoFar
from wheels.decoding.sequences import Sequence
from wheels.decoding.student_passes import StudentPasses
from wheels.errors import WheelsError
from wheels.models.pair import Pair


def check_server(pair: RemotePair, params: DecodeParams) -> None:
    """Raise a `WheelsError` for a setting that the server has not."""
    if params.sampling.top_k and pair.probe is not None and pair.probe.is_wheels:
        raise WheelsError("top_k is no setting of `wheels serve`, where the teacher is; use top_p")


class RemotePasses(StudentPasses):
    """A student here and a teacher elsewhere, over one batch of texts."""

    def _open_teacher(self, pair: Pair) -> None:
        """Take the teacher as it is: it holds nothing of a text between two calls."""
        assert isinstance(pair, RemotePair)
        self.spelling, self.remote, self.end_id, self.eos = (
            pair.spelling,
            pair.remote,
            pair.eos_ids[0],
            frozenset(pair.eos_ids),
        )
        self.read_Q = torch.zeros_like(self.texts.length_Q)
        """Tokens of each text that the teacher has been sent."""

    def admit(self, slots: list[int], sequences: list[Sequence]) -> None:
        """Let texts begin in `slots`; nothing is computed yet."""
        super().admit(slots, sequences)
        self.read_Q[slots] = 0

    def call_teacher(self, slots: list[int], slots_R: torch.Tensor, logits_RV: torch.Tensor | None = None) -> None:
        """Let the teacher write after some texts; where it does not answer the student writes in its place."""
        assert logits_RV is None, "a remote teacher has no logits"
        answers = self.remote.write(self._texts(slots, slots_R), self.params.sampling)
        for slot, answer in zip(slots, answers, strict=True):
            self.receive(slot, answer, len(self.texts.sequence(slot).tokens), self._span(slot))

    def teacher_next(self, slots: list[int], slots_R: torch.Tensor) -> torch.Tensor:
        """Return what the teacher would write next in each row, `[R]`.

        Raises:
            WheelsError: for a row that gets no answer: nobody writes in its place.
        """
        answers = self.remote.write(self._texts(slots, slots_R), self.params.sampling)
        tokens = []
        for slot, answer in zip(slots, answers, strict=True):
            if answer.span is None:
                why = next(reversed(self.remote.failures), "it was left alone after failures")
                raise WheelsError(f"the teacher {self.remote.place} gave no answer ({why}); go on later")
            self._count(slot, len(self.texts.sequence(slot).tokens))
            tokens.append(self._tokens_of(answer.span)[0])
        return torch.tensor(tokens, device=slots_R.device)

    def send(self, slots: list[int], slots_R: torch.Tensor) -> tuple[Future[list[Answer]], list[int]]:
        """Ask the teacher to write after some texts; return what its answers will be in, and what each buys at most."""
        texts = self._texts(slots, slots_R)
        return self.remote.later(texts, self.params.sampling), [text.most for text in texts]

    def _span(self, slot: int) -> int:
        """Return the tokens that the next call of a text buys."""
        return self.texts.sequence(slot).span or self.remote.span.most

    def receive(self, slot: int, answer: Answer, start: int, most: int) -> bool:
        """Put an answer into its text, and return whether all that the student wrote meanwhile stands.

        Args:
            slot: Where the text is.
            answer: What was answered.
            start: Tokens of the text when it called; what it has beyond them the student wrote meanwhile.
            most: Tokens that the call could buy: so many of these are guesses of the teacher's.
        """
        text = self.texts.sequence(slot)
        text.usage += answer.usage
        if answer.span is None:
            self.write_instead(slot, start)
            return False
        self._count(slot, start)
        if answer.span.anew:
            self._spell_anew(slot, start, answer.span)
            return False
        tokens, ahead = self._tokens_of(answer.span), text.tokens[start:]
        if tokens == ahead[:most]:
            text.guessed += 1
            return True
        pairs = enumerate(zip(tokens, ahead, strict=False))
        same = next((place for place, (theirs, own) in pairs if theirs != own), min(len(tokens), len(ahead)))
        self.cut(slot, start + same)
        self.texts.append_span(slot, tokens[same:], by_teacher=True)
        self.forget(slot, start + same)
        return False

    def _spell_anew(self, slot: int, start: int, span: Span) -> None:
        """Put what the teacher wrote in place of what it spells anew; a token is of who wrote its last character."""
        text, same = self.texts.sequence(slot), start - span.anew
        self.cut(slot, start)
        old, by, new = list(text.tokens), list(text.by_teacher), [*text.tokens[:same], *self._tokens_of(span)]
        authors = self.spelling.authors(text.source, old, by, new)
        self.cut(slot, same)
        for token, teacher in zip(new[same:], authors[same:], strict=True):
            self.texts.append_span(slot, [token], by_teacher=teacher)
        self.forget(slot, same)

    def _texts(self, slots: list[int], slots_R: torch.Tensor) -> list[TextSoFar]:
        """Return texts as they are sent."""
        sequences = [self.texts.sequence(slot) for slot in slots]
        seeds = [0] * len(slots)
        if not self.params.sampling.greedy:
            drawn_R = self.texts.noise(slots_R, TEACHER_STREAM)(self.texts.position(slots_R))
            seeds = (drawn_R * 2**31).long().tolist()
        return [
            TextSoFar(each.source, tuple(each.tokens), each.limit, seed, self._span(slot), each.asked)  # it may grow
            for slot, each, seed in zip(slots, sequences, seeds, strict=True)
        ]

    def _tokens_of(self, span: Span) -> list[int]:
        """Return what the teacher wrote, up to the first end token."""
        tokens = list(span.tokens)
        ends = [place for place, token in enumerate(tokens, 1) if token in self.eos]
        if ends:
            return tokens[: ends[0]]
        # With an end token of its own, or one that the server keeps to itself.
        return [*tokens[:-1], self.end_id] if span.ended else tokens

    def _count(self, slot: int, start: int) -> None:
        """Count a pass of the teacher over a text of `start` tokens."""
        text, prefix = self.texts.sequence(slot), int(self.texts.prefix_Q[slot])
        text.teacher_passes += 1
        text.teacher_positions += prefix + start - max(int(self.read_Q[slot]), prefix - 1)
        self.read_Q[slot] = prefix + start
