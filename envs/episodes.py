"""The episodes of an environment: the engine's own texts and passes, with the agent in the place of its decisions."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch

from wheels.data.tasks import Row
from wheels.decoding.models.output import Output
from wheels.decoding.params import RULE_STREAM, DecodeParams
from wheels.decoding.pass_kinds import plain_passes
from wheels.decoding.sequences import Sequence, TextBatch, prepare_sequences
from wheels.envs.allowance import budget_left, permitted
from wheels.envs.records import EpisodeRecord, token_rewards
from wheels.envs.rewards import needs_teacher, token_reward
from wheels.envs.settings import Settings, Start
from wheels.envs.state import EpisodeState, Origin
from wheels.errors import WheelsError, check_kind
from wheels.models.pair import Pair


@dataclass(frozen=True)
class StepResult:
    """What one step wrote."""

    token_B: torch.Tensor
    """The token, of several the last; -1 in rows that took no part."""
    by_teacher_B: torch.Tensor
    """Whether the teacher wrote it: a call that was answered."""
    refused_B: torch.Tensor
    """Whether it was a call that the budget refused: the student wrote instead."""
    reward_B: torch.Tensor
    """What it earned, in nats, float32."""
    cost_B: torch.Tensor
    """The tokens that the teacher wrote: 0 or 1, and as many as its text takes where both have their own tokenizers."""
    terminated_B: torch.Tensor
    """Whether the text ended by itself."""
    truncated_B: torch.Tensor
    """Whether the limit cut it."""
    texts: dict[int, str]
    """The texts that ended, by row."""
    scores: dict[int, float] = field(default_factory=dict)
    """Their metric, 0 to 100, where the reward has a terminal part."""
    records: dict[int, EpisodeRecord] = field(default_factory=dict)
    """What is known of them, where rewards are computed at the end."""


class EpisodeBatch:
    """B rows that write one text each, and another when that has ended: the engine's texts and passes, row = slot.

    The agent decides in the engine's place. For the reward the teacher may read every state.

    Args:
        pair: Student, teacher and tokenizer.
        rows: The data; a terminal reward needs a target in each.
        settings: How the environment behaves.
        size: B.

    Raises:
        WheelsError: for no data, an empty source or one too long, or a target that a terminal reward lacks.
    """

    def __init__(self, pair: Pair, rows: abc.Sequence[Row], settings: Settings, size: int) -> None:
        self.pair, self.rows, self.settings = pair, rows, settings
        _check_rows(rows, settings)
        if not pair.shows_logits and needs_teacher(settings.parts):
            raise WheelsError(
                f"reward {settings.reward!r} reads the teacher's logits in every state, and this one shows "
                "none; use reward terminal"
            )
        self.sources = prepare_sequences(pair, [row.source for row in rows], settings.max_new_tokens)
        self.texts = TextBatch(pair, size, self.sources)
        params = DecodeParams(max_new_tokens=settings.max_new_tokens, sampling=settings.sampling)
        self.passes = plain_passes(pair, self.texts, params)
        if pair.shows_logits:
            self.passes.teacher.encode_all = True  # rows begin a few at a time, and most will call
        self.eos = torch.tensor(pair.eos_ids, device=pair.device)
        self.slots, self.slots_B = list(range(size)), torch.arange(size, device=pair.device)
        self.time_T = torch.arange(settings.max_new_tokens, device=pair.device)
        self.origin = Origin(pair, rows, settings)
        hidden = int(pair.student.get_output_embeddings().weight.shape[1])
        self.student = Output(
            torch.zeros(size, pair.vocab_size, device=pair.device), torch.zeros(size, hidden, device=pair.device)
        )
        self.step_parts = settings.parts if settings.reward_mode == "step" else ()
        self.teacher_BV = torch.zeros_like(self.student.logits_RV) if needs_teacher(self.step_parts) else None
        self.first = [0] * size
        """The step that the episode of each row began at."""
        self.price_B = torch.zeros(size, dtype=torch.float64, device=pair.device)
        self.ended_B, self.unread_B = self.price_B > 0, self.price_B > 0
        # An idle row counts as ended, and nobody reads it; but some text must be there to be shown.
        self._admit(self.slots, [Start(0, 0, 0.0, 0.0)] * size)
        self.stop()

    def begin(self, slots: abc.Sequence[int], starts: abc.Sequence[Start | EpisodeState]) -> None:
        """Begin texts in the rows `slots`, or go on from states there, whatever these rows were doing."""
        pairs = sorted(zip(slots, starts, strict=True), key=lambda each: each[0])
        if new := [(slot, start) for slot, start in pairs if isinstance(start, Start)]:
            self._admit([slot for slot, _ in new], [start for _, start in new])
        if forked := [(slot, state) for slot, state in pairs if isinstance(state, EpisodeState)]:
            self._fork([slot for slot, _ in forked], [state for _, state in forked])

    def stop(self) -> None:
        """Let every row be idle: nothing more of its text is written or read."""
        self.ended_B, self.unread_B = torch.ones_like(self.ended_B), torch.zeros_like(self.unread_B)

    def snapshot(self, row: int) -> EpisodeState:
        """Copy the present state of a row that waits for its next action."""
        output = Output(self.student.logits_RV[row].clone(), self.student.hidden_RD[row].clone())
        teacher_V = None if self.teacher_BV is None else self.teacher_BV[row].clone()
        sequence = self.texts.sequence(row)
        start = Start(sequence.index, sequence.seed, sequence.budget, float(self.price_B[row]))
        return EpisodeState(start, self.passes.snapshot(row), output, teacher_V, self.origin)

    def read(self) -> None:
        """Bring the student up to date, and the teacher where the reward will ask for it, in one pass each.

        Rows that are idle, or that have just gone on from a state, take no part. The teacher's view of every state is
        the environment's privilege, for the reward: no observation has it.
        """
        self.passes.student.refresh(quick=True)  # an agent may train it between two steps
        row_R = self.unread_B.nonzero().squeeze(-1)
        if rows := row_R.tolist():
            output, teacher_RV = self.passes.read_student(rows, row_R), None
            if self.teacher_BV is not None and not bool(self.ended_B.all()):
                teacher_RV = self.passes.read_teacher(rows, row_R)
            self._know(row_R, output, teacher_RV)
            self.unread_B = torch.zeros_like(self.unread_B)
        state, texts = self.passes.step(self.slots_B, self.student, self.teacher_BV), self.texts
        # A caller may keep a state longer than its episode lasts.
        noise, copies = texts.noise(self.slots_B, RULE_STREAM), texts.copy_features(self.slots_B)
        self.state = replace(state, noise=noise, copy_features=copies)

    def write(self, action_B: torch.Tensor, active_B: torch.Tensor) -> StepResult:
        """Take the actions of the rows that are active: write a token in each, and see whether the text has ended."""
        if not bool(active_B.any()):
            return self.empty_result()
        call_B, token_B = self._wants_call(action_B)
        by_teacher_B, calls_B = call_B & self.permitted_B() & active_B, self.texts.calls_Q.clone()
        if bool(by_teacher_B.any()):
            called = by_teacher_B.nonzero().squeeze(-1)
            token_B[called] = self._teacher_tokens(called)
        reward_B = token_reward(self.step_parts, self.state.log_p_BV, token_B, by_teacher_B)
        terminated_B, truncated_B = self._append(token_B, by_teacher_B, active_B)
        cost_B = self.texts.calls_Q - calls_B
        if self.settings.charge_price:
            reward_B = (reward_B - self.price_B * cost_B).float()
        ended = (terminated_B | truncated_B).nonzero().squeeze(-1).tolist()
        written = StepResult(
            token_B=token_B.where(active_B, -1),
            by_teacher_B=by_teacher_B,
            cost_B=cost_B,
            refused_B=call_B & active_B & ~by_teacher_B,
            reward_B=reward_B.masked_fill(~active_B, 0.0),
            terminated_B=terminated_B,
            truncated_B=truncated_B,
            texts={row: self.pair.decode(self.output(row)) for row in ended},
        )
        if ended and "terminal" in self.settings.parts:
            written = self._scored(written)
        return self._recorded(written) if ended and self.settings.reward_mode == "episode" else written

    def empty_result(self) -> StepResult:
        """Return what a step wrote that wrote nothing: an episode's beginning."""
        no_B = torch.zeros_like(self.ended_B)
        return StepResult(no_B.long() - 1, no_B, no_B, no_B.float(), no_B.long(), no_B, no_B, {})

    @property
    def position_B(self) -> torch.Tensor:
        """The tokens that each row has written."""
        return self.texts.length_Q - self.texts.prefix_Q

    def permitted_B(self) -> torch.Tensor:
        """Return the rows that may call now."""
        texts, settings = self.texts, self.settings
        return permitted(settings.mode, texts.budget_Q, self.position_B, texts.calls_Q, texts.limit_Q, settings.burst)

    def budget_left_B(self) -> torch.Tensor:
        """Return what is left of the budgets (`budget_left`)."""
        return budget_left(self.texts.budget_Q, self.texts.calls_Q, self.texts.limit_Q)

    def mask_BA(self) -> torch.Tensor:
        """Return the actions that make sense now: tokens the student's settings allow, and a call within the budget."""
        call_B1 = self.permitted_B()[:, None]
        if self.settings.actions == "factorised":
            return torch.cat([torch.ones_like(call_B1), call_B1], -1)
        logits_BV = self.passes.process_student(self.state.logits_BV, self.texts, self.slots_B, self.position_B)
        return torch.cat([logits_BV > -torch.inf, call_B1], -1)

    def output(self, row: int) -> list[int]:
        """Return the tokens that `row` has written."""
        return self.texts.sequence(row).tokens

    def outputs_BT(self) -> torch.Tensor:
        """Return the tokens that each row has written, padded on the right to the longest output that there may be."""
        place_BT = (self.texts.prefix_Q[:, None] + self.time_T).clamp(max=self.texts.tokens_QT.shape[1] - 1)
        unwritten_BT = self.time_T >= self.position_B[:, None]
        return self.texts.tokens_QT.gather(1, place_BT).masked_fill(unwritten_BT, self.pair.pad_id)

    def _admit(self, slots: list[int], starts: list[Start]) -> None:
        """Let new texts into the rows `slots`."""
        sources = [self.sources[start.index] for start in starts]
        self.passes.admit(
            slots,
            [
                Sequence(
                    start.index,
                    source.source,
                    source.limit,
                    start.budget,
                    start.seed,
                    teacher_source=source.teacher_source,
                )
                for start, source in zip(starts, sources, strict=True)
            ],
        )
        for slot, start in zip(slots, starts, strict=True):
            self._enter(slot, start, unread=True)

    def _fork(self, slots: list[int], states: list[EpisodeState]) -> None:
        """Let the rows `slots` go on from states; nothing is read again."""
        self.passes.restore(slots, [state.text for state in states])
        outputs = [state.output for state in states]
        logits_RV, hidden_RD = (
            torch.stack([each.logits_RV for each in outputs]),
            torch.stack([each.hidden_RD for each in outputs]),
        )
        teacher = [state.teacher_V for state in states if state.teacher_V is not None]
        self._know(
            torch.tensor(slots, device=self.pair.device),
            Output(logits_RV, hidden_RD),
            torch.stack(teacher) if teacher else None,
        )
        for slot, state in zip(slots, states, strict=True):
            self._enter(slot, state.start, unread=False)

    def _enter(self, slot: int, start: Start, *, unread: bool) -> None:
        """Note that an episode begins in a row."""
        self.price_B[slot], self.ended_B[slot], self.unread_B[slot] = start.price, False, unread
        self.first[slot] = len(self.texts.sequence(slot).tokens)

    def _know(self, row_R: torch.Tensor, output: Output, teacher_RV: torch.Tensor | None) -> None:
        """Note what the models computed in some rows, in order."""
        logits_RV = _put(self.student.logits_RV, row_R, output.logits_RV)
        self.student = Output(logits_RV, _put(self.student.hidden_RD, row_R, output.hidden_RD))
        if self.teacher_BV is not None and teacher_RV is not None:
            self.teacher_BV = _put(self.teacher_BV, row_R, teacher_RV)

    def student_choices(self) -> torch.Tensor:
        """Return what the student would write now in each row, `[B]`."""
        return self.passes.student_tokens(self.slots_B, self.state.logits_BV)

    def _wants_call(self, action_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows that want to call, and what else each writes: the student's choice, or the action.

        Where a call is refused that is the student's choice in both forms.
        """
        own_B = self.student_choices()
        if self.settings.actions == "factorised":
            return action_B == 1, own_B
        call_B = action_B == self.pair.vocab_size
        return call_B, torch.where(call_B, own_B, action_B)

    def _teacher_tokens(self, called_R: torch.Tensor) -> torch.Tensor:
        """Let the teacher write in the rows that call; return its token in each, of several the last."""
        rows = called_R.tolist()
        if self.pair.by_text:
            self.passes.call_teacher(rows, called_R)
            return self.texts.tokens_QT[called_R, self.texts.length_Q[called_R] - 1]
        if self.teacher_BV is None:
            token_R = self.passes.teacher_next(rows, called_R)
        else:
            token_R = self.passes.teacher_tokens(called_R, self.teacher_BV[called_R])
        self.texts.append(rows, called_R, token_R, by_teacher=True)
        return token_R

    def _append(
        self, token_B: torch.Tensor, by_teacher_B: torch.Tensor, active_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the other tokens of the active rows; return the rows that ended by themselves, and by the limit."""
        row_R = (active_B & ~by_teacher_B).nonzero().squeeze(-1)
        if len(row_R):
            self.texts.append(row_R.tolist(), row_R, token_B[row_R], by_teacher=False)
        terminated_B = torch.isin(token_B, self.eos) & active_B
        truncated_B = (self.position_B >= self.texts.limit_Q) & active_B & ~terminated_B
        self.ended_B, self.unread_B = self.ended_B | terminated_B | truncated_B, self.unread_B | active_B
        return terminated_B, truncated_B

    def _scored(self, written: StepResult) -> StepResult:
        """Add the terminal reward of the texts that ended: their metric against the target, scaled.

        Where a row has further references it is the mean over all of them.
        """
        from wheels.metrics import sentence_scores

        slots, texts = list(written.texts), list(written.texts.values())
        rows = [self.rows[self.texts.sequence(slot).index] for slot in slots]
        pairs = zip(texts, rows, strict=True)
        known = [(text, one, row.source) for text, row in pairs for one in (row.target, *row.references)]
        scored = iter(sentence_scores(self.settings.metric, *map(list, zip(*known, strict=True))))
        values = [sum(islice(scored, 1 + len(row.references))) / (1 + len(row.references)) for row in rows]
        reward_B = written.reward_B.clone()
        reward_B[slots] += self.settings.terminal_scale * torch.tensor(values, device=reward_B.device)
        return replace(written, reward_B=reward_B, scores=dict(zip(slots, values, strict=True)))

    def _recorded(self, written: StepResult) -> StepResult:
        """Add the records of the texts that ended, with the rewards that were left out on the way."""
        rows, scale = list(written.texts), self.settings.terminal_scale
        records = {}
        for row, reward_T in zip(rows, token_rewards(self.passes, self.settings, rows), strict=True):
            sequence, score = self.texts.sequence(row), written.scores.get(row)
            call_T = np.array(sequence.by_teacher)
            earned_T = reward_T.numpy().astype(np.float64)
            if self.settings.charge_price:
                earned_T -= float(self.price_B[row]) * call_T
            earned_T[-1] += scale * (score or 0.0)
            records[row] = EpisodeRecord(
                np.array(sequence.tokens),
                call_T,
                earned_T.astype(np.float32),
                self.first[row],
                written.texts[row],
                score,
            )
        return replace(written, records=records)


def _put(old_BX: torch.Tensor, row_R: torch.Tensor, new_RX: torch.Tensor) -> torch.Tensor:
    """Return all rows with new values in some, in order, without writing over what a caller may keep."""
    return new_RX if len(new_RX) == len(old_BX) else old_BX.index_copy(0, row_R, new_RX)


def _check_rows(rows: abc.Sequence[Row], settings: Settings) -> None:
    """Raise a `WheelsError` for no rows, or rows without the targets that a terminal reward compares with."""
    check_kind("rows", rows, abc.Sequence, "a list of wheels.data.tasks.Row")
    if not rows:
        raise WheelsError("rows must hold at least one source, got none")
    for row in rows:
        check_kind("rows", row, Row, "wheels.data.tasks.Row(source, target) each")
    if "terminal" in settings.parts:
        for number, row in enumerate(rows, start=1):
            if not row.target.strip():
                raise WheelsError(f"row {number} of {len(rows)} has no target, and a terminal reward compares with it")
