"""Token ids in, token ids out: the `/v1/completions` of vLLM, which `wheels serve` speaks too, and what others have.

A causal model continues its prompt: the source and all that was written. `wheels serve` is sent the two apart
(`written_token_ids`), so that it continues the output of an encoder-decoder, and a model that has rules about the first
or the last token of an output knows where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wheels.decoding.remote.protocol import Answer, Span, TextSoFar
from wheels.decoding.remote.span import SpanRule
from wheels.decoding.sampling import Sampling
from wheels.endpoints.client import Client
from wheels.endpoints.dialects import ask
from wheels.endpoints.faults import AnswerUnusable, RequestRefused, mapping
from wheels.endpoints.probe import Probe
from wheels.endpoints.usage import usage_of
from wheels.errors import shown

OURS = {"method": "deferral", "teacher_budget": 1.0, "rule": "random"}
"""What makes `wheels serve` write with its teacher alone."""


class Completions:
    """A model behind `/v1/completions`, or what another server has in its place (`wheels.endpoints.dialects`).

    Args:
        client: Sends the requests.
        model: What the server knows the model by.
        probe: What the server has.
        vocab_size: Token ids are below it.
    """

    def __init__(self, client: Client, model: str, probe: Probe, vocab_size: int) -> None:
        self.client, self.model, self.probe, self.vocab_size = client, model, probe, vocab_size

    def reads(self, text: TextSoFar) -> int:
        """Return the tokens that the server reads for a text at most."""
        return len(text.source) + len(text.written)

    def write(self, texts: Sequence[TextSoFar], rule: SpanRule, sampling: Sampling) -> list[Answer]:
        """Return what is to come after each text, in one request.

        Raises:
            WheelsError: where the request fails or is refused (`wheels.endpoints.faults`), and so costs nothing.
        """
        body = self.body(texts, rule, sampling)
        whole = ask(self.client, body)
        answers = self.answers(whole, texts, rule)
        read = [len(text.source) + len(text.written) for text in texts]
        wrote = [0 if answer.span is None else len(answer.span.tokens) for answer in answers]
        parts = usage_of(mapping(whole.get("usage")), sum(read), sum(wrote)).shared(read, wrote)
        return [replace(answer, usage=usage) for answer, usage in zip(answers, parts, strict=True)]

    def body(self, texts: Sequence[TextSoFar], rule: SpanRule, sampling: Sampling) -> dict[str, Any]:
        """Return the body of a request."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": rule.most,
            "temperature": sampling.temperature,
            "return_token_ids": True,
        }
        if self.probe.is_wheels:
            body |= OURS
            body["prompt"] = [list(text.source) for text in texts]
            body["written_token_ids"] = [list(text.written) for text in texts]
            body["text_limits"] = [text.limit for text in texts]
        else:
            prompts = [[*text.source, *text.written] for text in texts]
            body["prompt"] = prompts if self.probe.batches else prompts[0]
            body["repetition_penalty"] = 1.0  # else it may be that of the model's `generation_config.json`
        if rule.stops:
            body["stop"] = list(rule.stops)
        return body | self._sampled(texts, sampling)

    def _sampled(self, texts: Sequence[TextSoFar], sampling: Sampling) -> dict[str, Any]:
        """Return what a request is told of its draws; texts that draw have one each."""
        if sampling.greedy:
            return {}
        drawn = {"top_p": sampling.top_p, "seed": texts[0].seed}
        return drawn | ({"top_k": sampling.top_k} if sampling.top_k else {})

    def answers(self, whole: Mapping[str, Any], texts: Sequence[TextSoFar], rule: SpanRule) -> list[Answer]:
        """Return what a whole answer holds for each text of its request.

        It was paid for, so what is wrong with it is not asked for again, and what is wrong with one text's part leaves
        the others as they are.
        """
        found, count = {mapping(choice).get("index"): mapping(choice) for choice in whole["choices"]}, len(texts)
        if whole.get("model") != self.probe.name:
            given = shown(whole.get("model"))
            return [self._unusable(f"answers with another model: expected {self.probe.name!r}, got {given}")] * count
        if len(whole["choices"]) != count or set(found) != set(range(count)):
            return [self._unusable(f"answers with choices {sorted(map(str, found))} to {count} texts")] * count
        return [self._answer(found[index], text, rule) for index, text in enumerate(texts)]

    def _answer(self, choice: Mapping[str, Any], text: TextSoFar, rule: SpanRule) -> Answer:
        """Return what a choice holds, or what is wrong with it."""
        ids, reason, most = choice.get("token_ids"), choice.get("finish_reason"), rule.most
        if wrong := self._unfinished(reason):
            return wrong
        if not isinstance(ids, list) or any(not isinstance(token, int) or isinstance(token, bool) for token in ids):
            return self._unusable(f"answers without token ids: {shown(ids)}")
        if bad := [token for token in ids if not 0 <= token < self.vocab_size]:
            return self._unusable(f"answers with token id {bad[0]}; the student has ids below {self.vocab_size}")
        if len(ids) > most or (not ids and reason == "length"):
            return self._unusable(f"answers with {len(ids)} tokens, where 1 to {most} were asked for")
        return Answer(Span(tuple(ids), reason == "stop" and not isinstance(choice.get("stop_reason"), str)))

    def _unfinished(self, reason: Any) -> Answer | None:
        """Return what is wrong with the end of a text; None: nothing."""
        if reason in ("stop", "length"):
            return None
        told = f"ends a text with {shown(reason)}, and not stop or length"
        return Answer(error=RequestRefused(self.client.with_address(told)))

    def _unusable(self, told: str) -> Answer:
        return Answer(error=AnswerUnusable(self.client.with_address(told)))
