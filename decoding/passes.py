"""What is computed for the texts in flight: both models' forward passes, and the tokens that follow from their logits.

The engine and the environments decide; this computes. Shapes: Q slots, R rows of a pass, K draft tokens, W = K + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from wheels.decoding.methods.rule import AnyRule
from wheels.decoding.methods.verify import Check, Verifier
from wheels.decoding.models.forward_batches import OVERHEAD
from wheels.decoding.models.output import Output
from wheels.decoding.models.runner import Pass, RowState, Runner
from wheels.decoding.models.self_check import checked_runner
from wheels.decoding.params import (
    ACCEPT_STREAM,
    RULE_STREAM,
    STUDENT_STREAM,
    TEACHER_STREAM,
    DecodeParams,
    LogitsProcessor,
)
from wheels.decoding.sequences import Sequence, TextBatch, TokenLogprobs
from wheels.decoding.step import Step
from wheels.errors import WheelsError, shown
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair
from wheels.policy.head import DeferralHead


@dataclass(frozen=True, eq=False)
class SlotState:
    """A text in flight and what both models have read of it, as copies."""

    sequence: Sequence
    student: RowState
    teacher: RowState | None
    """None of a teacher that is elsewhere: it holds nothing of a text between two calls."""


class Passes:
    """Student and teacher, over one batch of texts.

    Args:
        pair: Student, teacher and tokenizer.
        texts: The texts in flight.
        params: How tokens are drawn, and what changes the logits before.
        overhead: The cost of a forward pass beside its tokens, in tokens.
        longest_draft: K, where the student's distribution at each draft token is kept; 0: it is not.
        head: Of the rule, if it reads one: a compiled student computes its gain too.
    """

    def __init__(
        self,
        pair: Pair,
        texts: TextBatch,
        params: DecodeParams,
        *,
        overhead: int = OVERHEAD,
        longest_draft: int = 0,
        head: DeferralHead | None = None,
    ) -> None:
        self.texts, self.params, self.vocab_size = texts, params, pair.vocab_size
        self.overhead, self.eos = overhead, frozenset(pair.eos_ids)
        self.student = self._runner_of(pair.student, pair.student_weights, head)
        self.process_student = params.logits_processor or _own_processor(Constraints.of(pair.student))
        self.runners = {"student": self.student}
        """By their model, `student` and `teacher`; the latter is missing where it runs elsewhere."""
        self._open_teacher(pair)
        self.longest_draft = min(longest_draft, params.max_new_tokens)  # no draft is longer than its text
        self.draft_probs_QKV: torch.Tensor | None = None

    def _open_teacher(self, pair: Pair) -> None:
        """Make what runs the teacher."""
        self.teacher = self._runner_of(pair.teacher, pair.teacher_weights, hidden=False)
        self.process_teacher = self.params.logits_processor or _own_processor(Constraints.of(pair.teacher))
        self.runners["teacher"] = self.teacher

    def _runner_of(
        self, model: PreTrainedModel, weights: str, head: DeferralHead | None = None, *, hidden: bool = True
    ) -> Runner:
        """Return a runner of one of the models."""
        rows, size = len(self.texts.sequences), self.vocab_size
        return checked_runner(model, rows, size, overhead=self.overhead, weights=weights, head=head, hidden=hidden)

    @property
    def runs_on(self) -> dict[str, str]:
        """What runs each model, by `student` and `teacher`."""
        return {name: runner.runs_on for name, runner in self.runners.items()}

    def keep_journal(self, journal: dict[str, list[Pass]]) -> None:
        """Note every forward pass from now on, under `student` and `teacher`."""
        for name, runner in self.runners.items():
            runner.journal = journal.setdefault(name, [])

    def admit(self, slots: list[int], sequences: list[Sequence]) -> None:
        """Let texts begin in `slots`; nothing is computed yet."""
        for runner in self.runners.values():
            runner.admit(slots, [sequence.source for sequence in sequences])
        for slot, sequence in zip(slots, sequences, strict=True):
            self.texts.admit(slot, sequence)

    def snapshot(self, slot: int) -> SlotState:
        """Copy a text and what both models have read of it."""
        states = {name: runner.snapshot(slot) for name, runner in self.runners.items()}
        return SlotState(self.texts.sequence(slot).copy(), states["student"], states.get("teacher"))

    def restore(self, slots: list[int], states: list[SlotState]) -> None:
        """Let copies of texts go on in `slots`, whatever these were doing; nothing is read again."""
        self.student.restore(slots, [state.student for state in states])
        if kept := [state.teacher for state in states if state.teacher is not None]:
            self.teacher.restore(slots, kept)
        for slot, state in zip(slots, states, strict=True):
            self.texts.admit(slot, state.sequence.copy())

    def read_student(self, slots: list[int], slots_R: torch.Tensor) -> Output:
        """Bring the student up to date in some rows."""
        for slot in slots:
            self.texts.sequence(slot).student_passes += 1
        if self.student.told is not None:
            self.student.told.tell(slots, [self.texts.sequence(slot).state for slot in slots])
        rows_R = None if self.texts.is_all(slots) else slots_R
        return self.student.read(rows_R, self.texts.tokens_QT, self.texts.length_Q)

    def unread_prompt(self, model: str, slot: int) -> int:
        """Return how much of the tokens before an output a model has not read; the last of them is no part of it."""
        return int(self.texts.prefix_Q[slot]) - 1 - int(self.runners[model].cursor_B[slot])

    def read_prompt(self, model: str, slot: int, count: int) -> None:
        """Let a model read the next `count` tokens of a prompt; nothing is chosen after them."""
        runner = self.runners[model]
        slots_R = torch.tensor([slot], device=self.texts.length_Q.device)
        length_B = self.texts.length_Q.clone()
        length_B[slots_R] = runner.cursor_B.to(length_B.device)[slots_R] + count
        runner.read(slots_R, self.texts.tokens_QT, length_B)

    def read_teacher(
        self, slots: list[int], slots_R: torch.Tensor, wanted_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Bring the teacher up to date in some rows; return its next logits, `[R, V]`, or the last `wanted_R`."""
        texts = self.texts
        rows_R = None if texts.is_all(slots) else slots_R
        known = (self.teacher.cursor_B.to(texts.length_Q.device), texts.prefix_Q, texts.length_Q)
        cursor_R, prefix_R, length_R = known if rows_R is None else (each[rows_R] for each in known)
        positions = (length_R - torch.maximum(cursor_R, prefix_R - 1)).tolist()
        output = self.teacher.read(rows_R, texts.tokens_QT, texts.length_Q, wanted_R)
        for slot, count in zip(slots, positions, strict=True):
            sequence = texts.sequence(slot)
            sequence.teacher_passes += 1
            sequence.teacher_positions += count
        return output.logits_RV

    def read_teacher_first(self, slots: list[int], slots_R: torch.Tensor) -> torch.Tensor:
        """Let the teacher read every row with a budget above 0, before its rule is asked; the others get zeros."""
        logits_RV = torch.zeros(len(slots), self.vocab_size, device=slots_R.device)
        asking = [slot for slot in slots if self.texts.sequence(slot).budget > 0]
        if asking:
            asking_R = torch.tensor(asking, device=slots_R.device)
            logits_RV[torch.isin(slots_R, asking_R)] = self.read_teacher(asking, asking_R)
        return logits_RV

    def step(self, slots_R: torch.Tensor, output: Output, teacher_RV: torch.Tensor | None = None) -> Step:
        """Return what is known at the states that the student has just read."""
        texts, index_R = self.texts, self.texts.index_Q[slots_R]
        return Step(
            logits_BV=output.logits_RV,
            hidden_BD=output.hidden_RD,
            position_B=texts.position(slots_R),
            source_B=texts.source_Q[slots_R],
            calls_B=texts.calls_Q[slots_R],
            budget_B=texts.budget_Q[slots_R],
            index_B=index_R,
            noise=lambda position_R: texts.noise(slots_R, RULE_STREAM)(position_R),
            copy_features=lambda token_RK: texts.copy_features(slots_R)(token_RK),
            log_p_BV=None if teacher_RV is None else teacher_RV.log_softmax(-1),
            gain_B=None if output.gain_R1 is None else output.gain_R1[:, 0],
        )

    def student_tokens(self, slots_R: torch.Tensor, logits_RV: torch.Tensor) -> torch.Tensor:
        """Choose the student's next token in each row, `[R]`; keep its distribution where verification needs it."""
        position_R = self.texts.position(slots_R)
        logits_RV = self.process_student(logits_RV, self.texts, slots_R, position_R)
        if self.longest_draft:
            self._keep_draft_probs(slots_R, logits_RV)
        return self._choose(logits_RV, slots_R, position_R, STUDENT_STREAM)

    def call_teacher(self, slots: list[int], slots_R: torch.Tensor, logits_RV: torch.Tensor | None = None) -> None:
        """Let the teacher write after some texts, once it has read them: its logits are given where it has."""
        logits_RV = self.read_teacher(slots, slots_R) if logits_RV is None else logits_RV
        self.texts.append(slots, slots_R, self.teacher_tokens(slots_R, logits_RV), by_teacher=True)

    def teacher_next(self, slots: list[int], slots_R: torch.Tensor) -> torch.Tensor:
        """Return what the teacher would write next in each row, `[R]`."""
        return self.teacher_tokens(slots_R, self.read_teacher(slots, slots_R))

    def teacher_tokens(self, slots_R: torch.Tensor, logits_RV: torch.Tensor) -> torch.Tensor:
        """Choose the teacher's next token in each row, `[R]`."""
        position_R = self.texts.position(slots_R)
        logits_RV = self.process_teacher(logits_RV, self.texts, slots_R, position_R)
        return self._choose(logits_RV, slots_R, position_R, TEACHER_STREAM)

    def read_whole(self, slots_R: torch.Tensor) -> torch.Tensor:
        """Let the teacher read whole texts anew, in one pass; return its logits before each token, `[R, T, V]`.

        A text that is shorter than the longest repeats its last.
        """
        texts = self.texts
        self.teacher.rollback(slots_R, texts.prefix_Q[slots_R] - 1)
        return self.teacher.read(slots_R, texts.tokens_QT, texts.length_Q - 1, texts.position(slots_R)).logits_RV

    def verify(self, slots: list[int], slots_R: torch.Tensor, verifier: Verifier) -> None:
        """Let the teacher read and verify drafts, and write a token after what it accepts."""
        num_draft_R = torch.tensor([self.texts.sequence(slot).num_draft for slot in slots], device=slots_R.device)
        verdict = verifier(self._check(slots_R, num_draft_R, self.read_teacher(slots, slots_R, num_draft_R + 1)))
        counts = zip(slots, verdict.num_accepted_R.tolist(), strict=True)
        follows = [self._accept_draft(slot, count, verifier) for slot, count in counts]
        self.texts.truncate(slots, slots_R)
        if followed := [slot for slot, follow in zip(slots, follows, strict=True) if follow]:
            follow_R = torch.tensor(follows, device=slots_R.device)
            self.texts.append(followed, slots_R[follow_R], verdict.token_R[follow_R], by_teacher=True)
        self.rollback(slots_R)

    def _accept_draft(self, slot: int, num_accepted: int, verifier: Verifier) -> bool:
        """Keep what the teacher accepted of a draft; return whether its own token follows."""
        sequence = self.texts.sequence(slot)
        if sequence.accept_draft(num_accepted):
            return True
        ended = bool(sequence.num_draft) and sequence.is_over(self.eos)
        return not ended and (verifier.bonus or not sequence.num_draft)

    def rollback(self, slots_R: torch.Tensor) -> None:
        """Forget what both models read beyond the last token of each row."""
        for runner in self.runners.values():
            runner.rollback(slots_R, self.texts.length_Q[slots_R] - 1)

    def _choose(
        self, logits_RV: torch.Tensor, slots_R: torch.Tensor, position_R: torch.Tensor, stream: int
    ) -> torch.Tensor:
        """Choose a token from logits: the best, or by the row's own noise."""
        sampling, who = self.params.sampling, ("student", "teacher")[stream]
        noise_R = None if sampling.greedy else self.texts.noise(slots_R, stream)(position_R)
        token_R = sampling.choose(logits_RV, noise_R, who)
        if self.texts.keeps_logprobs:
            self._keep_logprobs(slots_R, logits_RV, token_R)
        return token_R

    def _keep_logprobs(self, slots_R: torch.Tensor, logits_RV: torch.Tensor, token_R: torch.Tensor) -> None:
        """Keep the log-probabilities of the tokens that were chosen, for the texts that ask for them."""
        for row, slot in enumerate(slots_R.tolist()):
            sequence = self.texts.sequence(slot)
            if sequence.best is not None:
                log_prob_V = logits_RV[row].log_softmax(-1)
                best = log_prob_V.topk(sequence.best)
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                sequence.logprobs.append(TokenLogprobs(float(log_prob_V[token_R[row]]), tuple(pairs)))

    def _keep_draft_probs(self, slots_R: torch.Tensor, logits_RV: torch.Tensor) -> None:
        """Keep the distribution that the next draft token of each row is drawn from."""
        probs_RV = self.params.sampling.probs(logits_RV).float()
        if self.draft_probs_QKV is None:
            shape = (len(self.texts.sequences), self.longest_draft, probs_RV.shape[1])
            self.draft_probs_QKV = probs_RV.new_zeros(shape)
        num_draft_R = torch.tensor(
            [self.texts.sequence(slot).num_draft for slot in slots_R.tolist()], device=slots_R.device
        )
        self.draft_probs_QKV[slots_R, num_draft_R] = probs_RV

    def _check(self, slots_R: torch.Tensor, num_draft_R: torch.Tensor, logits_RWV: torch.Tensor) -> Check:
        """Put together what a verifier is shown."""
        texts, (rows, width) = self.texts, logits_RWV.shape[:2]
        first_R = texts.position(slots_R) - num_draft_R
        position_RW = first_R[:, None] + torch.arange(width, device=slots_R.device)
        flat_slot, flat_position = slots_R.repeat_interleave(width), position_RW.reshape(-1)
        # Beyond a row's own draft lie repeats: whatever they are told, nobody looks.
        known = torch.minimum(flat_position, (first_R + num_draft_R).repeat_interleave(width))
        logits_NV = self.process_teacher(logits_RWV.reshape(rows * width, -1), texts, flat_slot, known)
        place_RK = (texts.prefix_Q[slots_R][:, None] + position_RW[:, :-1]).clamp(max=texts.tokens_QT.shape[1] - 1)
        noise = torch.zeros(2, rows, width, dtype=torch.float64, device=slots_R.device)
        if not self.params.sampling.greedy:
            for row, stream in enumerate((ACCEPT_STREAM, TEACHER_STREAM)):
                noise[row] = texts.noise(flat_slot, stream)(flat_position).view(rows, width)
        return Check(
            logits_RWV=logits_NV.view(logits_RWV.shape),
            draft_RK=texts.tokens_QT[slots_R].gather(1, place_RK),
            num_draft_R=num_draft_R,
            sampling=self.params.sampling,
            q_RKV=None if self.draft_probs_QKV is None else self.draft_probs_QKV[slots_R, : width - 1],
            accept_RK=noise[0][:, :-1],
            token_RW=noise[1],
        )


def called(rule: AnyRule, step: Step) -> torch.Tensor:
    """Ask a rule which rows call, bool `[B]`.

    Raises:
        WheelsError: for an answer of another shape or kind, which would be taken for other rows.
    """
    call_B = rule(step)
    if not isinstance(call_B, torch.Tensor) or call_B.shape != step.position_B.shape or call_B.dtype != torch.bool:
        found = f"{call_B.dtype} {list(call_B.shape)}" if isinstance(call_B, torch.Tensor) else shown(call_B)
        raise WheelsError(
            f"rule {rule.name!r} must answer with one torch.bool for each of {len(step.position_B)} rows, got {found}"
        )
    return call_B


def _own_processor(constraints: Constraints) -> LogitsProcessor:
    """Return what a model's own generation settings make of its logits."""
    if constraints == Constraints():
        return lambda logits_NV, texts, slot_N, position_N: logits_NV

    def process(
        logits_NV: torch.Tensor, texts: TextBatch, slot_N: torch.Tensor, position_N: torch.Tensor
    ) -> torch.Tensor:
        return constraints.apply(logits_NV, position_N, texts.limit_Q[slot_N])

    return process
