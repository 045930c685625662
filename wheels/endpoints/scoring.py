"""A model at an address that scores tokens it did not write: the likeliest at each place, and the token itself.

The request is vLLM's `prompt_logprobs` of `/v1/completions`: every token of a prompt, and beside each the k likeliest
in its place. `wheels serve` speaks it too. There the source and the text go apart (`written_token_ids`), so that it
scores the outputs of encoder-decoders, and the mass of all other tokens comes along (`prompt_rest_logprobs`). Of vLLM
that mass is what is left of 1, which float32 knows to about 1e-7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch

from wheels.endpoints.client import Client
from wheels.endpoints.dialects import ask, teacher_url
from wheels.endpoints.faults import AnswerUnusable, mapping
from wheels.endpoints.probe import Probe, probe_of
from wheels.endpoints.retry import Patience
from wheels.endpoints.usage import USED_NOTHING, Usage, usage_of
from wheels.errors import WheelsError, shown
from wheels.models.loading import Tokenizer
from wheels.secret import DEFAULT_KEY

MOST_VALUES = 1 << 15
"""Log-probabilities of an answer at most, unless one text has more: JSON of about two million bytes."""
MOST_TEXTS = 32
"""Texts of a request at most."""
WORKERS = 4
"""Requests at a time."""
LEAST_REST = 1e-7
"""The mass of all other tokens at least, where a server does not tell it: one rounding of float32."""
LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What a model says in place of each of the T tokens of a text: float32, nats."""

    ids_TK: torch.Tensor
    """The k likeliest tokens, the likeliest first, int64."""
    log_p_TK: torch.Tensor
    """Their log-probabilities."""
    log_rest_T: torch.Tensor
    """The log-probability of all other tokens together; of none, the lowest number."""
    log_p_token_T: torch.Tensor
    """That of the text's own token."""


def scores_of(logits_TV: torch.Tensor, text: Sequence[int], k: int) -> TokenScores:
    """Return the scores of a text from a model's logits before each of its tokens."""
    log_p_TV = logits_TV.float().log_softmax(-1)
    top_TK, ids_TK = log_p_TV.topk(k, dim=-1)
    others_TV = log_p_TV.scatter(-1, ids_TK, -math.inf)
    text_T1 = torch.tensor(text, device=logits_TV.device)[:, None]
    return TokenScores(
        ids_TK.cpu(),
        top_TK.cpu(),
        others_TV.logsumexp(-1).clamp(min=LOWEST).cpu(),
        log_p_TV.gather(1, text_T1).squeeze(1).clamp(min=LOWEST).cpu(),
    )


