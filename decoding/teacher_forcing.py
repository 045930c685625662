"""Teacher forcing: both models score a finished text at every position, in one pass each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from wheels.decoding.params import LONGEST_OUTPUT
from wheels.decoding.remote.pair import scoring_elsewhere
from wheels.decoding.sampling import argmax
from wheels.decoding.step import regret
from wheels.distillation.collate import pad_with_mask
from wheels.distillation.scorers import shard_of_scores
from wheels.distillation.teacher_cache import Shard, shard_of
from wheels.endpoints.scoring import TokenScores
from wheels.models.chosen_states import read_at
from wheels.models.generation_settings import Constraints
from wheels.models.pair import Pair
from wheels.policy.features import LOG_FLOOR, features, text_copy_features

TOLD = 20
"""Tokens that a teacher at an address tells in each place: as many as vLLM does by default."""
LOGITS_AT_A_TIME = 2**26
"""Logits that are held at once, for each model: 256 MiB in float32."""
TOKENS_AT_A_TIME = 2**13
"""Tokens of sources and texts that a pass reads at most, but for a single text that is longer."""


@dataclass(frozen=True)
class Reader:
    """A model, and how it reads."""

    model: PreTrainedModel
    start_ids: tuple[int, ...]
    """What the decoder of a sequence-to-sequence model reads first."""
    pad_id: int
    vocab_size: int
    """Tokens that it gives logits for, of those that count."""
    device: torch.device
    """Where it is given its input."""

    @classmethod
    def of(cls, pair: Pair, model: PreTrainedModel) -> Reader:
        """Return how a model of a pair reads the student's tokens."""
        return cls(model, pair.start_ids, pair.pad_id, pair.vocab_size, pair.device)


@dataclass(frozen=True, eq=False)
class ScoredText:
    """One text of T tokens, at the state before each of them."""

    features_TF: torch.Tensor
    """What the deferral head sees: the same as in decoding (`Step.features_BF`)."""
    final_features_F: torch.Tensor
    """The same after the last token."""
    regret_T: torch.Tensor
    """What the student's greedy token would cost there: `max_v log p - log p(argmax q)`, nats, >= 0."""
    log_p_token_T: torch.Tensor
    """The teacher's log-probability of the token that was written, nats, floored at `LOG_FLOOR`."""
    log_q_token_T: torch.Tensor
    """The student's, likewise."""


def teacher_force(
    pair: Pair, sources: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], batch_size: int | None = None
) -> list[ScoredText]:
    """Score each text after its source with both models.

    Args:
        pair: Both models.
        sources: Tokens of the sources (prompts, for causal models), as `Pair.encode` makes them.
        texts: Tokens of the outputs, each at least one.
        batch_size: Rows of a forward pass at most; None: as many as memory allows.
    """
    found: list[ScoredText | None] = [None] * len(texts)
    for indices in batches_of(sources, texts, pair.vocab_size, batch_size or len(texts)):
        batch = ([sources[index] for index in indices], [texts[index] for index in indices])
        for index, scored in zip(indices, _score_batch(pair, *batch), strict=True):
            found[index] = scored
    return [scored for scored in found if scored is not None]


@torch.no_grad()
def greedy_tokens(
    pair: Pair,
    model: PreTrainedModel,
    sources: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int | None = None,
) -> list[list[int]]:
    """Return the token that a model would write in place of each token of each text, as it does when it decodes.

    Args:
        pair: Whose tokens these are.
        model: Its student or its teacher.
        sources: As in `teacher_force`.
        texts: As in `teacher_force`.
        max_new_tokens: The most tokens of an output, as in decoding.
        batch_size: As in `teacher_force`.
    """
    constraints, found = Constraints.of(model), [list[int]()] * len(texts)
    for indices in batches_of(sources, texts, pair.vocab_size, batch_size or len(texts)):
        batch = ([sources[index] for index in indices], [texts[index] for index in indices])
        for index, logits_WV in zip(indices, read_texts(pair, model, *batch)[0], strict=True):
            position_T = torch.arange(len(texts[index]), device=logits_WV.device)
            limit_T = torch.full_like(position_T, pair.room(sources[index], max_new_tokens))
            found[index] = argmax(constraints.apply(logits_WV[:-1], position_T, limit_T)).tolist()
    return found


