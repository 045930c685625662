"""Teacher passes over text: what is written so far in the teacher's tokens, and what it writes in the student's.

A call buys `span` of the teacher's tokens, and then as many more as it takes to come to a safe boundary: a place where
the student's tokens of the text stay what they are when the teacher's next token follows. That token is computed and
dropped. Between two calls the teacher keeps what it has read, up to where the student wrote something else.

A method that verifies lets the teacher read the draft's text in its own tokens, accept the first of these and write the
next (universal assisted generation: Timor et al. 2025, arXiv 2502.05202, where a token is accepted by itself).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from wheels.decoding.across.pair import TextPair
from wheels.decoding.across.spelling import UNFINISHED, shared_prefix
from wheels.decoding.methods.verify import Check, Verifier
from wheels.decoding.models.self_check import checked_runner
from wheels.decoding.params import ACCEPT_STREAM, TEACHER_STREAM
from wheels.decoding.passes import SlotState
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
    draft: list[int] = field(default_factory=list)
    """What its student drafted, in the teacher's tokens, where these are verified."""
    agreed: bool = False
    """Whether the student had drafted that end."""


@dataclass(frozen=True, eq=False)
class TextState(SlotState):
    """A text in flight, and what the teacher has read of it in its own tokens."""

    spoken: list[int]
    """What it was given to read."""
    known: list[int]
    """The output after the last call."""


