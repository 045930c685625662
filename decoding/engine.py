"""The engine: rows write together, the student at every step, the teacher only where a rule calls it.

A step of a batch: the student reads the last token of every row; the rule sees the state; the rows that call are read
by the teacher, which catches up on all that it has not seen in one pass; the token is written. Budgets are enforced
here and only here. What is new in a batch's company never changes a row: each has its own cursor, its own noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from wheels.decoding.budget import permitted
from wheels.decoding.choices import MODES
from wheels.decoding.constraints import Constraints
from wheels.decoding.rules import Rule
from wheels.decoding.runner import Runner
from wheels.decoding.sampling import GREEDY, Sampling, uniforms
from wheels.decoding.step import Step
from wheels.decoding.trace import STUDENT, TEACHER, Trace, pieces_of
from wheels.errors import WheelsError, check_budget, check_choice
from wheels.pair import Pair

STUDENT_STREAM, TEACHER_STREAM, RULE_STREAM = range(3)


@dataclass(frozen=True)
class Request:
    """How to decode."""

    budget: float | Sequence[float]
    """The share of tokens that the teacher may write, in [0, 1]: one for all, or one for each source."""
    mode: str = "average"
    """`average` or `strict` (`wheels.decoding.budget`)."""
    burst: int = 0
    """Teacher tokens that strict mode may spend ahead."""
    max_new_tokens: int = 128
    """The most tokens of an output."""
    sampling: Sampling = GREEDY
    """How tokens are drawn."""
    seed: int = 0
    """The seed of all draws."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for budget in self.budget if isinstance(self.budget, Sequence) else [self.budget]:
            check_budget(budget)
        check_choice("budget_mode", self.mode, MODES)
        if self.max_new_tokens < 1:
            raise WheelsError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.burst < 0:
            raise WheelsError(f"burst must be at least 0, got {self.burst}")


@dataclass
class Row:
    """What is kept of one output while it is written."""

    index: int
    """Its place among the sources."""
    source: list[int]
    """The source's or prompt's tokens."""
    limit: int
    """The most tokens that it may have."""
    budget: float = 0.0
    """The share of its tokens that the teacher may write."""
    tokens: list[int] = field(default_factory=list)
    by_teacher: list[bool] = field(default_factory=list)
    passes: int = 0
    positions: int = 0
    finished: bool = False


def decode(
    pair: Pair,
    sources: Sequence[str],
    rule: Rule,
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    **request: object,
) -> list[Trace]:
    """Write an output for each source, the teacher's tokens where `rule` calls.

    Args:
        pair: Student, teacher and tokenizer.
        sources: The texts to translate, summarize or continue.
        rule: Decides when to call. Budget 0 never calls and budget 1 always does, whatever the rule.
        batch_size: Outputs that are written together; memory grows with it, results do not depend on it.
        progress: Called with the number of outputs that have just become ready.
        **request: The fields of `Request`; `budget` is required.

    Returns:
        A trace for each source, in their order.

    Raises:
        WheelsError: for a budget outside [0, 1], an unknown mode, an empty source, or one longer than the context.
    """
    wish = Request(**request)  # type: ignore[arg-type]
    if batch_size < 1:
        raise WheelsError(f"batch_size must be at least 1, got {batch_size}")
    rows = prepare_rows(pair, sources, wish.max_new_tokens)
    _give_budgets(rows, wish.budget)
    traces: list[Trace | None] = [None] * len(rows)
    for batch in _batches(rows, batch_size):
        for row, seconds in _write_batch(pair, batch, rule, wish):
            traces[row.index] = _trace(pair, row, rule, wish, seconds)
        if progress is not None:
            progress(len(batch))
    return [trace for trace in traces if trace is not None]


def prepare_rows(pair: Pair, sources: Sequence[str], max_new_tokens: int) -> list[Row]:
    """Encode the sources, and say how long each output may be.

    Raises:
        WheelsError: for an empty source, or one that leaves no room in the context.
    """
    for number, source in enumerate(sources, start=1):
        if not source.strip():
            raise WheelsError(f"input {number} of {len(sources)} is empty; give it some text")
    rows = []
    for index, tokens in enumerate(pair.encode(sources)):
        room, limit = max_new_tokens, pair.source_limit
        if limit is not None:
            room = min(room, limit - (1 if pair.is_seq2seq else len(tokens)))
            if len(tokens) > limit or room < 1:
                raise WheelsError(
                    f"input {index + 1} of {len(sources)} has {len(tokens)} tokens, and the models read at most {limit}"
                    f"{'' if pair.is_seq2seq else ', output included'}; shorten or split it"
                )
        rows.append(Row(index, tokens, room))
    return rows


