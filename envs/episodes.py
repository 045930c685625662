"""The texts that are being written: both models' caches, the state that the agent sees, and what an action does to it.

It steps the same `Runner` and builds the same `Step` as `wheels.decoding.engine`, with the decision left to the agent
and a new text let into a row where one has ended. One row of it is the single environment, several are the vector one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from wheels.data.tasks import Row
from wheels.decoding.models.self_check import checked_runner
from wheels.decoding.params import RULE_STREAM, STUDENT_STREAM, TEACHER_STREAM
from wheels.decoding.sampling import uniforms
from wheels.decoding.sequences import prepare_sequences
from wheels.decoding.step import Step
from wheels.envs.allowance import budget_left, permitted
from wheels.envs.rewards import needs_teacher, token_reward
from wheels.envs.settings import Settings, Start
from wheels.errors import WheelsError, check_kind
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair
from wheels.policy.copy_features import CopyPointer
from wheels.policy.features import CopyFeatures


@dataclass(frozen=True)
class StepResult:
    """What one step wrote."""

    token_B: torch.Tensor
    """The token; -1 in rows that took no part."""
    by_teacher_B: torch.Tensor
    """Whether the teacher wrote it: a call that was answered."""
    refused_B: torch.Tensor
    """Whether it was a call that the budget refused: the student wrote instead."""
    reward_B: torch.Tensor
    """What it earned, in nats, float32."""
    terminated_B: torch.Tensor
    """Whether the text ended by itself."""
    truncated_B: torch.Tensor
    """Whether the limit cut it."""
    texts: dict[int, str]
    """The texts that ended, by row."""
    scores: dict[int, float]
    """Their metric, 0 to 100, where the reward has a terminal part."""


class EpisodeBatch:
    """B rows that write one text each, and another when that has ended.

    Args:
        pair: Student, teacher and tokenizer.
        rows: The data; a terminal reward needs a target in each.
        settings: How the environment behaves.
        size: B.

    Raises:
        WheelsError: for no data, an empty source or one too long, or a target that a terminal reward lacks.
    """

    def __init__(self, pair: Pair, rows: Sequence[Row], settings: Settings, size: int) -> None:
        self.pair, self.rows, self.settings = pair, rows, settings
        _check_rows(rows, settings)
        self.sources = prepare_sequences(pair, [row.source for row in rows], settings.max_new_tokens)
        # An environment may outlive its student's weights: an agent trains them between two steps.
        self.student = checked_runner(pair.student, size, pair.vocab_size, fast=False)
        self.teacher = checked_runner(pair.teacher, size, pair.vocab_size)
        self.student_constraints = Constraints.of(pair.student)
        self.teacher_constraints = Constraints.of(pair.teacher)
        self.eos = torch.tensor(pair.eos_ids, device=pair.device)
        self.needs_teacher = needs_teacher(settings.parts)
        longest = len(pair.start_ids) if pair.is_seq2seq else max(len(row.source) for row in self.sources)
        self.tokens_BT = torch.full((size, longest + settings.max_new_tokens), pair.pad_id, device=pair.device)
        self.output_BT = torch.full((size, settings.max_new_tokens), pair.pad_id, device=pair.device)
        count = torch.zeros(size, dtype=torch.long, device=pair.device)
        self.length_B, self.position_B, self.calls_B = count.clone(), count.clone(), count.clone()
        self.source_B = count.clone() + 1
        self.places = [CopyPointer([pair.pad_id]) for _ in range(size)]
        self.limit_B, self.index_B, self.seed_B = count.clone() + 1, count.clone(), count.clone()
        self.budget_B = torch.zeros(size, dtype=torch.float64, device=pair.device)
        self.price_B, self.ended_B = self.budget_B.clone(), count == 0

    def admit(self, slots: Sequence[int], starts: Sequence[Start]) -> None:
        """Let new texts into the rows `slots`, whatever these were doing."""
        if not slots:
            return
        sources = [self.sources[start.index] for start in starts]
        for runner in (self.student, self.teacher):
            runner.admit(slots, [source.source for source in sources])
        for slot, start, source in zip(slots, starts, sources, strict=True):
            prefix = list(self.pair.start_ids) if self.pair.is_seq2seq else source.source
            self.tokens_BT[slot] = self.pair.pad_id
            self.output_BT[slot] = self.pair.pad_id
            self.tokens_BT[slot, : len(prefix)] = torch.tensor(prefix, device=self.tokens_BT.device)
            self.length_B[slot], self.limit_B[slot] = len(prefix), source.limit
            self.source_B[slot] = len(source.source)
            self.places[slot] = CopyPointer(source.source)
            self.position_B[slot] = self.calls_B[slot] = 0
            self.index_B[slot], self.seed_B[slot] = start.index, start.seed
            self.budget_B[slot], self.price_B[slot], self.ended_B[slot] = start.budget, start.price, False

    def read(self) -> None:
        """Bring the student up to date, and the teacher where the reward will ask for it, in one pass each.

        The teacher's view of every state is the environment's privilege, for the reward: no observation has it.
        """
        said = self.student.read(None, self.tokens_BT, self.length_B)
        self.student_BV, self.teacher_BV = said.logits_RV, None
        if self.needs_teacher and not bool(self.ended_B.all()):
            self.teacher_BV = self.teacher.read(None, self.tokens_BT, self.length_B).logits_RV
        self.state = Step(
            logits_BV=said.logits_RV,
            hidden_BD=said.hidden_RD,
            position_B=self.position_B.clone(),
            source_B=self.source_B.clone(),
            index_B=self.index_B.clone(),
            calls_B=self.calls_B.clone(),
            budget_B=self.budget_B.clone(),
            noise=self._noise(),
            places=self._places(),
            log_p_BV=None if self.teacher_BV is None else self.teacher_BV.log_softmax(-1),
        )

    def write(self, action_B: torch.Tensor, active_B: torch.Tensor) -> StepResult:
        """Take the actions of the rows that are active: write a token in each, and see whether the text has ended."""
        if not bool(active_B.any()):
            return self.empty_result()
        call_B, token_B = self._wishes(action_B)
        by_teacher_B = call_B & self.permitted_B() & active_B
        if bool(by_teacher_B.any()):
            called = by_teacher_B.nonzero().squeeze(-1)
            token_B[called] = self._teacher_tokens(called)
        reward_B = token_reward(self.settings.parts, self.state.log_p_BV, token_B, by_teacher_B)
        if self.settings.charge_price:
            reward_B = (reward_B - self.price_B * by_teacher_B).float()
        terminated_B, truncated_B = self._append(token_B, by_teacher_B, active_B)
        ended = (terminated_B | truncated_B).nonzero().squeeze(-1).tolist()
        written = StepResult(
            token_B=token_B.where(active_B, -1),
            by_teacher_B=by_teacher_B,
            refused_B=call_B & active_B & ~by_teacher_B,
            reward_B=reward_B.masked_fill(~active_B, 0.0),
            terminated_B=terminated_B,
            truncated_B=truncated_B,
            texts={row: self.pair.decode(self.output(row)) for row in ended},
            scores={},
        )
        return self._scored(written) if "terminal" in self.settings.parts and ended else written

    def empty_result(self) -> StepResult:
        """Return what a step wrote that wrote nothing: an episode's beginning."""
        no_B = torch.zeros_like(self.ended_B)
        return StepResult(no_B.long() - 1, no_B, no_B, no_B.float(), no_B, no_B, {}, {})

    def permitted_B(self) -> torch.Tensor:
        """Return the rows that may call now."""
        settings = self.settings
        return permitted(settings.mode, self.budget_B, self.position_B, self.calls_B, self.limit_B, settings.burst)

    def budget_left_B(self) -> torch.Tensor:
        """Return what is left of the budgets (`budget_left`)."""
        return budget_left(self.budget_B, self.calls_B, self.limit_B)

    def mask_BA(self) -> torch.Tensor:
        """Return the actions that make sense now: tokens the student's settings allow, and a call within the budget."""
        call_B1 = self.permitted_B()[:, None]
        if self.settings.actions == "factorised":
            return torch.cat([torch.ones_like(call_B1), call_B1], -1)
        logits_BV = self.student_constraints.apply(self.student_BV, self.position_B, self.limit_B)
        return torch.cat([logits_BV > -torch.inf, call_B1], -1)

    def output(self, row: int) -> list[int]:
        """Return the tokens that `row` has written."""
        return self.output_BT[row, : int(self.position_B[row])].tolist()

    def _wishes(self, action_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows that want to call, and what else each writes: the student's choice, or the action.

        Where a call is refused that is the student's choice in both forms.
        """
        logits_BV = self.student_constraints.apply(self.student_BV, self.position_B, self.limit_B)
        own_B = self.settings.sampling.choose(logits_BV, self._uniforms(None, STUDENT_STREAM), "student")
        if self.settings.actions == "factorised":
            return action_B == 1, own_B
        call_B = action_B == self.pair.vocab_size
        return call_B, torch.where(call_B, own_B, action_B)

    def _teacher_tokens(self, called_R: torch.Tensor) -> torch.Tensor:
        """Return the teacher's tokens in the rows that call."""
        if self.teacher_BV is None:
            logits_RV = self.teacher.read(called_R, self.tokens_BT, self.length_B).logits_RV
        else:
            logits_RV = self.teacher_BV[called_R]
        logits_RV = self.teacher_constraints.apply(logits_RV, self.position_B[called_R], self.limit_B[called_R])
        return self.settings.sampling.choose(logits_RV, self._uniforms(called_R, TEACHER_STREAM), "teacher")

    def _noise(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what draws the rule's numbers of this state."""
        seeds, index_B = self.seed_B.cpu().numpy().copy(), self.index_B.clone()
        return lambda at_B: uniforms(seeds, index_B, at_B, RULE_STREAM)

    def _places(self) -> CopyFeatures:
        """Return what says where each text of this state is in its source."""
        lengths, texts = self.position_B.tolist(), self.output_BT.tolist()
        now = [(place, text[:length]) for place, text, length in zip(self.places, texts, lengths, strict=True)]

        def places(token_BK: torch.Tensor) -> torch.Tensor:
            numbers = []
            for (place, text), best in zip(now, token_BK.tolist(), strict=True):
                place.follow(text)
                numbers.append(place.features(best))
            return torch.tensor(numbers, device=token_BK.device)

        return places

    def _uniforms(self, rows_R: torch.Tensor | None, stream: int) -> torch.Tensor:
        """Draw the numbers of each row's own seed, index and position, as the engine does."""
        seed_R, index_R, position_R = (
            values if rows_R is None else values[rows_R] for values in (self.seed_B, self.index_B, self.position_B)
        )
        return uniforms(seed_R.cpu().numpy(), index_R, position_R, stream)

    def _append(
        self, token_B: torch.Tensor, by_teacher_B: torch.Tensor, active_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the tokens of the active rows; return those that ended by themselves, and those that the limit cut."""
        row_R = active_B.nonzero().squeeze(-1)
        self.tokens_BT[row_R, self.length_B[row_R]] = token_B[row_R]
        self.output_BT[row_R, self.position_B[row_R]] = token_B[row_R]
        self.length_B, self.position_B = self.length_B + active_B, self.position_B + active_B
        self.calls_B = self.calls_B + by_teacher_B
        terminated_B = torch.isin(token_B, self.eos) & active_B
        truncated_B = (self.position_B >= self.limit_B) & active_B & ~terminated_B
        self.ended_B = self.ended_B | terminated_B | truncated_B
        return terminated_B, truncated_B

    def _scored(self, written: StepResult) -> StepResult:
        """Add the terminal reward of the texts that ended: their metric against the target, scaled."""
        from wheels.metrics import sentence_scores

        slots = list(written.texts)
        targets = [self.rows[int(self.index_B[slot])].target for slot in slots]
        values = sentence_scores(self.settings.metric, list(written.texts.values()), targets)
        reward_B = written.reward_B.clone()
        reward_B[slots] += self.settings.terminal_scale * torch.tensor(values, device=reward_B.device)
        return replace(written, reward_B=reward_B, scores=dict(zip(slots, values, strict=True)))


def _check_rows(rows: Sequence[Row], settings: Settings) -> None:
    """Raise a `WheelsError` for no rows, or rows without the targets that a terminal reward compares with."""
    check_kind("rows", rows, Sequence, "a list of wheels.data.tasks.Row")
    if not rows:
        raise WheelsError("rows must hold at least one source, got none")
    for row in rows:
        check_kind("rows", row, Row, "wheels.data.tasks.Row(source, target) each")
    if "terminal" in settings.parts:
        for number, row in enumerate(rows, start=1):
            if not row.target.strip():
                raise WheelsError(f"row {number} of {len(rows)} has no target, and a terminal reward compares with it")