def batches_of(
    sources: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], vocab_size: int, most: int
) -> Iterator[list[int]]:
    """Yield indices of texts of like length, as many at a time as memory allows, and `most` at most."""
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), len(sources[index])))
    batch, longest = list[int](), 0
    for index in order:
        count, states, source = len(batch) + 1, len(texts[index]) + 1, len(sources[index])
        longest = max(longest, source)
        logits, tokens = count * states * vocab_size, count * (longest + states)
        if batch and (count > most or logits > LOGITS_AT_A_TIME or tokens > TOKENS_AT_A_TIME):
            yield batch
            batch, longest = [], source
        batch.append(index)
    if batch:
        yield batch


@torch.no_grad()
def _score_batch(pair: Pair, sources: list[Sequence[int]], texts: list[Sequence[int]]) -> Iterator[ScoredText]:
    """Read one batch."""
    q, hidden = read_texts(pair, pair.student, sources, texts)
    teacher = said_by_teacher(pair, sources, texts)
    for row, text in enumerate(texts):
        steps = len(text)
        log_q_WV, said = q[row].log_softmax(-1), teacher[row]
        seen_WF = seen_by_head(hidden[row], log_q_WV, sources[row], text)
        token_T1 = torch.tensor(text, device=log_q_WV.device)[:, None]
        yield ScoredText(
            features_TF=seen_WF[:steps].cpu(),
            final_features_F=seen_WF[steps].cpu(),
            regret_T=said.regret(log_q_WV[:steps]).cpu(),
            log_p_token_T=said.log_p_token_T.clamp(min=LOG_FLOOR).cpu(),
            log_q_token_T=log_q_WV[:steps].gather(1, token_T1).squeeze(1).clamp(min=LOG_FLOOR).cpu(),
        )


def seen_by_head(
    hidden_WD: torch.Tensor, log_q_WV: torch.Tensor, source: Sequence[int], text: Sequence[int]
) -> torch.Tensor:
    """Return what the deferral head sees at each state of one text, `[W, F]`."""
    position_W = torch.arange(len(text) + 1, device=log_q_WV.device)
    source_W = torch.full_like(position_W, len(source))
    return features(hidden_WD, log_q_WV, position_W, source_W, text_copy_features(source, text))


class SaidByTeacher(Protocol):
    """What a teacher says of one text, here or at an address."""

    log_p_token_T: torch.Tensor
    """Its log-probability of the token that was written, nats."""

    def regret(self, log_q_TV: torch.Tensor) -> torch.Tensor:
        """Return what the student's greedy token would cost in each place, nats, `[T]` (`wheels.decoding.step`)."""


@dataclass(frozen=True, eq=False)
class AllSaid:
    """All log-probabilities of a teacher in memory."""

    log_p_TV: torch.Tensor
    log_p_token_T: torch.Tensor

    def regret(self, log_q_TV: torch.Tensor) -> torch.Tensor:
        """Compute as `SaidByTeacher.regret`."""
        return regret(self.log_p_TV, log_q_TV)


@dataclass(frozen=True, eq=False)
class BestSaid:
    """The likeliest tokens of a teacher at an address, and the token that was written."""

    scores: TokenScores
    token_T: torch.Tensor

    @property
    def log_p_token_T(self) -> torch.Tensor:
        """As for `SaidByTeacher`."""
        return self.scores.log_p_token_T

    def regret(self, log_q_TV: torch.Tensor) -> torch.Tensor:
        """Compute as `SaidByTeacher.regret`; of a token that is not told log p is at most this, and that stands for it.

        It is no likelier than the last of those that are told, nor than all that are not.
        """
        scores, own_T = self.scores, argmax(log_q_TV).cpu()
        own_TK = scores.ids_TK == own_T[:, None]
        most_T = torch.minimum(scores.log_p_TK[:, -1], scores.log_rest_T)
        most_T = torch.where(own_T == self.token_T, scores.log_p_token_T, most_T)
        told_T = scores.log_p_TK.masked_fill(~own_TK, -torch.inf).amax(-1)
        chosen_T = torch.where(own_TK.any(-1), told_T, most_T).clamp(min=LOG_FLOOR)
        return scores.log_p_TK[:, 0] - chosen_T


@torch.no_grad()
def said_by_teacher(
    pair: Pair, sources: list[Sequence[int]], texts: list[Sequence[int]]
) -> Sequence[AllSaid | BestSaid]:
    """Return what the teacher says of each text, from one pass of it or from one request."""
    tokens = [torch.tensor(text) for text in texts]
    if (there := scoring_elsewhere(pair)) is not None:
        found = there.score(sources, texts, min(TOLD, pair.vocab_size))
        return [BestSaid(scores, token_T) for scores, token_T in zip(found, tokens, strict=True)]
    logits, _ = read_texts(pair, pair.teacher, sources, texts)
    rows = [logits_WV[:-1].log_softmax(-1) for logits_WV in logits]
    return [
        AllSaid(log_p_TV, log_p_TV.gather(1, token_T.to(log_p_TV.device)[:, None]).squeeze(1))
        for log_p_TV, token_T in zip(rows, tokens, strict=True)
    ]