class ScoringTeacher:
    """A model behind a server of vLLM, SGLang or `wheels serve` that scores texts for the training of a student.

    Args:
        client: Sends the requests.
        model: What the server knows the model by.
        probe: What the server has.
        vocab_size: The student's token ids are below it.
        is_seq2seq: Whether the student is an encoder-decoder.

    Raises:
        WheelsError: where the server cannot score the texts of such a student.
    """

    def __init__(self, client: Client, model: str, probe: Probe, *, vocab_size: int, is_seq2seq: bool) -> None:
        self.client, self.model, self.probe, self.vocab_size = client, model, probe, vocab_size
        self.usage: Usage = USED_NOTHING
        """What its requests used."""
        if probe.difference is not None:
            raise WheelsError(f"{probe.difference}; a teacher that scores texts needs the student's tokens")
        if is_seq2seq and not probe.is_wheels:
            raise WheelsError(
                f"{client.url} scores prompts, and the student is an encoder-decoder, whose outputs are in none; serve "
                "its teacher by `wheels serve`"
            )

    @classmethod
    @contextmanager
    def at(
        cls,
        url: str,
        model: str,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        is_seq2seq: bool,
        key_variable: str = DEFAULT_KEY,
        patience: Patience | None = None,
    ) -> Iterator[ScoringTeacher]:
        """Yield the model at an address, once it is known to have the student's tokenizer.

        Args:
            url: The server, such as `http://host:8000/v1`.
            model: What the server knows the model by.
            tokenizer: The student's.
            vocab_size: As for the class.
            is_seq2seq: As for the class.
            key_variable: The environment variable that holds the server's key; the default one may be missing, for no
                key.
            patience: How long and how often a request is tried; None: as `Patience` has it.

        Raises:
            WheelsError: where the server does not answer, or cannot be a teacher of this student.
        """
        client = Client(teacher_url(url), key_variable=key_variable, patience=patience, workers=WORKERS)
        with closing(client):
            found = probe_of(client, model, tokenizer)
            yield cls(client, model, found, vocab_size=vocab_size, is_seq2seq=is_seq2seq)

    def score(self, sources: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], k: int) -> list[TokenScores]:
        """Return the scores of each text after its source.

        Args:
            sources: Tokens of the sources (prompts, for causal models).
            texts: Tokens of the outputs, each at least one.
            k: Tokens that are told at each place.

        Raises:
            WheelsError: for a server that fails, or gives no log-probabilities of a prompt.
        """
        requests = list(self._requests(sources, texts, k))
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="scores") as pool:
            try:
                found = list(pool.map(lambda request: self._asked(request[0], request[1], k), requests))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [scores for several in found for scores in several]

    def _requests(
        self, sources: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], k: int
    ) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
        """Yield the sources and the texts that share a request."""
        start, values = 0, 0
        for place, (source, text) in enumerate(zip(sources, texts, strict=True)):
            own = (len(text) + (0 if self.probe.is_wheels else len(source))) * (k + 1)
            most = MOST_TEXTS if self.probe.batches else 1
            if place > start and (place - start == most or values + own > MOST_VALUES):
                yield [*map(list, sources[start:place])], [*map(list, texts[start:place])]
                start, values = place, 0
            values += own
        if start < len(texts):
            yield [*map(list, sources[start:])], [*map(list, texts[start:])]

    def _asked(self, sources: list[list[int]], texts: list[list[int]], k: int) -> list[TokenScores]:
        """Return the scores of some texts, from one request."""
        body: dict[str, Any] = {"model": self.model, "prompt_logprobs": k, "temperature": 0.0}
        if self.probe.is_wheels:
            body |= {"prompt": sources, "written_token_ids": texts, "max_tokens": 0}
        else:
            prompts = [[*source, *text] for source, text in zip(sources, texts, strict=True)]
            body |= {"prompt": prompts if self.probe.batches else prompts[0], "max_tokens": 1}
        whole = ask(self.client, body)
        read = sum(map(len, sources)) + sum(map(len, texts))
        self.usage += usage_of(mapping(whole.get("usage")), read, 0)
        found = {mapping(choice).get("index"): mapping(choice) for choice in whole["choices"]}
        if whole.get("model") != self.probe.name:
            raise self._unusable(
                f"answers with another model: expected {self.probe.name!r}, got {shown(whole.get('model'))}"
            )
        if len(whole["choices"]) != len(texts) or set(found) != set(range(len(texts))):
            raise self._unusable(f"answers with choices {sorted(map(str, found))} to {len(texts)} texts")
        return [self._scores(found[place], text, k) for place, text in enumerate(texts)]

    def _scores(self, choice: Mapping[str, Any], text: Sequence[int], k: int) -> TokenScores:
        """Return the scores of one text, or raise what is wrong with them."""
        told, rests = choice.get("prompt_logprobs"), choice.get("prompt_rest_logprobs")
        if not isinstance(told, list):
            raise AnswerUnusable(
                self.client.with_address(
                    "gives no log-probabilities of a prompt (prompt_logprobs); a teacher that scores texts is a server "
                    "of vLLM, SGLang or `wheels serve`"
                )
            )
        own = told[-len(text) :]
        rests = rests[-len(text) :] if isinstance(rests, list) else [None] * len(own)
        if len(own) != len(text) or len(rests) != len(text):
            raise self._unusable(f"answers with the log-probabilities of {len(told)} tokens to a text of {len(text)}")
        rows = [self._row(each, token, rest, k) for each, token, rest in zip(own, text, rests, strict=True)]
        ids, values, left, written = zip(*rows, strict=True)
        return TokenScores(torch.tensor(ids), torch.tensor(values), torch.tensor(left), torch.tensor(written))

    def _row(self, told: Any, token: int, rest: Any, k: int) -> tuple[list[int], list[float], float, float]:
        """Return the k likeliest ids in one place, their log-probabilities, that of the rest, and of the token."""
        known: dict[int, float] = {}
        for name, value in mapping(told).items():
            log_p = mapping(value).get("logprob")
            if not name.isdecimal() or not _is_log_prob(log_p) or int(name) >= self.vocab_size:
                given = f"{shown(name)}: {shown(log_p)}"
                raise self._unusable(f"answers with {given} among log-probabilities; ids are below {self.vocab_size}")
            known[int(name)] = float(log_p)
        if token not in known or len(known) < k:
            raise self._unusable(f"answers with {len(known)} log-probabilities in a place, where {k} were asked for")
        best = sorted(known, key=lambda each: -known[each])[:k]
        values = [known[each] for each in best]
        if not _is_log_prob(rest):
            left = 0.0 if k == self.vocab_size else max(LEAST_REST, 1.0 - math.fsum(map(math.exp, values)))
            rest = math.log(left) if left else LOWEST
        return best, values, float(rest), known[token]

    def _unusable(self, told: str) -> AnswerUnusable:
        return AnswerUnusable(self.client.with_address(told))


def _is_log_prob(value: Any) -> TypeGuard[float]:
    """Whether a value is a log-probability, as far as rounding lets it be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < 1e-3
