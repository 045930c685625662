"""Teacher passes over text: what is written so far in the teacher's tokens, and what it writes in the student's.

A call buys `span` of the teacher's tokens, and then as many more as it takes to come to a safe boundary: a place where
the student's tokens of the text stay what they are when the teacher's next token follows. That token is computed and
dropped. Between two calls the teacher keeps what it has read, up to where the student wrote something else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from wheels.decoding.across.pair import TextPair
from wheels.decoding.across.spelling import shared_prefix
from wheels.decoding.models.self_check import checked_runner
from wheels.decoding.params import TEACHER_STREAM
from wheels.decoding.remote.prices import Usage
from wheels.decoding.sequences import Sequence
from wheels.decoding.student_passes import StudentPasses
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair, logits_size

BEYOND = 16
"""Teacher's tokens that a call may take beyond its span to come to a safe boundary."""
NO_LIMIT = 2**31
"""Of an output's tokens, where none is forced at the last place."""


@dataclass
class Call:
    """A call of one text."""

    slot: int
    sequence: Sequence
    text: str
    """What was written before."""
    known: list[int]
    """That in the teacher's tokens, its start not included."""
    tokens: list[int] = field(default_factory=list)
    """The teacher's tokens of this call."""
    added: str = ""
    """The text that they add."""
    ended: bool = False
    """Whether the teacher ended the text."""