@torch.no_grad()
def teacher_shards(
    pair: Pair,
    sources: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    k: int,
    batch_size: int | None = None,
) -> list[Shard]:
    """Return the teacher's k likeliest tokens in each place of each text, as a cache keeps them at temperature 1."""
    if (there := scoring_elsewhere(pair)) is not None:
        return [shard_of_scores(scores, pair.vocab_size) for scores in there.score(sources, texts, k)]
    found: list[Shard] = [{} for _ in texts]
    for place, logits_TV in teacher_logits(pair, sources, texts, batch_size):
        found[place] = {name: value.cpu() for name, value in shard_of(logits_TV, k, (1.0,)).items()}
    return found


@torch.no_grad()
def teacher_logits(
    pair: Pair, sources: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], batch_size: int | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each text's place and the teacher's logits at the states before its T tokens, `[T, V]`; short texts first.

    Args:
        pair: Both models.
        sources: Tokens of the sources (prompts, for causal models), as `Pair.encode` makes them.
        texts: Tokens of the outputs, each at least one.
        batch_size: Rows of a forward pass at most; None: as many as memory allows.
    """
    for indices in batches_of(sources, texts, pair.vocab_size, batch_size or len(texts)):
        logits, _ = read_texts(pair, pair.teacher, [sources[i] for i in indices], [texts[i] for i in indices])
        for index, logits_WV in zip(indices, logits, strict=True):
            yield index, logits_WV[:-1]


@torch.no_grad()
def teacher_choices(
    pair: Pair, sources: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], batch_size: int | None = None
) -> list[list[int]]:
    """Return the teacher's greedy token at the state before each token of each text; arguments of `teacher_logits`."""
    if (there := scoring_elsewhere(pair)) is not None:
        return [scores.ids_TK[:, 0].tolist() for scores in there.score(sources, texts, 1)]
    found: list[list[int]] = [[]] * len(texts)
    constraints = Constraints.of(pair.teacher)
    for index, logits_TV in teacher_logits(pair, sources, texts, batch_size):
        position_T = torch.arange(len(logits_TV), device=logits_TV.device)
        own_TV = constraints.apply(logits_TV, position_T, torch.full_like(position_T, LONGEST_OUTPUT))
        found[index] = argmax(own_TV).tolist()
    return found


def read_texts(
    pair: Pair, model: PreTrainedModel, sources: list[Sequence[int]], texts: list[Sequence[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return what `read_by` does of a model of a pair, its student or its teacher."""
    return read_by(Reader.of(pair, model), sources, texts)


def read_by(
    reader: Reader, sources: list[Sequence[int]], texts: list[Sequence[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return logits `[T + 1, V]` and what the output head read `[T + 1, D]`, of each text, float32.

    State t is the one before token t; state T the one after the last. Gradients flow where they are not switched off.

    Args:
        reader: The model.
        sources: Tokens of the sources (prompts, for causal models).
        texts: Tokens of the outputs.
    """
    model, device = reader.model, reader.device
    if model.config.is_encoder_decoder:
        prefixes: list[Sequence[int]] = [reader.start_ids] * len(texts)
        source_ids, source_mask = pad_with_mask(sources, reader.pad_id)
        inputs = {"input_ids": source_ids.to(device), "attention_mask": source_mask.to(device)}
        names = ("decoder_input_ids", "decoder_attention_mask")
    else:
        prefixes, inputs, names = sources, {}, ("input_ids", "attention_mask")
    whole = [[*prefix, *text] for prefix, text in zip(prefixes, texts, strict=True)]
    ids, mask = (part.to(device) for part in pad_with_mask(whole, reader.pad_id))
    chosen_BT = mask.bool()
    for row, prefix in enumerate(prefixes):
        chosen_BT[row, : len(prefix) - 1] = False
    read = read_at(model, {**inputs, names[0]: ids, names[1]: mask}, chosen_BT)
    lengths = [len(text) + 1 for text in texts]
    logits_NV = read.logits_NV[:, : reader.vocab_size].float()
    return list(logits_NV.split(lengths)), list(read.states_ND.float().split(lengths))
