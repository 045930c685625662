"""The texts in flight: what is kept of each while it is written, and their tensors, which a pass indexes by slot."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from wheels.decoding.methods.choices import ON_ERROR
from wheels.decoding.sampling import uniforms
from wheels.endpoints.usage import USED_NOTHING, Usage
from wheels.errors import WheelsError, check_choice, check_kind, check_texts
from wheels.models.encoding import EmptyPrompt
from wheels.models.limits import room
from wheels.models.pair import Pair
from wheels.policy.copy_features import CopyPointer
from wheels.policy.features import CopyFeatures


@dataclass(frozen=True)
class TokenLogprobs:
    """What the model that wrote a token thought of it, in nats, before temperature and cuts."""

    own: float
    """The token's log-probability."""
    best: tuple[tuple[int, float], ...]
    """The best tokens with theirs."""


@dataclass
class Sequence:
    """One output while it is written."""

    index: int
    """Its place among the sources."""
    source: list[int]
    """The source's or prompt's tokens."""
    limit: int
    """The most tokens that it may have."""
    budget: float = 0.0
    """The share of its tokens that the teacher may write."""
    seed: int = 0
    """The seed of its draws."""
    tokens: list[int] = field(default_factory=list)
    """Tokens written so far, the draft included."""
    by_teacher: list[bool] = field(default_factory=list)
    """Who wrote each of them."""
    num_settled: int = 0
    """Tokens before the draft: up to the teacher's last one."""
    draft_limit: int = 0
    """The length at which the draft is full."""
    teacher_passes: int = 0
    teacher_positions: int = 0
    student_passes: int = 0
    drafted: int = 0
    accepted: int = 0
    checked: int = 0
    """Draft tokens that were judged: those accepted, and the one that was not."""
    degraded: int = 0
    """Tokens that the student wrote because a remote teacher, called for them, gave no answer."""
    guessed: int = 0
    """Answers of a remote teacher that were what the student had written meanwhile."""
    span: int = 0
    """Tokens that its next call buys, where that is chosen; 0: as many as any call."""
    usage: Usage = USED_NOTHING
    """Tokens that a remote teacher's server counted for it."""
    seconds: float = 0.0
    finished: bool = False
    error: str | None = None
    """Why it cannot be written."""
    counted: tuple[int, int] = (0, 0)
    """Calls and tokens of it that the threshold of online mode knows of."""
    best: int | None = None
    """How many of the best tokens are kept at each place, with their log-probabilities; None: no place's."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Of each token, where `best` asks for them and no draft is verified."""
    asked: str = ""
    """The source itself, where it was given as text."""
    teacher_source: list[int] = field(default_factory=list)
    """What the teacher reads of the source, where it has other tokens (`Pair.encode_for_teacher`)."""

    @cached_property
    def copy_pointer(self) -> CopyPointer:
        """Where in its source the text is, as far as it copies."""
        return CopyPointer(self.source)

    @property
    def state(self) -> tuple[int, int, float, tuple[int, int]]:
        """What a head is told of it (`wheels.decoding.models.head_inputs`)."""
        return len(self.tokens), len(self.source), self.budget, self.copy_pointer.follow(self.tokens)

    @property
    def num_draft(self) -> int:
        """Tokens of the draft."""
        return len(self.tokens) - self.num_settled

    def is_over(self, eos: Container[int]) -> bool:
        """Tell whether it has an end token, or all its tokens."""
        return self.tokens[-1] in eos or len(self.tokens) >= self.limit

    def copy(self) -> Sequence:
        """Return a copy that grows on its own."""
        return replace(self, tokens=list(self.tokens), by_teacher=list(self.by_teacher), logprobs=list(self.logprobs))

    def accept_draft(self, num_accepted: int) -> bool:
        """Keep the first tokens of the draft, drop and count the others; return whether one was rejected."""
        drafted = self.num_draft
        self.drafted, self.accepted = self.drafted + drafted, self.accepted + num_accepted
        self.checked += min(num_accepted + 1, drafted)
        self.truncate(self.num_settled + num_accepted)
        return num_accepted < drafted

    def truncate(self, length: int) -> None:
        """Drop the tokens from `length` on."""
        del self.tokens[length:], self.by_teacher[length:]


