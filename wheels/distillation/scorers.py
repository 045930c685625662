"""Who fills a cache of a teacher's probabilities: the teacher in memory, or one at an address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from wheels.distillation.collate import Collator, Example, target_states
from wheels.distillation.teacher_cache import SHORT_IDS, CacheSettings, Shard, shard_of
from wheels.endpoints.scoring import ScoringTeacher, TokenScores
from wheels.errors import WheelsError
from wheels.models.chosen_states import read_at
from wheels.models.devices import device_of


@dataclass(frozen=True)
class LocalScorer:
    """A teacher in memory."""

    teacher: PreTrainedModel
    settings: CacheSettings
    collator: Collator
    """Makes batches of rows, as in training."""
    batch_size: int = 64
    """Rows at a time; rows of similar length go together."""

    @torch.no_grad()
    def __call__(self, rows: Sequence[Example]) -> list[Shard]:
        """Return the tensors of each row."""
        order = sorted(range(len(rows)), key=lambda row: (len(rows[row]["source"]), len(rows[row]["target"])))
        parts: list[Shard] = [{} for _ in rows]
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            made = self._read([{"source": rows[row]["source"], "target": rows[row]["target"]} for row in chosen])
            lengths = [len(rows[row]["target"]) for row in chosen]
            for name, tensor in made.items():
                for row, part in zip(chosen, tensor.cpu().split(lengths), strict=True):
                    parts[row][name] = part
        return parts

    def _read(self, rows: Sequence[Example]) -> Shard:
        """Return the tensors of some rows, one behind the other, from one pass."""
        batch = self.collator(rows)
        labels_BT = batch.pop("labels").to(device_of(self.teacher))  # its results are worked on there
        chosen_BT, _ = target_states(labels_BT, is_seq2seq=self.collator.is_seq2seq)
        logits_NV = read_at(self.teacher, batch, chosen_BT).logits_NV
        settings = self.settings
        return shard_of(logits_NV[:, : settings.vocab_size], settings.k, settings.temperatures)


@dataclass(frozen=True)
class RemoteScorer:
    """A teacher at an address: what it tells is of temperature 1."""

    teacher: ScoringTeacher
    settings: CacheSettings

    def __call__(self, rows: Sequence[Example]) -> list[Shard]:
        """Return the tensors of each row."""
        sources, targets = [row["source"] for row in rows], [row["target"] for row in rows]
        scores = self.teacher.score(sources, targets, self.settings.k)
        return [shard_of_scores(each, self.settings.vocab_size) for each in scores]


def shard_of_scores(scores: TokenScores, vocab_size: int) -> Shard:
    """Return the tensors that a cache keeps of scores, as `shard_of` does of logits at temperature 1.

    Raises:
        WheelsError: where all tokens are kept and some are missing.
    """
    best_T1 = scores.log_p_TK[:, :1]
    relative_TK = (scores.log_p_TK - best_T1).to(torch.float16)
    if scores.ids_TK.shape[1] == vocab_size:
        ids_TV, order_TV = scores.ids_TK.sort(dim=-1)
        if not bool((ids_TV == torch.arange(vocab_size)).all()):
            raise WheelsError(f"the teacher told other ids than 0 to {vocab_size - 1}; keep fewer with --cached-logits")
        return {"relative": relative_TK.gather(-1, order_TV)}
    return {
        "ids": scores.ids_TK.to(torch.uint16 if vocab_size <= SHORT_IDS else torch.int32),
        "relative": relative_TK,
        "rest": scores.log_rest_T[:, None] - best_T1,
    }
