"""Token ids in, token ids out: the `/v1/completions` of vLLM, which `wheels serve` speaks too.

A causal model continues its prompt: the source and all that was written. `wheels serve` is sent the two apart
(`written_token_ids`), so that it continues the output of an encoder-decoder, and a model that has rules about the first
or the last token of an output knows where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wheels.decoding.remote.protocol import Probe, Span, TextSoFar
from wheels.decoding.remote.span import SpanRule
from wheels.decoding.sampling import Sampling
from wheels.endpoints.client import Client, content_of
from wheels.endpoints.faults import Again, AnswerUnusable, RequestRefused, mapping, raise_error_of
from wheels.errors import WheelsError, shown
from wheels.json_text import parse_json

Answer = Span | WheelsError
"""What a text was answered, or why it has no answer."""
OURS = {"method": "deferral", "teacher_budget": 1.0, "rule": "random"}
"""What makes `wheels serve` write with its teacher alone."""


class Completions:
    """A model behind `/v1/completions`.

    Args:
        client: Sends the requests.
        model: What the server knows the model by.
        probe: What the server has.
        vocab_size: Token ids are below it.
    """

    def __init__(self, client: Client, model: str, probe: Probe, vocab_size: int) -> None:
        self.client, self.model, self.probe, self.vocab_size = client, model, probe, vocab_size

    def write(self, texts: Sequence[TextSoFar], rule: SpanRule, sampling: Sampling) -> list[Answer]:
        """Return what is to come after each text, in one request; an error where a text has no answer.

        Raises:
            WheelsError: where the request fails, or is refused, or its answer is not one (`wheels.endpoints.faults`).
        """
        body = self.body(texts, rule, sampling)
        return self.client.retried(lambda: self.answers(content_of(self.client.fetch(body)), len(texts), rule.most))

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
        if rule.stops:
            body["stop"] = list(rule.stops)
        if not sampling.greedy:
            body |= {"top_p": sampling.top_p, "seed": texts[0].seed}
            body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        return body

    def answers(self, content: bytes, count: int, most: int) -> list[Answer]:
        """Return what an answer holds for each text of its request.

        What is wrong with one text's part leaves the others as they are: they were paid for.

        Raises:
            Again: for what is no JSON: an answer that was cut short on its way.
            RequestRefused, ServerRefused: for an error in place of an answer.
            AnswerUnusable: for an answer of another model, or to another request. It was paid for, so it is not asked
                for again.
        """
        whole = json_of(content)
        choices = whole.get("choices")
        if not isinstance(choices, list) or not choices:
            raise_error_of(whole)
        if whole.get("model") != self.probe.name:
            given = f"got one of {shown(whole.get('model'))}"
            raise AnswerUnusable(f"answers with another model: expected {self.probe.name!r}, {given}")
        found = {mapping(choice).get("index"): mapping(choice) for choice in choices}
        if len(choices) != count or set(found) != set(range(count)):
            raise AnswerUnusable(f"answers with choices {sorted(map(str, found))} to {count} texts")
        return [self._answer(found[index], most) for index in range(count)]

    def _answer(self, choice: Any, most: int) -> Answer:
        """Return what a choice holds, or what is wrong with it."""
        ids, reason = choice.get("token_ids"), choice.get("finish_reason")
        if reason not in ("stop", "length"):
            return RequestRefused(self.client.with_address(f"ends a text with {shown(reason)}, and not stop or length"))
        if not isinstance(ids, list) or any(not isinstance(token, int) or isinstance(token, bool) for token in ids):
            wrong = f"answers without token ids: {shown(ids)}"
        elif bad := [token for token in ids if not 0 <= token < self.vocab_size]:
            wrong = f"answers with token id {bad[0]}; the student has ids below {self.vocab_size}"
        elif len(ids) > most or (not ids and reason == "length"):
            wrong = f"answers with {len(ids)} tokens, where 1 to {most} were asked for"
        else:
            return Span(tuple(ids), reason == "stop" and not isinstance(choice.get("stop_reason"), str))
        return AnswerUnusable(self.client.with_address(wrong))


def json_of(content: bytes) -> dict[str, Any]:
    """Return the object of an answer.

    Raises:
        Again: where it is none.
    """
    try:
        value = parse_json(content, "the answer")
    except WheelsError:
        raise Again("an answer that is no JSON") from None
    if not isinstance(value, dict):
        raise Again("an answer that is no JSON object")
    return value
