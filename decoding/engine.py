"""The engine: texts in flight, two models, and the small policies that say who writes the next token.

One loop for every way of decoding. The scheduler names a model and its rows. The student writes a token in each, or its
row calls. The teacher reads all that it has not seen in one pass, verifies the draft where the method does, and writes
a token. A text that has ended leaves its slot to the next. In float32 a row's output depends neither on its company nor
on how calls are grouped; below, sums of another batch may round otherwise. In online mode order and batch size matter.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch

from wheels.decoding.logits_processors import logits_processors_of
from wheels.decoding.methods.budget import permitted
from wheels.decoding.methods.drafts import Drafts
from wheels.decoding.methods.method import Method, check_method
from wheels.decoding.methods.online import online_budget_of
from wheels.decoding.methods.rule import called
from wheels.decoding.models.costs import Costs, costs_of
from wheels.decoding.models.forward_batches import OVERHEAD
from wheels.decoding.models.runner import Output, Pass
from wheels.decoding.models.self_check import checked_runner
from wheels.decoding.params import RULE_STREAM, STUDENT_STREAM, TEACHER_STREAM, DecodeParams
from wheels.decoding.sampling import uniforms
from wheels.decoding.scheduler import Schedule
from wheels.decoding.sequences import Row, TextBatch, prepare_sequences
from wheels.decoding.step import Step
from wheels.decoding.trace import Trace, trace_of
from wheels.errors import check_kind, check_texts, check_whole
from wheels.models.pair import Pair

GROUPED = Schedule()


def decode(
    pair: Pair,
    sources: Sequence[str],
    method: Method,
    params: DecodeParams | None = None,
    *,
    batch_size: int = 64,
    schedule: Schedule = GROUPED,
    journal: dict[str, list[Pass]] | None = None,
    on_error: str = "stop",
    progress: Callable[[int], object] | None = None,
) -> list[Trace]:
    """Write an output for each source, and return the traces in the sources' order.

    Args:
        pair: Student, teacher and tokenizer.
        sources: The texts to translate, summarize or continue.
        method: How, and under which budget: see `stream`.
        params: Lengths, sampling and the like: see `stream`.
        batch_size: As in `stream`.
        schedule: As in `stream`.
        journal: As in `stream`.
        on_error: As in `stream`.
        progress: Called with the number of outputs that have just become ready.
    """
    check_kind("progress", progress, (Callable, type(None)), "a function, or None")
    sources, traces = check_texts("sources", sources), dict[int, Trace]()
    running = stream(
        pair, sources, method, params, batch_size=batch_size, schedule=schedule, journal=journal, on_error=on_error
    )
    for index, trace in running:
        traces[index] = trace
        if progress is not None:
            progress(1)
    return [traces[index] for index in range(len(sources))]


def stream(
    pair: Pair,
    sources: Sequence[str],
    method: Method,
    params: DecodeParams | None = None,
    *,
    batch_size: int = 64,
    schedule: Schedule = GROUPED,
    journal: dict[str, list[Pass]] | None = None,
    on_error: str = "stop",
) -> Iterator[tuple[int, Trace]]:
    """Write an output for each source, and yield its index and trace as soon as it has ended.

    Args:
        pair: Student, teacher and tokenizer.
        sources: The texts to translate, summarize or continue.
        method: How, and under which budget (`wheels.decoding.methods.method`), such as `deferral(rule, budget=0.2)`.
        params: Lengths, sampling and the like; None: greedy, at most 128 tokens.
        batch_size: Rows of a forward pass at most. Up to twice as many texts are in flight (`decoding.scheduler`), and
            memory grows with them; results do not depend on it, but in online mode.
        schedule: When the teacher runs; results do not depend on it, but in online mode.
        journal: Every forward pass is noted here, under `student` and `teacher`.
        on_error: For a source that cannot be read: `stop` before anything is written, or `skip` it: its trace says why.

    Raises:
        WheelsError: for what is of another kind or out of its range, an empty source, or one longer than the context.
    """
    check_kind("journal", journal, (dict, type(None)), "a dict to be filled, or None")
    params, method = DecodeParams() if params is None else params, check_method(method)
    check_kind("params", params, DecodeParams, "DecodeParams, or None")
    rows = prepare_sequences(pair, sources, params.max_new_tokens, on_error=on_error)
    method.check_count(len(rows))
    unread, rows = [row for row in rows if row.error is not None], [row for row in rows if row.error is None]
    engine = Engine(pair, rows, method, params, batch_size=batch_size, schedule=schedule, journal=journal)
    del rows  # what a text wrote is given back as soon as it has been passed on
    for row in chain(unread, engine.run()):
        yield row.index, trace_of(pair, row, method)


class Engine:
    """Texts in flight, and the loop that writes them.

    Args:
        pair: Student, teacher and tokenizer.
        rows: The texts that are to be written; the longest sources begin.
        method: How.
        params: And with what.
        batch_size: Rows of a forward pass at most.
        schedule: When the teacher runs.
        journal: Every forward pass is noted here.
    """

    def __init__(
        self,
        pair: Pair,
        rows: list[Row],
        method: Method,
        params: DecodeParams,
        *,
        batch_size: int,
        schedule: Schedule = GROUPED,
        journal: dict[str, list[Pass]] | None = None,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        check_kind("schedule", schedule, Schedule, "a Schedule (wheels.decoding.scheduler)")
        for row in rows:
            row.budget = method.budget_of(row.index)
        self.online = online_budget_of(method, {row.budget for row in rows})
        self.pair, self.method, self.params, self.schedule = pair, method, params, schedule
        self.queue = deque(sorted(rows, key=lambda row: -len(row.source)))
        self.batch_size = min(batch_size, max(len(rows), 1))
        # Where one model writes alone nobody waits for another, and a pass of all rows reads the cache as it lies.
        alone = method.lookup or (method.budget is not None and all(row.budget in (0, 1) for row in rows))
        costs = self._costs(len(rows), alone)
        self.group = schedule.group or (costs.group(self.batch_size) if costs is not None else self.batch_size)
        count = min(schedule.in_flight(self.batch_size, 1 if alone else self.group), max(len(rows), 1))
        self.texts = TextBatch(pair, count, rows)
        overhead = OVERHEAD if costs is None else costs.overhead()
        self.student = checked_runner(pair.student, count, pair.vocab_size, overhead=overhead)
        self.teacher = checked_runner(pair.teacher, count, pair.vocab_size, overhead=overhead)
        if journal is not None:
            self.student.journal = journal.setdefault("student", [])
            self.teacher.journal = journal.setdefault("teacher", [])
        given = params.logits_processor
        self.process_student, self.process_teacher = logits_processors_of(pair) if given is None else (given, given)
        self.eos = frozenset(pair.eos_ids)
        self.running: list[int] = []
        self.calling: list[int] = []
        self.since, self.order = [0] * count, [0] * count
        self.clock = self.entered = 0
        self.limited = method.mode == "strict" or any(row.budget == 0 for row in rows)
        self.drafts = Drafts(pair, method, params, self.texts, self.process_teacher, costs)

    def _costs(self, rows: int, alone: bool) -> Costs | None:
        """Return the measured costs of passes, where a decision depends on them."""
        waits = self.schedule.kind == "grouped" and rows > self.batch_size > 1 and not (alone or self.online)
        if self.method.adaptive or (waits and self.schedule.group is None):
            return costs_of(self.pair, self.batch_size)
        return None

    def run(self) -> Iterator[Row]:
        """Write all texts; yield each as it ends."""
        while self.queue or self.running or self.calling:
            start = time.perf_counter()
            self._admit()
            waited = self.clock - self.since[self.calling[0]] if self.calling else 0
            model, slots = self.schedule.next(self.running, self.calling, waited, self.batch_size, self.group)
            slots = sorted(slots)  # so that a pass of all rows is one of the whole cache
            slots_R = torch.tensor(slots, device=self.texts.length_S.device)
            ended = (self._student_pass if model == "student" else self._teacher_pass)(slots, slots_R)
            seconds = (time.perf_counter() - start) / len(slots)
            for slot in slots:
                self.texts.row(slot).seconds += seconds
            for slot in ended:
                yield self._leave(slot)

    def _admit(self) -> None:
        """Let texts that wait take free slots: several at a time, so that their sources are read together."""
        if not self.queue:
            return
        free = self.texts.free()
        if len(free) < max(1, self.batch_size // 4) and self.running:
            return
        entering = [(slot, self.queue.popleft()) for slot in free[: len(self.queue)]]
        sources = [row.source for _, row in entering]
        for runner in (self.student, self.teacher):
            runner.admit([slot for slot, _ in entering], sources)
        for slot, row in entering:
            self.entered += 1
            self.order[slot] = self.entered
            self.texts.admit(slot, row)
            self._begin_draft(slot)

    def _leave(self, slot: int) -> Row:
        """Give a slot back, and return the text that was in it."""
        row = self.texts.row(slot)
        if self.online is not None:
            self.online.recount([row])
        self.texts.rows[slot] = None
        return row

    def _call(self, slot: int) -> None:
        """Let a row wait for the teacher."""
        self.calling.append(slot)
        self.since[slot] = self.clock

    def _begin_draft(self, slot: int) -> None:
        """Say who writes next in a row that the teacher has settled, or that begins."""
        row, method = self.texts.row(slot), self.method
        self.drafts.begin(row)
        if self._always(row) or (method.draft is not None and row.draft_limit == 0):
            self._call(slot)
        elif method.lookup:
            self.drafts.copy(slot)
            self._call(slot)
        else:
            self._run(slot)

    def _run(self, slot: int) -> None:
        """Let a row go on with its student; older texts go first."""
        insort(self.running, slot, key=self.order.__getitem__)

    def _always(self, row: Row) -> bool:
        """Tell whether the teacher writes every token of a row: then its student need not run."""
        return self.method.budget is not None and row.budget >= 1 and self.method.mode != "strict"

    def _student_pass(self, slots: list[int], slots_R: torch.Tensor) -> list[int]:
        """Write a token in each row, or let it call; return the rows whose text has ended."""
        self.clock += 1
        del self.running[: len(slots)]
        said = self.student.read(None if self.texts.all(slots) else slots_R, self.texts.tokens_ST, self.texts.length_S)
        for slot in slots:
            self.texts.row(slot).student_passes += 1
        teacher_RV = self._ask_first(slots, slots_R)
        call_R = self._calls(slots_R, said, teacher_RV)
        if call_R is None or not bool(call_R.any()):
            return self._write(slots, slots_R, said.logits_RV)
        calls, ended = call_R.tolist(), list[int]()
        asking = [slot for slot, call in zip(slots, calls, strict=True) if call]
        if teacher_RV is not None:
            ended += self._answer(asking, slots_R[call_R], teacher_RV[call_R])
        else:
            for slot in asking:
                self._call(slot)
        if len(asking) < len(slots):
            writing = [slot for slot, call in zip(slots, calls, strict=True) if not call]
            ended += self._write(writing, slots_R[~call_R], said.logits_RV[~call_R])
        return ended

    def _ask_first(self, slots: list[int], slots_R: torch.Tensor) -> torch.Tensor | None:
        """Let the teacher read every row that may ask, for a rule that needs it; the others get zeros."""
        rule = self.method.rule
        if rule is None or not rule.needs_teacher:
            return None
        asking = [slot for slot in slots if self.texts.row(slot).budget > 0]
        logits_RV = torch.zeros(len(slots), self.pair.vocab_size, device=slots_R.device)
        if asking:
            asking_R = torch.tensor(asking, device=slots_R.device)
            logits_RV[torch.isin(slots_R, asking_R)] = self._read_teacher(asking, asking_R, None)
        return logits_RV

    def _calls(self, slots_R: torch.Tensor, said: Output, teacher_RV: torch.Tensor | None) -> torch.Tensor | None:
        """Return the rows that call: the rule's wish, as far as the budget lets it; None: no rule, or no budget."""
        if self.method.rule is None:
            return None
        state, position_R = self.texts, self.texts.position(slots_R)
        budget_R, calls_R, index_R = state.budget_S[slots_R], state.calls_S[slots_R], state.index_S[slots_R]
        allowed_R = None
        if self.limited:
            allowed_R = permitted(self.method.mode, budget_R, position_R, calls_R, self.method.burst)
            if not bool(allowed_R.any()):
                return None
        step = Step(
            logits_BV=said.logits_RV,
            hidden_BD=said.hidden_RD,
            position_B=position_R,
            source_B=state.source_S[slots_R],
            calls_B=calls_R,
            budget_B=budget_R,
            index_B=index_R,
            noise=lambda at_R: uniforms(self.params.seed, index_R, at_R, RULE_STREAM),
            places=lambda token_RK: state.places(slots_R, token_RK),
            log_p_BV=None if teacher_RV is None else teacher_RV.log_softmax(-1),
        )
        control = self.online
        wants_call_R = called(self.method.rule, step) if control is None else control.decide(step, state, slots_R)
        # Budget 1 calls whatever the rule says; outside strict mode such a row never comes here (`_always`).
        return wants_call_R if allowed_R is None else (wants_call_R | (budget_R >= 1)) & allowed_R

    def _write(self, slots: list[int], slots_R: torch.Tensor, logits_RV: torch.Tensor) -> list[int]:
        """Write the student's token in each row; return the rows whose text has ended."""
        position_R = self.texts.position(slots_R)
        logits_RV = self.process_student(logits_RV, self.texts, slots_R, position_R)
        self.drafts.keep_draft_probs(slots, slots_R, logits_RV)
        token_R = self._choose(logits_RV, slots_R, position_R, STUDENT_STREAM)
        self.texts.write(slots, slots_R, token_R, by_teacher=False)
        ended = []
        for slot in slots:
            row = self.texts.row(slot)
            over = row.tokens[-1] in self.eos or len(row.tokens) >= row.limit
            if self.method.complete:
                if over or row.gap >= row.draft_limit:
                    self._call(slot)
                    continue
            elif self._ends(slot, len(row.tokens) - 1):
                ended.append(slot)
                continue
            elif self.method.draft is not None and row.gap >= row.draft_limit:
                self._call(slot)
                continue
            self._run(slot)
        return ended

    def _choose(
        self, logits_RV: torch.Tensor, slots_R: torch.Tensor, position_R: torch.Tensor, stream: int
    ) -> torch.Tensor:
        """Choose a token from scores: the best, or by the row's own noise."""
        sampling, seed, noise_R = self.params.sampling, self.params.seed, None
        if not sampling.greedy:
            noise_R = uniforms(seed, self.texts.index_S[slots_R], position_R, stream)
        return sampling.choose(logits_RV, noise_R, ("student", "teacher")[stream])

    def _teacher_pass(self, slots: list[int], slots_R: torch.Tensor) -> list[int]:
        """Let the teacher catch up, judge the drafts and write a token; return the rows whose text has ended."""
        del self.calling[: len(slots)]
        if self.method.verifier is None:
            return self._answer(slots, slots_R, self._read_teacher(slots, slots_R, None))
        gap_R = torch.tensor([self.texts.row(slot).gap for slot in slots], device=slots_R.device)
        logits_RWV = self._read_teacher(slots, slots_R, gap_R + 1)
        verdict = self.method.verifier(self.drafts.check(slots_R, gap_R, logits_RWV))
        kept, tokens = verdict.num_accepted_R.tolist(), verdict.token_R
        follows = [self.drafts.accept_draft(slot, count) for slot, count in zip(slots, kept, strict=True)]
        self.texts.cut(slots, slots_R, kept)
        if followed := [slot for slot, follow in zip(slots, follows, strict=True) if follow]:
            follow_R = torch.tensor(follows, device=slots_R.device)
            self.texts.write(followed, slots_R[follow_R], tokens[follow_R], by_teacher=True)
        for runner in (self.student, self.teacher):
            runner.rollback(slots_R, self.texts.length_S[slots_R] - 1)
        if self.online is not None:
            self.online.recount(self.texts.row(slot) for slot in slots)
        return self._go_on(slots)

    def _read_teacher(self, slots: list[int], slots_R: torch.Tensor, wanted_R: torch.Tensor | None) -> torch.Tensor:
        """Let the teacher catch up in some rows, and count what it cost."""
        unread_R = torch.maximum(self.teacher.cursor_B[slots_R], self.texts.prefix_S[slots_R] - 1)
        read = (self.texts.length_S[slots_R] - unread_R).tolist()
        said = self.teacher.read(
            None if self.texts.all(slots) else slots_R, self.texts.tokens_ST, self.texts.length_S, wanted_R
        )
        for slot, positions in zip(slots, read, strict=True):
            row = self.texts.row(slot)
            row.passes += 1
            row.positions += positions
        return said.logits_RV

    def _answer(self, slots: list[int], slots_R: torch.Tensor, logits_RV: torch.Tensor) -> list[int]:
        """Write the teacher's token behind what the student wrote; return the rows whose text has ended."""
        position_R = self.texts.position(slots_R)
        logits_RV = self.process_teacher(logits_RV, self.texts, slots_R, position_R)
        token_R = self._choose(logits_RV, slots_R, position_R, TEACHER_STREAM)
        self.texts.write(slots, slots_R, token_R, by_teacher=True)
        return self._go_on(slots)

    def _go_on(self, slots: list[int]) -> list[int]:
        """Begin the next draft of each row that the teacher has settled; return those whose text has ended."""
        ended = []
        for slot in slots:
            if self._ends(slot, self.texts.row(slot).num_settled):
                ended.append(slot)
            else:
                self._begin_draft(slot)
        return ended

    def _ends(self, slot: int, since: int) -> bool:
        """Tell whether a text has ended with one of its tokens from `since` on; cut what lies behind that one."""
        row = self.texts.row(slot)
        if self.params.stopping is not None:
            for written in range(since + 1, len(row.tokens) + 1):
                if self.params.stopping(row.index, row.tokens[:written]):
                    self.drafts.stop(row, written)
                    return True
        row.finished = bool(row.tokens) and row.tokens[-1] in self.eos
        return row.finished or len(row.tokens) >= row.limit