class TextPasses(StudentPasses):
    """A student and a teacher with tokenizers of their own, over one batch of texts."""

    def _open_teacher(self, pair: Pair) -> None:
        """Make what runs the teacher, over texts of its own tokens."""
        assert isinstance(pair, TextPair)
        self.pair, self.span, self.most = pair, pair.span, pair.teacher_limit
        rows, size, weights = len(self.texts.sequences), logits_size(pair.writer), pair.teacher_weights
        self.teacher = checked_runner(pair.writer, rows, size, overhead=self.overhead, weights=weights)
        self.constraints, self.ends = Constraints.of(pair.writer), pair.teacher_ends
        device = pair.writer.device
        self.tokens_QS = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.spoken: list[list[int]] = [[] for _ in range(rows)]
        """What each row of `tokens_QS` holds."""
        self.known: list[list[int]] = [[] for _ in range(rows)]
        """The output after the last call, in the teacher's tokens."""

    @property
    def runs_on(self) -> dict[str, str]:
        """What runs each model."""
        return super().runs_on | {"teacher": self.teacher.runs_on}

    def admit(self, slots: list[int], sequences: list[Sequence]) -> None:
        """Let texts begin in `slots`; nothing is computed yet."""
        super().admit(slots, sequences)
        self.teacher.admit(slots, [sequence.teacher_source for sequence in sequences])
        for slot in slots:
            self.spoken[slot], self.known[slot] = [], []

    def call_teacher(self, slots: list[int], slots_R: torch.Tensor, logits_RV: torch.Tensor | None = None) -> None:
        """Let the teacher write after some texts; where it has no room for one the student writes in its place."""
        assert logits_RV is None, "there are no logits over the student's tokens"
        calls = [self._begin(slot) for slot in slots]
        active = [call for call in calls if self._has_room(call)]
        while active:
            tokens = self._next_tokens(active)
            active = [call for call, token in zip(active, tokens, strict=True) if self._goes_on(call, token)]
        for call in calls:
            self._write_down(call)

    def _begin(self, slot: int) -> Call:
        """Say what the teacher reads of a text: what it wrote itself as it wrote it, else as its tokenizer cuts it."""
        sequence, known, spelling = self.texts.sequence(slot), self.known[slot], self.pair.teacher_spelling
        text = self.pair.spelling.text(sequence.source, sequence.tokens)
        own = spelling.text(sequence.teacher_source, known)
        # The student may keep no space at the start.
        whole = own[: len(own) - len(own.lstrip())] + text.lstrip() if known else text
        return Call(slot, sequence, text, known if own == whole else spelling.tokens(sequence.teacher_source, whole))

    def _has_room(self, call: Call) -> bool:
        """Whether the teacher can read one more token of a text."""
        return self.most is None or len(self._prefix(call)) + len(call.known) + len(call.tokens) < self.most

    def _prefix(self, call: Call) -> list[int]:
        """Return what the teacher reads before an output."""
        return self.pair.teacher_start if self.teacher.backend.encoder is not None else call.sequence.teacher_source

    def _next_tokens(self, calls: list[Call]) -> list[int]:
        """Let the teacher read all that it has not seen of some texts, and choose the next token of each."""
        length_Q = self.teacher.cursor_B.clone()
        for call in calls:
            length_Q[call.slot] = self._put(call)
        slots_R = torch.tensor([call.slot for call in calls], device=self.tokens_QS.device)
        rows_R = None if self.texts.is_all(slots_R.tolist()) else slots_R
        logits_RV = self.teacher.read(rows_R, self.tokens_QS, length_Q).logits_RV
        position_R = torch.tensor([len(call.known) + len(call.tokens) for call in calls], device=logits_RV.device)
        if self.constraints != Constraints():
            logits_RV = self.constraints.apply(logits_RV, position_R, torch.full_like(position_R, NO_LIMIT))
        sampling = self.params.sampling
        noise_R = None if sampling.greedy else self.texts.noise(slots_R, TEACHER_STREAM)(position_R)
        return [int(token) for token in sampling.choose(logits_RV, noise_R, "teacher")]

    def _put(self, call: Call) -> int:
        """Put a text before the teacher, which forgets what it read of another one; count the pass, return its end."""
        prefix, slot = self._prefix(call), call.slot
        tokens = [*prefix, *call.known, *call.tokens]
        same = min(shared_prefix(self.spoken[slot], tokens), len(tokens) - 1)
        slot_1, same_1 = (torch.tensor([number], device=self.tokens_QS.device) for number in (slot, same))
        self.teacher.rollback(slot_1, same_1)
        read = int(self.teacher.cursor_B[slot])
        if (missing := len(tokens) - self.tokens_QS.shape[1]) > 0:
            self.tokens_QS = torch.nn.functional.pad(self.tokens_QS, (0, missing + BEYOND))
        self.tokens_QS[slot, same : len(tokens)] = torch.tensor(tokens[same:], device=self.tokens_QS.device)
        self.spoken[slot] = tokens
        call.sequence.teacher_passes += 1
        call.sequence.teacher_positions += len(tokens) - max(read, len(prefix) - 1)
        call.sequence.usage += Usage(0, len(tokens) - read, 0, 1)
        return len(tokens)

    def _goes_on(self, call: Call, token: int) -> bool:
        """Take a token of the teacher's into a call, and tell whether it goes on."""
        if token in self.ends:
            call.ended = True
            return False
        source, spelling = call.sequence.teacher_source, self.pair.teacher_spelling
        before = spelling.text(source, call.known)
        added = spelling.text(source, [*call.known, *call.tokens, token])[len(before) :]
        bought = len(call.tokens) >= self.span.most or any(stop in call.added for stop in self.span.stops)
        if bought and self._is_safe(call, added[len(call.added) :]):
            return False
        call.tokens.append(token)
        call.added = added
        return len(call.tokens) < self.span.most + BEYOND and self._has_room(call)

    def _is_safe(self, call: Call, following: str) -> bool:
        """Whether a call may end here, before the text that follows: its text is whole, and says something."""
        stable = self.pair.spelling.is_stable(call.sequence.source, call.text + call.added, following)
        return bool(call.added) and stable

    def _write_down(self, call: Call) -> None:
        """Put what the teacher wrote into its text, in the student's tokens."""
        slot, sequence = call.slot, call.sequence
        tokens, by = self._spelled(call)
        tokens, by = tokens[: sequence.limit], by[: sequence.limit]
        same = shared_prefix(tokens, sequence.tokens)
        if tokens == sequence.tokens:
            self.write_instead(slot, len(sequence.tokens))
            return
        self.cut(slot, same)
        for token, teacher in zip(tokens[same:], by[same:], strict=True):
            self.texts.append_span(slot, [token], by_teacher=teacher)
        self.forget(slot, same)
        self.known[slot] = [*call.known, *call.tokens]

    def _spelled(self, call: Call) -> tuple[list[int], list[bool]]:
        """Return the student's tokens of a text after a call, and whether the teacher wrote each."""
        sequence, spelling, old = call.sequence, self.pair.spelling, call.sequence.tokens
        tokens, by = list(old), list(sequence.by_teacher)
        if call.added:
            same, tail = spelling.continued(sequence.source, old, call.text, call.added)
            tokens = [*old[:same], *tail]
            by = spelling.authors(sequence.source, old, by, tokens) if same < len(old) else [*by, *[True] * len(tail)]
        if not old and self.pair.first is not None and tokens[:1] != [self.pair.first]:
            tokens, by = [self.pair.first, *tokens], [True, *by]
        return ([*tokens, self.pair.eos_ids[0]], [*by, True]) if call.ended else (tokens, by)
