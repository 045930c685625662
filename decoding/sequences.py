"""The texts in flight: what is kept of each while it is written, in tensors that a pass indexes by its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from wheels.decoding.methods.choices import ON_ERROR
from wheels.errors import WheelsError, check_choice, check_kind, check_texts
from wheels.models.pair import Pair
from wheels.policy.copy_features import CopyPointer


@dataclass
class Row:
    """One output while it is written."""

    index: int
    """Its place among the sources."""
    source: list[int]
    """The source's or prompt's tokens."""
    limit: int
    """The most tokens that it may have."""
    budget: float = 0.0
    """The share of its tokens that the teacher may write."""
    tokens: list[int] = field(default_factory=list)
    """What was written, drafts that were not verified yet included."""
    by_teacher: list[bool] = field(default_factory=list)
    """Who wrote each of them."""
    num_settled: int = 0
    """Tokens up to the last that the teacher settled: behind them lies the draft."""
    draft_limit: int = 0
    """The length at which the draft is full."""
    passes: int = 0
    positions: int = 0
    student_passes: int = 0
    drafted: int = 0
    accepted: int = 0
    checked: int = 0
    """Draft tokens that were judged: those accepted, and the one that was not."""
    seconds: float = 0.0
    finished: bool = False
    error: str | None = None
    """Why it cannot be written."""

    @cached_property
    def place(self) -> CopyPointer:
        """Where in its source the text is, as far as it copies."""
        return CopyPointer(self.source)

    @property
    def gap(self) -> int:
        """Tokens of the draft."""
        return len(self.tokens) - self.num_settled


def prepare_sequences(pair: Pair, sources: Sequence[str], max_new_tokens: int, *, on_error: str = "stop") -> list[Row]:
    """Encode the sources, and say how long each output may be.

    Args:
        pair: Whose tokens these are.
        sources: The texts.
        max_new_tokens: The most tokens of an output.
        on_error: `stop` for an error at the first source that cannot be read, `skip` to note it in its row.

    Raises:
        WheelsError: for an empty source, or one that leaves no room in the context.
    """
    check_kind("pair", pair, Pair, "a Pair (Pair.load, Pair.of)")
    sources = check_texts("sources", sources)
    check_choice("on_error", on_error, ON_ERROR)
    rows = [Row(index, [], 0) for index in range(len(sources))]
    for row, source in zip(rows, sources, strict=True):
        if not source.strip():
            row.error = f"input {row.index + 1} of {len(rows)} is empty; give it some text"
    _stop_at_error(rows, on_error)
    good = [row for row in rows if row.error is None]
    for row, tokens in zip(good, _encoded(pair, [sources[row.index] for row in good]), strict=True):
        row.source, row.limit = tokens, pair.room(tokens, max_new_tokens)
        if not tokens:
            row.error = f"input {row.index + 1} of {len(rows)} gives an empty prompt; give it some text"
        elif row.limit < 1:
            row.error = _too_long(pair, row, len(rows))
    _stop_at_error(rows, on_error)
    return rows


def _encoded(pair: Pair, sources: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each source; none where all that it holds is taken for an end token."""
    try:
        return pair.encode(sources)
    except WheelsError:
        if len(sources) == 1:
            return [[]]
        return [tokens for source in sources for tokens in _encoded(pair, [source])]


def _stop_at_error(rows: Sequence[Row], on_error: str) -> None:
    """Raise the first error, where the caller wants to be stopped by it."""
    error = next((row.error for row in rows if row.error is not None), None)
    if error is not None and on_error == "stop":
        raise WheelsError(error)


def sequences_of(pair: Pair, sources: Sequence[list[int]], max_new_tokens: int) -> list[Row]:
    """Make a row for each encoded source.

    Raises:
        WheelsError: for a source that leaves no room in the context.
    """
    rows = [Row(index, tokens, pair.room(tokens, max_new_tokens)) for index, tokens in enumerate(sources)]
    for row in rows:
        if row.limit < 1:
            raise WheelsError(_too_long(pair, row, len(rows)))
    return rows


def _too_long(pair: Pair, row: Row, count: int) -> str:
    return (
        f"input {row.index + 1} of {count} has {len(row.source)} tokens, and the models read at most "
        f"{pair.source_limit}{'' if pair.is_seq2seq else ', output included'}; shorten or split it"
    )