def prepare_sequences(
    pair: Pair, sources: Iterable[str], max_new_tokens: int, *, on_error: str = "stop", first: int = 0
) -> list[Sequence]:
    """Encode the sources, and say how long each output may be.

    Args:
        pair: Whose tokens these are.
        sources: The texts.
        max_new_tokens: The most tokens of an output.
        on_error: `stop` for an error at the first source that cannot be read, `skip` to note it in its sequence.
        first: The index of the first source.

    Raises:
        WheelsError: for an empty source, or one that leaves no room in the context.
    """
    check_kind("pair", pair, Pair, "a Pair (Pair.load, Pair.of)")
    sources = check_texts("sources", sources)
    check_choice("on_error", on_error, ON_ERROR)
    sequences = [Sequence(index, [], 0) for index in range(first, first + len(sources))]
    for sequence, source in zip(sequences, sources, strict=True):
        if not source.strip():
            sequence.error = f"input {sequence.index + 1} is empty; give it some text"
    _stop_at_error(sequences, on_error)
    good = [sequence for sequence in sequences if sequence.error is None]
    limit = pair.source_limit  # models and tokenizer are asked once, not for each text
    for sequence, tokens in zip(
        good, _encoded(pair, [sources[sequence.index - first] for sequence in good]), strict=True
    ):
        if isinstance(tokens, WheelsError):
            sequence.error = f"input {sequence.index + 1}: {tokens}"
            continue
        sequence.source, sequence.asked = tokens, sources[sequence.index - first]
        try:
            sequence.teacher_source = pair.encode_for_teacher(sequence.asked)
        except WheelsError as error:
            sequence.error = f"input {sequence.index + 1}: {error}"
            continue
        sequence.limit = room(len(tokens), max_new_tokens, limit, is_seq2seq=pair.is_seq2seq)
        if not tokens:
            sequence.error = f"input {sequence.index + 1} gives an empty prompt; give it some text"
        elif sequence.limit < 1:
            sequence.error = _too_long(pair, sequence)
    _stop_at_error(sequences, on_error)
    return sequences


def _encoded(pair: Pair, sources: list[str]) -> list[list[int] | WheelsError]:
    """Return the tokens of each source, or its error; none where all that it holds is taken for an end token."""
    try:
        return [*pair.encode(sources)]
    except WheelsError as error:
        if len(sources) == 1:
            return [[] if isinstance(error, EmptyPrompt) else error]
        return [tokens for source in sources for tokens in _encoded(pair, [source])]


def _stop_at_error(sequences: list[Sequence], on_error: str) -> None:
    """Raise the first error, where the caller wants to be stopped by it."""
    error = next((sequence.error for sequence in sequences if sequence.error is not None), None)
    if error is not None and on_error == "stop":
        raise WheelsError(error)


def sequences_of(pair: Pair, sources: list[list[int]], max_new_tokens: int) -> list[Sequence]:
    """Make a sequence for each encoded source.

    Raises:
        WheelsError: for a source that leaves no room in the context.
    """
    limit, kind = pair.source_limit, pair.is_seq2seq
    rooms = [room(len(tokens), max_new_tokens, limit, is_seq2seq=kind) for tokens in sources]
    sequences = [Sequence(index, tokens, own) for index, (tokens, own) in enumerate(zip(sources, rooms, strict=True))]
    for sequence in sequences:
        if sequence.limit < 1:
            raise WheelsError(_too_long(pair, sequence))
    return sequences


def _too_long(pair: Pair, sequence: Sequence) -> str:
    return (
        f"input {sequence.index + 1} has {len(sequence.source)} tokens, and the models read at most "
        f"{pair.source_limit}{'' if pair.is_seq2seq else ', output included'}; shorten or split it"
    )