class TextPasses(StudentPasses):
    """A student and a teacher with tokenizers of their own, over one batch of texts."""

    def _open_teacher(self, pair: Pair) -> None:
        """Make what runs the teacher, over texts of its own tokens."""
        assert isinstance(pair, TextPair)
        self.pair, self.span, self.most = pair, pair.span, pair.teacher_limit
        rows, size, weights = len(self.texts.sequences), logits_size(pair.writer), pair.teacher_weights
        self.teacher = checked_runner(pair.writer, rows, size, overhead=self.overhead, weights=weights, hidden=False)
        self.constraints, self.ends = Constraints.of(pair.writer), pair.teacher_ends
        self.tokens_QS = torch.zeros(rows, 1, dtype=torch.long, device=pair.device)
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

    def snapshot(self, slot: int) -> TextState:
        """Copy a text and what both models have read of it."""
        own, teacher = super().snapshot(slot), self.teacher.snapshot(slot)
        return TextState(own.sequence, own.student, teacher, [*self.spoken[slot]], [*self.known[slot]])

    def restore(self, slots: list[int], states: list[SlotState]) -> None:
        """Let copies of texts go on in `slots`, whatever these were doing; nothing is read again."""
        super().restore(slots, states)
        for slot, state in zip(slots, states, strict=True):
            assert isinstance(state, TextState)
            self.spoken[slot], self.known[slot] = [*state.spoken], [*state.known]
            self._say(slot, 0, state.spoken)

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

    def verify(self, slots: list[int], slots_R: torch.Tensor, verifier: Verifier) -> None:
        """Let the teacher verify the texts of drafts, and write after what it accepts.

        Where it has no room for a text, the draft stands.
        """
        calls = [self._drafted(slot) for slot in slots]
        active = judged = [call for call in calls if self._has_room(call)]
        if judged:
            accepted, own = self._judge(judged, verifier)
            active = [
                call
                for call, count, token in zip(judged, accepted, own, strict=True)
                if self._accept(call, [*call.draft[:count], token])
            ]
        for call in judged:
            call.draft = []
        while active:  # it has written the first bytes of a character
            active = [
                call
                for call, token in zip(active, self._next_tokens(active), strict=True)
                if self._accept(call, [token])
            ]
        for call in calls:
            self._write_after_draft(call)

    def _drafted(self, slot: int) -> Call:
        """Say what the teacher verifies: the text that was drafted, in the tokens that it would write for it."""
        sequence, known = self.texts.sequence(slot), self.known[slot]
        settled, whole = (
            self.pair.spelling.text(sequence.source, tokens)
            for tokens in (sequence.tokens[: sequence.num_settled], sequence.tokens)
        )
        call = Call(slot, sequence, settled, known)
        added, spelling = whole[len(settled) :].rstrip(UNFINISHED), self.pair.teacher_spelling
        same, draft = spelling.continued(sequence.teacher_source, known, self._own_text(call), added)
        ends = sequence.num_draft and sequence.tokens[-1] in self.pair.eos_ids
        call.draft = [*draft, *([self.pair.teacher_end] if ends else [])] if same == len(known) else []
        if self.most is not None:
            call.draft = call.draft[: max(0, self.most - len(self._prefix(call)) - len(known) - 1)]
        return call

    def _own_text(self, call: Call) -> str:
        """Return the text of the teacher's tokens, up to the last whole character where it goes on."""
        text = self.pair.teacher_spelling.text(call.sequence.teacher_source, [*call.known, *call.tokens])
        return text if call.ended else text.rstrip(UNFINISHED)

    def _judge(self, calls: list[Call], verifier: Verifier) -> tuple[list[int], list[int]]:
        """Return how many tokens of each draft the teacher accepts, and its own token after them."""
        slots_R, position_R, logits_RWV = self._read(calls)
        rows, width = logits_RWV.shape[:2]
        draft_RK = torch.zeros(rows, width - 1, dtype=torch.long, device=logits_RWV.device)
        for row, call in enumerate(calls):
            draft_RK[row, : len(call.draft)] = torch.tensor(call.draft, dtype=torch.long)
        noise = torch.zeros(2, rows, width, dtype=torch.float64, device=logits_RWV.device)
        if not self.params.sampling.greedy:
            flat_N, slots_N = _places(position_R, width).reshape(-1), slots_R.repeat_interleave(width)
            for number, stream in enumerate((ACCEPT_STREAM, TEACHER_STREAM)):
                noise[number] = self.texts.noise(slots_N, stream)(flat_N).view(rows, width)
        num_draft_R = torch.tensor([len(call.draft) for call in calls], device=logits_RWV.device)
        verdict = verifier(
            Check(logits_RWV, draft_RK, num_draft_R, self.params.sampling, None, noise[0][:, :-1], noise[1])
        )
        return verdict.num_accepted_R.tolist(), verdict.token_R.tolist()

    def _accept(self, call: Call, tokens: list[int]) -> bool:
        """Take tokens of the teacher's into a text, up to an end; tell whether they say nothing, and it goes on."""
        before = self._own_text(call)[: -len(call.added) or None]
        count = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        call.tokens += tokens[:count]
        call.ended, call.agreed = count < len(tokens), count < len(tokens) - 1
        call.added = self._own_text(call)[len(before) :]
        return not (call.added or call.ended) and len(call.tokens) < BEYOND and self._has_room(call)

    def _write_after_draft(self, call: Call) -> None:
        """Put what the teacher accepted of a draft, and wrote after it, into the text."""
        slot, sequence, spelling = call.slot, call.sequence, self.pair.spelling
        if not (call.added or call.ended):
            sequence.degraded += sequence.num_draft
            if not sequence.num_draft:
                self.write_instead(slot, len(sequence.tokens))
            text = spelling.text(sequence.source, sequence.tokens)
            self.known[slot] = self.pair.teacher_spelling.tokens(sequence.teacher_source, text)
            return
        count = spelling.standing(sequence.source, sequence.tokens, sequence.num_settled, call.added)
        sequence.accept_draft(count - sequence.num_settled + call.agreed)
        self.cut(slot, count)
        text = spelling.text(sequence.source, sequence.tokens)
        call.text, call.added = text, call.added[len(text) - len(call.text) :]
        self._write_down(call, verified=True)

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
        slots_R, position_R, logits_RWV = self._read(calls)
        sampling = self.params.sampling
        noise_R = None if sampling.greedy else self.texts.noise(slots_R, TEACHER_STREAM)(position_R)
        return [int(token) for token in sampling.choose(logits_RWV[:, 0], noise_R, "teacher")]

    def _read(self, calls: list[Call]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Let the teacher read all that it has not seen of some texts and their drafts.

        Returns:
            The R slots, the position of the next token of each text (in the teacher's tokens, those of a draft not
            counted), and the logits there and after each token of the draft, `[R, W, V]`.
        """
        length_Q = self.teacher.cursor_B.to(self.tokens_QS.device, copy=True)
        for call in calls:
            length_Q[call.slot] = self._put(call)
        device = self.tokens_QS.device
        slots_R = torch.tensor([call.slot for call in calls], device=device)
        rows_R = None if self.texts.is_all(slots_R.tolist()) else slots_R
        wanted_R = torch.tensor([len(call.draft) + 1 for call in calls], device=device)
        logits_RWV = self.teacher.read(rows_R, self.tokens_QS, length_Q, wanted_R).logits_RV
        position_R = torch.tensor([len(call.known) + len(call.tokens) for call in calls], device=device)
        if self.constraints != Constraints():
            flat_N, size = _places(position_R, logits_RWV.shape[1]).reshape(-1), logits_RWV.shape
            logits_NV = self.constraints.apply(
                logits_RWV.reshape(-1, size[2]), flat_N, torch.full_like(flat_N, NO_LIMIT)
            )
            logits_RWV = logits_NV.view(size)
        return slots_R, position_R, logits_RWV

    def _put(self, call: Call) -> int:
        """Put a text before the teacher, which forgets what it read of another one; count the pass, return its end."""
        prefix, slot = self._prefix(call), call.slot
        tokens = [*prefix, *call.known, *call.tokens, *call.draft]
        same = min(shared_prefix(self.spoken[slot], tokens), len(tokens) - len(call.draft) - 1)
        slot_1, same_1 = (torch.tensor([number], device=self.tokens_QS.device) for number in (slot, same))
        self.teacher.rollback(slot_1, same_1)
        read = int(self.teacher.cursor_B[slot])
        self._say(slot, same, tokens)
        self.spoken[slot] = tokens
        call.sequence.teacher_passes += 1
        call.sequence.teacher_positions += len(tokens) - max(read, len(prefix) - 1)
        call.sequence.usage += Usage(0, len(tokens) - read, 0, 1)
        return len(tokens)

    def _say(self, slot: int, same: int, tokens: list[int]) -> None:
        """Put before the teacher what it reads, which begins with `same` tokens that are there."""
        if (missing := len(tokens) - self.tokens_QS.shape[1]) > 0:
            self.tokens_QS = torch.nn.functional.pad(self.tokens_QS, (0, missing + BEYOND))
        said = torch.tensor(tokens[same:], dtype=torch.long, device=self.tokens_QS.device)
        self.tokens_QS[slot, same : len(tokens)] = said

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

    def _write_down(self, call: Call, *, verified: bool = False) -> None:
        """Put what the teacher wrote into its text, in the student's tokens.

        Args:
            call: What it wrote.
            verified: Whether it accepted what was there, so that it need not have written more.
        """
        slot, sequence = call.slot, call.sequence
        tokens, by = self._spelled(call)
        tokens, by = tokens[: sequence.limit], by[: sequence.limit]
        same = shared_prefix(tokens, sequence.tokens)
        if tokens == sequence.tokens and not verified:
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
        return ([*tokens, self.pair.eos_ids[0]], [*by, not call.agreed]) if call.ended else (tokens, by)


def _places(position_R: torch.Tensor, width: int) -> torch.Tensor:
    """Return the positions of the next `width` tokens of each row, `[R, W]`."""
    return position_R[:, None] + torch.arange(width, device=position_R.device)