class TextBatch:
    """The tensors of the texts in flight; a slot is taken again as soon as its text has ended.

    Args:
        pair: Student, teacher and tokenizer.
        count: S, texts in flight at most.
        rows: All texts that will be: there is room for the longest of them.
    """

    def __init__(self, pair: Pair, count: int, rows: Sequence[Row]) -> None:
        self.pair = pair
        prefix = len(pair.start_ids) if pair.is_seq2seq else max((len(row.source) for row in rows), default=0)
        width = prefix + max((row.limit for row in rows), default=0) + 1
        self.rows: list[Row | None] = [None] * count
        device = pair.device
        self.tokens_ST = torch.full((count, width), pair.pad_id, dtype=torch.long, device=device)
        self.length_S = torch.zeros(count, dtype=torch.long, device=device)
        """Tokens of the text, prefix and draft included."""
        self.prefix_S = torch.zeros_like(self.length_S)
        """Tokens before the output."""
        self.source_S = torch.zeros_like(self.length_S)
        """Tokens of the source, or of the prompt."""
        self.calls_S = torch.zeros_like(self.length_S)
        self.limit_S = torch.zeros_like(self.length_S)
        self.index_S = torch.zeros_like(self.length_S)
        self.budget_S = torch.zeros(count, dtype=torch.float64, device=device)

    def admit(self, slot: int, row: Row) -> None:
        """Let a text begin in a free slot."""
        prefix = list(self.pair.start_ids) if self.pair.is_seq2seq else row.source
        self.rows[slot] = row
        self.tokens_ST[slot, : len(prefix)] = torch.tensor(prefix, device=self.tokens_ST.device)
        self.length_S[slot] = self.prefix_S[slot] = len(prefix)
        self.source_S[slot] = len(row.source)
        self.calls_S[slot], self.limit_S[slot], self.index_S[slot] = 0, row.limit, row.index
        self.budget_S[slot] = row.budget

    def row(self, slot: int) -> Row:
        """Return the text in a slot that is taken."""
        row = self.rows[slot]
        assert row is not None, f"slot {slot} is free"
        return row

    def free(self) -> list[int]:
        """Return the slots that a text may take."""
        return [slot for slot, row in enumerate(self.rows) if row is None]

    def all(self, slots: Sequence[int]) -> bool:
        """Tell whether `slots` are all there are, in order."""
        return len(slots) == len(self.rows) and list(slots) == list(range(len(self.rows)))

    def position(self, slots_R: torch.Tensor) -> torch.Tensor:
        """Return the tokens written in each slot."""
        return self.length_S[slots_R] - self.prefix_S[slots_R]

    def places(self, slots_R: torch.Tensor, token_RK: torch.Tensor) -> torch.Tensor:
        """Return where each text is in its source, and where its best tokens lead (`wheels.policy.copy_features`)."""
        numbers = []
        for slot, best in zip(slots_R.tolist(), token_RK.tolist(), strict=True):
            row = self.row(slot)
            row.place.follow(row.tokens)
            numbers.append(row.place.features(best))
        return torch.tensor(numbers, device=token_RK.device)

    def write(self, slots: Sequence[int], slots_R: torch.Tensor, token_R: torch.Tensor, *, by_teacher: bool) -> None:
        """Append one token to each text."""
        self.tokens_ST[slots_R, self.length_S[slots_R]] = token_R
        self.length_S[slots_R] += 1
        if by_teacher:
            self.calls_S[slots_R] += 1
        for slot, token in zip(slots, token_R.tolist(), strict=True):
            row = self.row(slot)
            row.tokens.append(token)
            row.by_teacher.append(by_teacher)

    def cut(self, slots: Sequence[int], slots_R: torch.Tensor, kept: Sequence[int]) -> None:
        """Keep the first tokens of each draft, and forget the others."""
        for slot, count in zip(slots, kept, strict=True):
            row = self.row(slot)
            del row.tokens[row.num_settled + count :], row.by_teacher[row.num_settled + count :]
        lengths = [len(self.row(slot).tokens) for slot in slots]
        self.length_S[slots_R] = self.prefix_S[slots_R] + torch.tensor(lengths, device=self.length_S.device)