class TextBatch:
    """Q slots, each with the text that is written in it; the engine and the environments step the same class.

    A slot is taken again as soon as its text has ended; a text longer than any before widens all. Methods that take
    both `slots` and `slots_R` are given the same R slots twice: as a list, and as a tensor.

    Args:
        pair: Student, teacher and tokenizer.
        count: Q, texts in flight at most.
        sequences: The texts that are known: there is room for the longest of them from the start.
    """

    def __init__(self, pair: Pair, count: int, sequences: list[Sequence]) -> None:
        self.pair = pair
        prefix = len(pair.start_ids) if pair.is_seq2seq else max((len(each.source) for each in sequences), default=0)
        width = prefix + max((each.limit for each in sequences), default=0) + 1
        self.sequences: list[Sequence | None] = [None] * count
        device = pair.device
        self.tokens_QT = torch.full((count, width), pair.pad_id, dtype=torch.long, device=device)
        self.length_Q = torch.zeros(count, dtype=torch.long, device=device)
        """Tokens of the text, prefix and draft included."""
        self.prefix_Q = torch.zeros_like(self.length_Q)
        """Tokens before the output."""
        self.source_Q = torch.zeros_like(self.length_Q)
        """Tokens of the source, or of the prompt."""
        self.calls_Q = torch.zeros_like(self.length_Q)
        """Tokens that the teacher wrote."""
        self.limit_Q = torch.zeros_like(self.length_Q)
        self.index_Q = torch.zeros_like(self.length_Q)
        self.budget_Q = torch.zeros(count, dtype=torch.float64, device=device)
        self.seeds = np.zeros(count, dtype=np.int64)
        self.keeps_logprobs = False
        """Whether a text that was here asked for log-probabilities."""

    def admit(self, slot: int, sequence: Sequence) -> None:
        """Let a text begin in a slot, or go on after the tokens that it has."""
        prefix = list(self.pair.start_ids) if self.pair.is_seq2seq else sequence.source
        tokens, self.sequences[slot] = [*prefix, *sequence.tokens], sequence
        if (missing := len(prefix) + sequence.limit + 1 - self.tokens_QT.shape[1]) > 0:
            self.tokens_QT = torch.nn.functional.pad(self.tokens_QT, (0, missing), value=self.pair.pad_id)
        self.tokens_QT[slot, : len(tokens)] = torch.tensor(tokens, device=self.tokens_QT.device)
        self.length_Q[slot], self.prefix_Q[slot] = len(tokens), len(prefix)
        self.source_Q[slot], self.limit_Q[slot] = len(sequence.source), sequence.limit
        self.calls_Q[slot], self.index_Q[slot] = sum(sequence.by_teacher), sequence.index
        self.budget_Q[slot], self.seeds[slot] = sequence.budget, sequence.seed
        self.keeps_logprobs |= sequence.best is not None

    def leave(self, slot: int) -> Sequence:
        """Give a slot back, and return the text that was in it."""
        sequence = self.sequence(slot)
        self.sequences[slot] = None
        return sequence

    def sequence(self, slot: int) -> Sequence:
        """Return the text in a slot that is taken."""
        sequence = self.sequences[slot]
        assert sequence is not None, f"slot {slot} is free"
        return sequence

    def free(self) -> list[int]:
        """Return the slots that a text may take."""
        return [slot for slot, sequence in enumerate(self.sequences) if sequence is None]

    def is_all(self, slots: list[int]) -> bool:
        """Tell whether `slots` are all there are, in order."""
        return len(slots) == len(self.sequences) and slots == list(range(len(self.sequences)))

    def position(self, slots_R: torch.Tensor) -> torch.Tensor:
        """Return the tokens written in each slot, `[R]`."""
        return self.length_Q[slots_R] - self.prefix_Q[slots_R]

    def noise(self, slots_R: torch.Tensor, stream: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what draws, at a position of each text, the number in [0, 1) of its seed and index, float64 `[R]`."""
        seeds, index_R = self.seeds[slots_R.cpu().numpy()], self.index_Q[slots_R]
        return lambda position_R: uniforms(seeds, index_R, position_R, stream)

    def copy_features(self, slots_R: torch.Tensor) -> CopyFeatures:
        """Return what tells where each text is in its source, and where its best tokens lead.

        It tells so of the texts as they are now (`wheels.policy.copy_features`), though they grow.
        """
        sequences, position_R = self.sequences.copy(), self.position(slots_R)

        def found(token_RK: torch.Tensor) -> torch.Tensor:
            rows = []
            for slot, position, best in zip(slots_R.tolist(), position_R.tolist(), token_RK.tolist(), strict=True):
                sequence = sequences[slot]
                assert sequence is not None, f"slot {slot} is free"
                sequence.copy_pointer.follow(sequence.tokens)
                rows.append(sequence.copy_pointer.features(best, position))
            return torch.tensor(rows, device=token_RK.device)

        return found

    def append(self, slots: list[int], slots_R: torch.Tensor, token_R: torch.Tensor, *, by_teacher: bool) -> None:
        """Append one token to each text."""
        self.tokens_QT[slots_R, self.length_Q[slots_R]] = token_R
        self.length_Q[slots_R] += 1
        if by_teacher:
            self.calls_Q[slots_R] += 1
        for slot, token in zip(slots, token_R.tolist(), strict=True):
            sequence = self.sequence(slot)
            sequence.tokens.append(token)
            sequence.by_teacher.append(by_teacher)

    def append_span(self, slot: int, tokens: list[int], *, by_teacher: bool) -> None:
        """Append several tokens to one text."""
        sequence, start = self.sequence(slot), int(self.length_Q[slot])
        self.tokens_QT[slot, start : start + len(tokens)] = torch.tensor(tokens, device=self.tokens_QT.device).long()
        self.length_Q[slot] += len(tokens)
        self.calls_Q[slot] += by_teacher * len(tokens)
        sequence.tokens += tokens
        sequence.by_teacher += [by_teacher] * len(tokens)

    def truncate(self, slots: list[int], slots_R: torch.Tensor) -> None:
        """Shorten texts to the tokens that their sequences still have."""
        lengths = [len(self.sequence(slot).tokens) for slot in slots]
        self.length_Q[slots_R] = self.prefix_Q[slots_R] + torch.tensor(lengths, device=self.length_Q.device)
