"""The drafts of the texts in flight: how long they may grow, what is kept of them, and what a verifier is shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wheels.decoding.logits_processors import LogitsProcessor
from wheels.decoding.methods.draft_length import best_length, estimated_acceptance
from wheels.decoding.methods.lookup import copied_draft
from wheels.decoding.methods.method import LONGEST_DRAFT, Method
from wheels.decoding.methods.verify import Check
from wheels.decoding.models.costs import Costs
from wheels.decoding.params import ACCEPT_STREAM, TEACHER_STREAM, DecodeParams
from wheels.decoding.sampling import uniforms
from wheels.decoding.sequences import Row, TextBatch
from wheels.models.pair import Pair


class Drafts:
    """What lies behind the last token that the teacher settled, in each slot.

    Args:
        pair: Student, teacher and tokenizer.
        method: How texts are decoded.
        params: And with what.
        texts: The texts in flight.
        process_teacher: Changes the teacher's scores as its settings ask.
        costs: Measured costs, where the length of drafts follows from them.
    """

    def __init__(
        self,
        pair: Pair,
        method: Method,
        params: DecodeParams,
        texts: TextBatch,
        process_teacher: LogitsProcessor,
        costs: Costs | None,
    ) -> None:
        self.eos = frozenset(pair.eos_ids)
        self.method, self.params, self.texts, self.process_teacher = method, params, texts, process_teacher
        self.costs = costs.draft_costs(LONGEST_DRAFT) if costs is not None and method.adaptive else None
        self.keeps_draft_probs = (
            method.verifier is not None and not method.lookup and method.verifier.needs_draft_probs(params.sampling)
        )
        self.draft_probs_SKV: torch.Tensor | None = None

    def begin(self, row: Row) -> None:
        """Settle all that stands in a row, and say how long its next draft may grow."""
        row.num_settled = len(row.tokens)
        room = row.limit - row.num_settled - (self.method.verifier is not None and self.method.verifier.bonus)
        row.draft_limit = room if self.method.draft is None else min(self._length(row), room)

    def _length(self, row: Row) -> int:
        """Return K for the row's next draft."""
        assert self.method.draft is not None
        if self.costs is None or not row.checked:
            return self.method.draft
        student, teacher = self.costs
        # In steps of 0.05, so that few lengths are ever computed.
        acceptance = round(estimated_acceptance(row.accepted, row.checked) * 20) / 20
        return best_length(acceptance, 0.0 if self.method.lookup else student, teacher)

    def copy(self, slot: int) -> None:
        """Put a copied draft behind the text."""
        row = self.texts.row(slot)
        draft = copied_draft(row.source, row.tokens, row.draft_limit)
        ends = (place for place, token in enumerate(draft, 1) if token in self.eos)
        for token in draft[: next(ends, len(draft))]:
            one_R = torch.tensor([slot], device=self.texts.length_S.device)
            self.texts.write([slot], one_R, one_R.new_tensor([token]), by_teacher=False)

    def keep_draft_probs(self, slots: Sequence[int], slots_R: torch.Tensor, logits_RV: torch.Tensor) -> None:
        """Keep the distribution of each draft token, where the verifier compares it with the teacher's."""
        if not self.keeps_draft_probs:
            return
        probs_RV = self.params.sampling.probs(logits_RV).float()
        if self.draft_probs_SKV is None:
            assert self.method.draft is not None
            longest = max(LONGEST_DRAFT if self.method.adaptive else 0, self.method.draft)
            longest = min(longest, self.texts.tokens_ST.shape[1])  # no draft is longer than its text
            self.draft_probs_SKV = probs_RV.new_zeros(len(self.texts.rows), longest, probs_RV.shape[1])
        gap_R = torch.tensor([self.texts.row(slot).gap for slot in slots], device=slots_R.device)
        self.draft_probs_SKV[slots_R, gap_R] = probs_RV

    def check(self, slots_R: torch.Tensor, gap_R: torch.Tensor, logits_RWV: torch.Tensor) -> Check:
        """Put together what a verifier judges."""
        state, (rows, width) = self.texts, logits_RWV.shape[:2]
        first_R = state.position(slots_R) - gap_R
        position_RW = first_R[:, None] + torch.arange(width, device=slots_R.device)
        flat_slot, flat_position = slots_R.repeat_interleave(width), position_RW.reshape(-1)
        # Beyond a row's own draft stand repeats: whatever they are told, nobody looks.
        seen = torch.minimum(flat_position, (first_R + gap_R).repeat_interleave(width))
        logits_NV = self.process_teacher(logits_RWV.reshape(rows * width, -1), state, flat_slot, seen)
        place_RK = (state.prefix_S[slots_R][:, None] + position_RW[:, :-1]).clamp(max=state.tokens_ST.shape[1] - 1)
        noise = torch.zeros(2, rows, width, dtype=torch.float64, device=slots_R.device)
        if not self.params.sampling.greedy:
            for place, stream in enumerate((ACCEPT_STREAM, TEACHER_STREAM)):
                drawn = uniforms(self.params.seed, state.index_S[flat_slot], flat_position, stream)
                noise[place] = drawn.view(rows, width)
        return Check(
            logits_RWV=logits_NV.view(logits_RWV.shape),
            draft_RK=state.tokens_ST[slots_R].gather(1, place_RK),
            gap_R=gap_R,
            sampling=self.params.sampling,
            q_RKV=None if self.draft_probs_SKV is None else self.draft_probs_SKV[slots_R, : width - 1],
            accept_RK=noise[0][:, :-1],
            token_RW=noise[1],
        )

    def accept_draft(self, slot: int, kept: int) -> bool:
        """Count what became of a draft; tell whether the teacher's token follows what was kept of it."""
        row, verifier = self.texts.row(slot), self.method.verifier
        assert verifier is not None
        row.drafted, row.accepted = row.drafted + row.gap, row.accepted + kept
        row.checked += min(kept + 1, row.gap)
        if kept < row.gap:
            return True
        over = bool(row.gap) and (row.tokens[-1] in self.eos or len(row.tokens) >= row.limit)
        return not over and (verifier.bonus or not row.gap)

    def stop(self, row: Row, written: int) -> None:
        """End a text after `written` tokens: what was accepted behind them was written in vain."""
        if self.method.verifier is not None:
            row.accepted -= row.by_teacher[written:].count(False)
        del row.tokens[written:], row.by_teacher[written:]
        row.finished = True