def _give_budgets(rows: list[Row], budget: float | Sequence[float]) -> None:
    """Tell each row its budget."""
    budgets = budget if isinstance(budget, Sequence) else [budget] * len(rows)
    if len(budgets) != len(rows):
        raise WheelsError(f"budget must be one number or one for each of the {len(rows)} inputs, got {len(budgets)}")
    for row, share in zip(rows, budgets, strict=True):
        row.budget = float(share)


def _batches(rows: list[Row], size: int) -> Iterator[list[Row]]:
    """Yield batches of rows of like length, the longest first."""
    ordered = sorted(rows, key=lambda row: -len(row.source))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _write_batch(pair: Pair, rows: list[Row], rule: Rule, wish: Request) -> Iterator[tuple[Row, float]]:
    """Write a batch to its end; yield its rows, each with its share of the time."""
    start = time.perf_counter()
    batch = Batch(pair, rows, rule, wish)
    while batch.rows:
        batch.step()
    seconds = time.perf_counter() - start
    total = sum(len(row.tokens) for row in rows)
    for row in rows:
        yield row, seconds * len(row.tokens) / total


class Batch:
    """The state of the rows that are being written: texts, lengths, and both models' caches."""

    def __init__(self, pair: Pair, rows: list[Row], rule: Rule, wish: Request) -> None:
        self.rule, self.wish = rule, wish
        self.rows = list(rows)
        self.eos = torch.tensor(pair.eos_ids, device=pair.device)
        self.student = Runner(pair.student, len(rows), pair.vocab_size)
        self.teacher = Runner(pair.teacher, len(rows), pair.vocab_size)
        self.student_constraints = Constraints.of(pair.student)
        self.teacher_constraints = Constraints.of(pair.teacher)
        for runner in (self.student, self.teacher):
            runner.admit(range(len(rows)), [row.source for row in rows])
        prefixes = [list(pair.start_ids) if pair.is_seq2seq else row.source for row in rows]
        width = max(len(prefix) for prefix in prefixes) + max(row.limit for row in rows)
        self.tokens_BT = torch.full((len(rows), width), pair.pad_id, dtype=torch.long, device=pair.device)
        for index, prefix in enumerate(prefixes):
            self.tokens_BT[index, : len(prefix)] = torch.tensor(prefix)
        device = pair.device
        self.length_B = torch.tensor([len(prefix) for prefix in prefixes], device=device)
        self.prefix_B = self.length_B.clone() if not pair.is_seq2seq else torch.zeros_like(self.length_B)
        self.calls_B = torch.zeros_like(self.length_B)
        self.position_B = torch.zeros_like(self.length_B)
        self.limit_B = torch.tensor([row.limit for row in rows], device=device)
        self.index_B = torch.tensor([row.index for row in rows], device=device)
        self.budget_B = torch.tensor([row.budget for row in rows], dtype=torch.float64, device=device)
        self.wants_teacher = rule.needs_teacher and any(0 < row.budget < 1 for row in rows)

    def step(self) -> None:
        """Write one token in every row."""
        said = self.student.read(None, self.tokens_BT, self.length_B)
        state = self._state(said.logits_RV, said.hidden_RD)
        calls_B = self._calls(state)
        token_B = self._choose(said.logits_RV, None)
        if bool(calls_B.any()):
            called = calls_B.nonzero().squeeze(-1)
            token_B[called] = self._choose(self._teacher_scores(called), called)
        self._append(token_B, calls_B)

    def _state(self, logits_BV: torch.Tensor, hidden_BD: torch.Tensor) -> Step:
        """Build what the rule sees; the teacher reads every row where the rule needs it."""
        log_p_BV = None
        if self.wants_teacher:
            self.teacher_BV = self._read_teacher_everywhere(logits_BV)
            log_p_BV = self.teacher_BV.log_softmax(-1)
        return Step(
            log_q_BV=logits_BV.log_softmax(-1),
            hidden_BD=hidden_BD,
            position_B=self.position_B,
            calls_B=self.calls_B,
            budget_B=self.budget_B,
            noise_B=uniforms(self.wish.seed, self.index_B, self.position_B, RULE_STREAM),
            log_p_BV=log_p_BV,
        )

    def _calls(self, state: Step) -> torch.Tensor:
        """Return the rows that call: the rule's wish, as far as the budget lets it."""
        allowed_B = permitted(self.wish.mode, self.budget_B, self.position_B, self.calls_B, self.wish.burst)
        always_B = self.budget_B >= 1
        if not bool((allowed_B & ~always_B).any()):
            return allowed_B
        return (self.rule(state) | always_B) & allowed_B

    def _read_teacher(self, rows_R: torch.Tensor | None) -> torch.Tensor:
        """Let the teacher catch up in `rows_R` (None: all), and count what it cost."""
        cursor_B, prefix_B = self.teacher.cursor_B.clone(), self.prefix_B
        logits_RV = self.teacher.read(rows_R, self.tokens_BT, self.length_B).logits_RV
        read_B = self.length_B - torch.maximum(cursor_B, prefix_B - 1)
        positions = read_B.tolist()
        for index in range(len(self.rows)) if rows_R is None else rows_R.tolist():
            self.rows[index].passes += 1
            self.rows[index].positions += positions[index]
        return logits_RV

    def _read_teacher_everywhere(self, like_BV: torch.Tensor) -> torch.Tensor:
        """Let the teacher read every row, for a rule that needs it; rows of budget 0 never ask, and get zeros."""
        asking_B = self.budget_B > 0
        if bool(asking_B.all()):
            return self._read_teacher(None)
        teacher_BV = torch.zeros_like(like_BV)
        if bool(asking_B.any()):
            teacher_BV[asking_B] = self._read_teacher(asking_B.nonzero().squeeze(-1))
        return teacher_BV

    def _teacher_scores(self, called_R: torch.Tensor) -> torch.Tensor:
        """Return the teacher's scores of the next token of the rows that call."""
        if self.wants_teacher:
            return self.teacher_BV[called_R]
        return self._read_teacher(called_R)

    def _choose(self, scores_RV: torch.Tensor, rows_R: torch.Tensor | None) -> torch.Tensor:
        """Choose the next token: by the teacher in the rows that call, by the student where none are named."""
        index_R, position_R, limit_R = (
            values if rows_R is None else values[rows_R] for values in (self.index_B, self.position_B, self.limit_B)
        )
        constraints, stream = (
            (self.student_constraints, STUDENT_STREAM) if rows_R is None else (self.teacher_constraints, TEACHER_STREAM)
        )
        scores_RV = constraints.apply(scores_RV, position_R, limit_R)
        return self.wish.sampling.choose(scores_RV, uniforms(self.wish.seed, index_R, position_R, stream))

    def _append(self, token_B: torch.Tensor, calls_B: torch.Tensor) -> None:
        """Write the tokens, and let the rows leave that are done."""
        self.tokens_BT[torch.arange(len(self.rows), device=token_B.device), self.length_B] = token_B
        self.length_B = self.length_B + 1
        self.position_B = self.position_B + 1
        self.calls_B = self.calls_B + calls_B
        ended_B = torch.isin(token_B, self.eos)
        done_B = ended_B | (self.position_B >= self.limit_B)
        rows = zip(self.rows, token_B.tolist(), calls_B.tolist(), ended_B.tolist(), strict=True)
        for row, token, call, ended in rows:
            row.tokens.append(token)
            row.by_teacher.append(call)
            row.finished = ended
        if bool(done_B.any()):
            self._keep((~done_B).nonzero().squeeze(-1))

    def _keep(self, rows_R: torch.Tensor) -> None:
        """Keep the rows that go on."""
        self.rows = [self.rows[index] for index in rows_R.tolist()]
        if not self.rows:
            return
        for runner in (self.student, self.teacher):
            runner.select(rows_R)
        for name in ("tokens_BT", "length_B", "prefix_B", "calls_B", "position_B", "limit_B", "index_B", "budget_B"):
            setattr(self, name, getattr(self, name)[rows_R])


def _trace(pair: Pair, row: Row, rule: Rule, wish: Request, seconds: float) -> Trace:
    """Sum up one output."""
    return Trace(
        text=pair.decode(row.tokens),
        token_ids=tuple(row.tokens),
        pieces=pieces_of(lambda ids: pair.tokenizer.decode(ids, skip_special_tokens=True), row.tokens),
        authors=tuple(TEACHER if teacher else STUDENT for teacher in row.by_teacher),
        teacher_passes=row.passes,
        teacher_positions=row.positions,
        prompt_positions=len(row.source) if row.passes else 0,
        budget=row.budget,
        mode=wish.mode,
        rule=rule.name,
        seconds=seconds,
        finished=row.finished,
    )
