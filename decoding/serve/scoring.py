"""Texts that clients bring, scored by one model: vLLM's `prompt_logprobs`, from one pass over each text.

A text is what stands in `written_token_ids` after its prompt; without these it is the prompt, of which a causal model
predicts all but the first token. Tokens that are not predicted have null, and so have those of a prompt that is only
read. Passes take their turns with the engines' steps.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import wheels
from wheels.decoding.remote.prices import Prices
from wheels.decoding.serve.cost import Cost
from wheels.decoding.serve.errors import Refused
from wheels.decoding.teacher_forcing import read_texts
from wheels.endpoints.scoring import TokenScores, scores_of
from wheels.models.pair import Pair

MOST_VALUES = 1 << 17
"""Log-probabilities of an answer at most."""


@dataclass(eq=False)
class ScoreJob:
    """Texts to be scored."""

    sources: Sequence[Sequence[int]]
    """What is read before each text."""
    texts: Sequence[Sequence[int]]
    silent: Sequence[int]
    """Tokens before each text that the answer has a null for."""
    k: int
    student: bool = False
    """Whether the student scores them, not the teacher."""
    found: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when all are scored."""
    scores: list[TokenScores] = field(default_factory=list)
    """Of the first texts."""

    @property
    def read(self) -> int:
        """Tokens of all texts and what stands before them."""
        return sum(map(len, self.sources)) + sum(map(len, self.texts))

    @property
    def cost(self) -> Cost:
        """What it takes of the models."""
        if self.student:
            return Cost(student_passes=len(self.texts))
        return Cost(teacher_passes=len(self.texts), read=self.read, alone_read=self.read)


def score_job(
    pair: Pair,
    prompts: Sequence[list[int]],
    longest: int,
    k: int,
    written: Sequence[list[int]] | None = None,
    *,
    student: bool = False,
) -> ScoreJob:
    """Return the job of a request.

    Args:
        pair: The models.
        prompts: The tokens of its prompts.
        longest: Tokens of a prompt, and of what stands after it, at most.
        k: How many of the best tokens are told of in each place.
        written: What stands after each prompt, and is scored; None: the prompts are.
        student: Whether the student scores, not the teacher.

    Raises:
        Refused: for texts without a token to be predicted, tokens that are none, and texts that are too long.
    """
    if written is None and (pair.is_seq2seq or min(map(len, prompts)) < 2):
        told = "predicts no token of its source; give the text in written_token_ids" if pair.is_seq2seq else ""
        raise Refused(400, f"the model {told or 'predicts tokens after the first; give two or more'}", param="prompt")
    if written is not None and (len(written) != len(prompts) or not all(written)):
        told = f"written_token_ids needs one text, not empty, for each of {len(prompts)} prompts, got {len(written)}"
        raise Refused(400, told, param="written_token_ids")
    sources = prompts if written is not None else [prompt[:1] for prompt in prompts]
    texts = written if written is not None else [prompt[1:] for prompt in prompts]
    if bad := [token for text in texts for token in text if token >= pair.vocab_size]:
        told = f"written_token_ids has token id {bad[0]}; ids are below {pair.vocab_size}"
        raise Refused(400, told, param="written_token_ids")
    if not 1 <= k <= pair.vocab_size:
        raise Refused(400, f"prompt_logprobs must be in 1 to {pair.vocab_size}, got {k}", param="prompt_logprobs")
    long = [len(text) for source, text in zip(sources, texts, strict=True) if not _fits(pair, source, text, longest)]
    if long:
        told = f"a text of {long[0]} tokens is more than the {longest} that are read with what stands before it"
        raise Refused(400, told, param="prompt", code="context_length_exceeded")
    if (values := sum(map(len, texts)) * (k + 1)) > MOST_VALUES:
        told = f"{values} log-probabilities are asked for, and {MOST_VALUES} are told at a time; ask for fewer texts"
        raise Refused(400, told, param="prompt_logprobs")
    silent = [len(source) for source in sources]
    return ScoreJob(sources, texts, silent, k, student)


def _fits(pair: Pair, source: Sequence[int], text: Sequence[int], longest: int) -> bool:
    return pair.fits(source, text) and len(text) <= longest


@torch.no_grad()
def score_next(pair: Pair, job: ScoreJob, rows: int) -> bool:
    """Score the next texts of a job in one pass, and return whether it is done."""
    start = len(job.scores)
    sources, texts = list(job.sources[start : start + rows]), list(job.texts[start : start + rows])
    read, _ = read_texts(pair, pair.student if job.student else pair.teacher, sources, texts)
    job.scores += [scores_of(logits[:-1], text, job.k) for logits, text in zip(read, texts, strict=True)]
    return len(job.scores) == len(job.texts)


def scores_reply(pair: Pair, job: ScoreJob, model: str, prices: Prices | None) -> dict[str, Any]:
    """Return the answer to a request whose texts are scored."""
    usage: dict[str, Any] = {"prompt_tokens": job.read, "completion_tokens": 0, "total_tokens": job.read}
    if prices is not None:
        usage["dollars"] = job.cost.dollars(prices)
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"wheels-{wheels.__version__}",
        "choices": [_choice(pair, job, index) for index in range(len(job.texts))],
        "usage": usage,
    }


def _choice(pair: Pair, job: ScoreJob, index: int) -> dict[str, Any]:
    """Return what one text is told of: its nulls, and then a mapping for each token."""
    scores, silent = job.scores[index], [None] * job.silent[index]
    spelt = {token: str(pair.tokenizer.decode([token])) for token in scores.ids_TK.unique().tolist()}
    places = zip(
        scores.ids_TK.tolist(), scores.log_p_TK.tolist(), job.texts[index], scores.log_p_token_T.tolist(), strict=True
    )
    told: list[dict[str, Any]] = []
    for ids, values, token, own in places:
        row = {
            str(each): {"logprob": value, "rank": rank, "decoded_token": spelt[each]}
            for rank, (each, value) in enumerate(zip(ids, values, strict=True), 1)
        }
        row.setdefault(str(token), {"logprob": own, "rank": None, "decoded_token": str(pair.tokenizer.decode([token]))})
        told.append(row)
    return {
        "index": index,
        "text": "",
        "finish_reason": "length",
        "logprobs": None,
        "prompt_logprobs": [*silent, *told],
        "prompt_rest_logprobs": [*silent, *scores.log_rest_T.tolist()],
    }
