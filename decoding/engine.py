"""The engine: which model runs next, for which texts, and what comes after each token. No tensors are computed here.

Every way of decoding is the same loop (`Engine.run`). Texts that wait are admitted to free slots. The scheduler names a
model and some slots. A pass of the student writes a token in each, or the rule calls the teacher; a pass of the teacher
reads all that it has not seen, verifies the draft where the method does, and writes a token. Then `settle` decides for
each text: it has ended, it calls, or its student goes on. `decoding.passes` computes.

In float32 a text's output depends neither on its batch nor on how calls are grouped; below, sums of another batch may
round otherwise. In online mode the order of texts and the batch size matter.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from collections.abc import Iterator

import torch

from wheels.decoding.methods.budget import permitted
from wheels.decoding.methods.choices import PACED
from wheels.decoding.methods.draft_length import next_length
from wheels.decoding.methods.lookup import copied_draft
from wheels.decoding.methods.method import LONGEST_DRAFT, Method
from wheels.decoding.methods.online import online_budget_of
from wheels.decoding.models.costs import Costs, costs_of
from wheels.decoding.models.forward_batches import OVERHEAD
from wheels.decoding.models.output import Output
from wheels.decoding.models.runner import Pass
from wheels.decoding.params import DecodeParams
from wheels.decoding.pass_kinds import passes_for
from wheels.decoding.passes import called
from wheels.decoding.read_ahead import ReadAhead
from wheels.decoding.remote.auto import choose_spans
from wheels.decoding.remote.pacer import pacer_of
from wheels.decoding.remote.write_on import WriteOn, split
from wheels.decoding.scheduler import Schedule
from wheels.decoding.sequences import Sequence, TextBatch
from wheels.errors import check_kind, check_whole
from wheels.models.pair import Pair

GROUPED = Schedule()


class Engine:
    """Texts in flight, and the loop that writes them.

    `run` writes a fixed list of texts. An engine with `more` goes on: `submit` texts while it runs, `step` once a pass,
    look at what is `final`, and `cancel` whom nobody waits for.

    Args:
        pair: Student, teacher and tokenizer.
        sequences: The texts to write; the longest sources begin.
        method: How.
        params: And with what; its seed is that of `sequences`, and its `max_new_tokens` the most of any text.
        batch_size: Rows of a forward pass at most.
        schedule: When the teacher runs.
        journal: Every forward pass is noted here.
        more: Whether any number of texts may be submitted later.
        total: Texts of the run, those that are submitted later among them; None: `sequences` alone.
    """

    def __init__(
        self,
        pair: Pair,
        sequences: list[Sequence],
        method: Method,
        params: DecodeParams,
        *,
        batch_size: int,
        schedule: Schedule = GROUPED,
        journal: dict[str, list[Pass]] | None = None,
        more: bool = False,
        total: int | None = None,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        check_kind("schedule", schedule, Schedule, "a Schedule (wheels.decoding.scheduler)")
        self.pacer = pacer_of(pair, method, sequences, total)
        self.online = self.pacer or online_budget_of(method, set(method.budgets))
        self.method, self.params, self.schedule = method, params, schedule
        self.eos = frozenset(pair.eos_ids)
        expected = 2**31 if more else max(len(sequences), 1)
        self.batch_size = min(batch_size, expected)
        # Where one model writes alone nobody waits for another, and a pass of all rows reads the cache as it lies.
        alone = method.lookup or (method.budget is not None and not method.between)
        costs = self._costs(pair, expected, alone)
        self.draft_costs = costs.draft_costs(LONGEST_DRAFT) if costs is not None and method.adaptive else None
        self.group = schedule.group or (costs.group(self.batch_size) if costs is not None else self.batch_size)
        count = min(schedule.in_flight(self.batch_size, 1 if alone else self.group), expected)
        self.texts = TextBatch(pair, count, sequences)
        self.passes = passes_for(pair, self.texts, params, method, OVERHEAD if costs is None else costs.overhead())
        self.ahead = WriteOn(self.passes, method, params, self.eos, alone=self.online is None or count == 1)
        self.prompts = ReadAhead(self.passes)
        if journal is not None:
            self.passes.keep_journal(journal)
        self.waiting = deque[Sequence]()
        self.submit_longest_first(sequences)
        self.running, self.calling = list[int](), list[int]()
        self.since, self.order = [0] * count, [0] * count
        self.clock = self.entered = 0
        self.limited = method.mode == "strict" or 0 in method.budgets

    def _costs(self, pair: Pair, count: int, alone: bool) -> Costs | None:
        """Return the measured costs of passes, where a decision depends on them."""
        if not pair.shows_logits:
            return None  # what a call takes is not measured: as many rows wait as a batch has
        waits = self.schedule.kind == "grouped" and count > self.batch_size > 1 and not (alone or self.online)
        if self.method.adaptive or (waits and self.schedule.group is None):
            return costs_of(pair, self.batch_size)
        return None

    @property
    def busy(self) -> bool:
        """Whether a text waits or is being written."""
        return bool(self.waiting or self.running or self.calling or self.prompts.slots or self.ahead.calls)

    def run(self) -> Iterator[Sequence]:
        """Write all texts; yield each as it ends."""
        while self.busy:
            yield from self.step()

    def submit_longest_first(self, sequences: list[Sequence]) -> None:
        """Let texts wait that draw by the engine's seed: those of one length are read together, with less padding.

        In dollars mode they keep their order: what the first ones cost is to hold for the others too.
        """
        paced = self.method.mode == PACED
        for sequence in sequences if paced else sorted(sequences, key=lambda sequence: -len(sequence.source)):
            sequence.seed = self.params.seed
            self.submit(sequence)

    def submit(self, sequence: Sequence) -> None:
        """Let a text wait for a slot; its tokens follow from its seed, index and source, whoever else is there."""
        sequence.budget = self.method.budget_of(sequence.index)
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Drop a text that waits or is being written: the next step is without it. One that has ended stays."""
        self.waiting = deque(each for each in self.waiting if each is not sequence)
        slot = next((slot for slot, each in enumerate(self.texts.sequences) if each is sequence), None)
        if slot is not None:
            for slots in (self.running, self.calling, self.prompts.slots):
                slots[:] = [each for each in slots if each != slot]
            self.ahead.drop(slot)
            self._leave(slot)

    def step(self) -> list[Sequence]:
        """Run a pass of one model for texts that are there, and a chunk of a prompt; return those that have ended."""
        self._admit()
        left = [self._leave(slot) for slot in self._answered()]
        if not self.running and not self.calling:
            self._read_prompt()
            return left
        start = time.perf_counter()
        waited = self.clock - self.since[self.calling[0]] if self.calling else 0
        sure = [slot for slot in self.running if slot not in self.ahead.calls]
        group = 1 if self.pacer is not None and self.pacer.hurries else self.group
        model, slots = self.schedule.next(sure, self.calling, waited, self.batch_size, group)
        slots = slots if model == "teacher" else self.running[: self.batch_size]
        slots = sorted(slots)  # so that a pass of all rows is one of the whole cache
        slots_R = torch.tensor(slots, device=self.texts.length_Q.device)
        ended = (self._student_pass if model == "student" else self._teacher_pass)(slots, slots_R)
        seconds = (time.perf_counter() - start) / len(slots)
        for slot in slots:
            self.texts.sequence(slot).seconds += seconds
        self._read_prompt()  # at the end, so that what is left of a prompt is not read in the same step
        return left + [self._leave(slot) for slot in ended]

    def final(self, sequence: Sequence) -> int:
        """Return how many tokens of a text that is being written stand: a draft may still be rolled back."""
        return self.ahead.standing(sequence) if self.method.verifier is None else sequence.num_settled

    def _leave(self, slot: int) -> Sequence:
        """Give a slot back, and return the text that was in it."""
        if self.online is not None:
            self.online.leave(self.texts.sequence(slot))
        return self.texts.leave(slot)

    def _admit(self) -> None:
        """Let texts that wait take free slots: several at a time, so that their sources are read together."""
        if not self.waiting:
            return
        free = self.texts.free()
        if len(free) < max(1, self.batch_size // 4) and self.running:
            return
        slots = free[: len(self.waiting)]
        self.passes.admit(slots, [self.waiting.popleft() for _ in slots])
        for slot in slots:
            self.entered += 1
            self.order[slot] = self.entered
            self._begin_draft(slot)
            self.settle(slot, 0)

    def _read_prompt(self) -> None:
        """Read a chunk of a long prompt; its text goes on once it needs no more."""
        if (read := self.prompts.step()) is not None:
            model, slot = read
            (self._run if model == "student" else self._call)(slot)

    def _student_pass(self, slots: list[int], slots_R: torch.Tensor) -> list[int]:
        """Write the student's token in each text, or let it call; return the slots whose text has ended."""
        self.clock += 1
        del self.running[: len(slots)]
        output, teacher_RV = self.passes.read_student(slots, slots_R), None
        if self.ahead.calls:
            slots, slots_R, output = self._guess(slots, slots_R, output)
            if not slots:
                return []
        if self.method.rule is not None and self.method.rule.needs_teacher:
            teacher_RV = self.passes.read_teacher_first(slots, slots_R)
        call_R = self._calls(slots, slots_R, output, teacher_RV)
        if call_R is None or not bool(call_R.any()):
            return self._write(slots, slots_R, output.logits_RV)
        calls, ended = call_R.tolist(), list[int]()
        asking = [slot for slot, call in zip(slots, calls, strict=True) if call]
        if teacher_RV is not None:
            self.passes.call_teacher(asking, slots_R[call_R], teacher_RV[call_R])
            ended += self._go_on(asking)
        else:
            self.ahead.keep(asking, slots_R[call_R], output.logits_RV[call_R])
            for slot in asking:
                self._call(slot)
        if len(asking) < len(slots):
            writing = [slot for slot, call in zip(slots, calls, strict=True) if not call]
            ended += self._write(writing, slots_R[~call_R], output.logits_RV[~call_R])
        return ended

    def _guess(self, slots: list[int], slots_R: torch.Tensor, output: Output) -> tuple[list[int], torch.Tensor, Output]:
        """Write the student's guess of a token that the teacher was asked for; return what is left of a pass."""
        guesses = self.ahead.guessing(slots)
        if not any(guesses):
            return slots, slots_R, output
        guessing, others = split(slots, guesses)
        guess_R = torch.tensor(guesses, device=slots_R.device)
        token_R = self.passes.student_tokens(slots_R[guess_R], output.logits_RV[guess_R])
        self.texts.append(guessing, slots_R[guess_R], token_R, by_teacher=True)
        self._goes_on_ahead([slot for slot in guessing if self.ahead.goes_on(slot)])
        return others, slots_R[~guess_R], output.map(lambda each_RX: each_RX[~guess_R])

    def _goes_on_ahead(self, slots: list[int]) -> None:
        """Let the student write on in texts whose answer is under way; online mode counts its guesses as they are."""
        for slot in slots:
            insort(self.running, slot, key=self.order.__getitem__)
        if self.online is not None:
            self.online.recount(map(self.texts.sequence, slots))

    def _calls(
        self, slots: list[int], slots_R: torch.Tensor, output: Output, teacher_RV: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the texts that call, as the rule asks and the budget permits; None: no rule, or no budget is left."""
        if self.method.rule is None:
            return None
        step, allowed_R = self.passes.step(slots_R, output, teacher_RV), None
        if self.limited:
            allowed_R = permitted(self.method.mode, step.budget_B, step.position_B, step.calls_B, self.method.burst)
            if not bool(allowed_R.any()):
                return None
        if self.online is None:
            wants_call_R = called(self.method.rule, step)
            texts = map(self.texts.sequence, slots)
            choose_spans(self.method.rule, step, texts, lambda _: getattr(self.method.rule, "threshold", 0.0))
        else:
            wants_call_R = self.online.decide(step, [self.texts.sequence(slot) for slot in slots])
        # Budget 1 calls whatever the rule says; outside strict mode such a text never comes here (`_calls_unasked`).
        return wants_call_R if allowed_R is None else (wants_call_R | (step.budget_B >= 1)) & allowed_R

    def _write(self, slots: list[int], slots_R: torch.Tensor, logits_RV: torch.Tensor) -> list[int]:
        """Write the student's token in each text; return the slots whose text has ended."""
        self.texts.append(slots, slots_R, self.passes.student_tokens(slots_R, logits_RV), by_teacher=False)
        final = 0 if self.method.complete else 1
        return [slot for slot in slots if self.settle(slot, final)]

    def _teacher_pass(self, slots: list[int], slots_R: torch.Tensor) -> list[int]:
        """Let the teacher catch up, verify the drafts and write a token; return the slots whose text has ended."""
        del self.calling[: len(slots)]
        if self.ahead.passes is not None:
            self._goes_on_ahead(self.ahead.send(slots, slots_R))
            return []
        if self.method.verifier is None:
            self.passes.call_teacher(slots, slots_R)
        else:
            self.passes.verify(slots, slots_R, self.method.verifier)
        if self.online is not None:  # drafts were rolled back, or a remote teacher did not answer
            self.online.recount(map(self.texts.sequence, slots))
        return self._go_on(slots)

    def _answered(self) -> list[int]:
        """Go on with texts whose answers have come; return the slots whose text has ended.

        Where nothing else is to be done it waits for one.
        """
        ended = list[int]()
        for slot, stands in self.ahead.collect(until_one=not (self.running or self.calling or self.prompts.slots)):
            again = stands and slot in self.ahead.again
            self.ahead.again.discard(slot)
            if self.online is not None and not again:
                self.online.recount([self.texts.sequence(slot)])
            if again:
                self._call(slot)
            elif not (stands and slot in self.running):
                self.running = [each for each in self.running if each != slot]
                ended += self._go_on([slot])
        return ended

    def _go_on(self, slots: list[int]) -> list[int]:
        """Begin the next draft of each text that the teacher has written to; return the slots whose text has ended."""
        new = [self._begin_draft(slot) for slot in slots]
        return [slot for slot, count in zip(slots, new, strict=True) if self.settle(slot, count)]

    def _begin_draft(self, slot: int) -> int:
        """Make all that a text has final, and say how long its next draft may grow; return how much became final."""
        sequence, verifier = self.texts.sequence(slot), self.method.verifier
        new, sequence.num_settled = sequence.num_draft, len(sequence.tokens)
        left = sequence.limit - sequence.num_settled - (verifier is not None and verifier.bonus)
        length = next_length(self.method, sequence, self.draft_costs)
        sequence.draft_limit = left if length is None else min(length, left)
        return new

    def settle(self, slot: int, final: int) -> bool:
        """Decide what comes next in a text: it has ended, it calls, or its student goes on.

        Args:
            slot: Where the text is.
            final: How many of its last tokens have just become final; 0: they are a draft.

        Returns:
            Whether it has ended.
        """
        sequence = self.texts.sequence(slot)
        if slot in self.ahead.calls:
            self._goes_on_ahead([slot] if self.ahead.goes_on(slot) else [])
            return False
        if final and self._ends(sequence, final):
            return True
        if self.method.lookup:
            self._copy_draft(slot, sequence)
        (self._call if self._calls_unasked(sequence) else self._run)(slot)
        return False

    def _ends(self, sequence: Sequence, final: int) -> bool:
        """Tell whether a text ends with one of its last `final` tokens; drop what comes after that one."""
        stopping = self.params.stopping
        if stopping is not None:
            for length in range(len(sequence.tokens) - final + 1, len(sequence.tokens) + 1):
                if stopping(sequence.index, sequence.tokens[:length]):
                    if self.method.verifier is not None:
                        sequence.accepted -= sequence.by_teacher[length:].count(False)
                    sequence.truncate(length)
                    sequence.finished = True
                    return True
        sequence.finished = bool(sequence.tokens) and sequence.tokens[-1] in self.eos
        return sequence.is_over(self.eos)

    def _calls_unasked(self, sequence: Sequence) -> bool:
        """Tell whether a text calls without a rule: at budget 1, with a full draft, or to verify its end."""
        method = self.method
        # Strict mode lets the student run at budget 1 too: `_calls` forces the calls there.
        if method.lookup or (method.budget is not None and sequence.budget >= 1 and method.mode != "strict"):
            return True
        drafted_all = method.complete and sequence.num_draft > 0
        full = sequence.num_draft >= sequence.draft_limit and (method.draft is not None or drafted_all)
        return full or (drafted_all and sequence.is_over(self.eos))

    def _copy_draft(self, slot: int, sequence: Sequence) -> None:
        """Put a draft that is copied after the text, up to the first end token."""
        draft = copied_draft(sequence.source, sequence.tokens, sequence.draft_limit)
        ends = (place for place, token in enumerate(draft, 1) if token in self.eos)
        self.texts.append_span(slot, draft[: next(ends, len(draft))], by_teacher=False)

    def _call(self, slot: int) -> None:
        """Let a text wait for the teacher; one whose answer is under way calls again, if that is what was guessed."""
        if slot in self.ahead.calls:
            self.ahead.again.add(slot)
        elif not self.prompts.takes("teacher", slot):
            self.calling.append(slot)
            self.since[slot] = self.clock

    def _run(self, slot: int) -> None:
        """Let a text go on with its student; older texts go first."""
        if not self.prompts.takes("student", slot):
            insort(self.running, slot, key=self.order.__getitem__)
