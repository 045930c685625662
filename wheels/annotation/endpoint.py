"""A chat model at an OpenAI-compatible endpoint: a prompt in, an answer out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from wheels.annotation.answer import Answer, answer_of
from wheels.endpoints.address import endpoint_url
from wheels.endpoints.client import Client
from wheels.endpoints.retry import Patience
from wheels.secret import DEFAULT_KEY, RUN

Ask = Callable[[str, str], Answer]
"""(prompt, idempotency key) -> answer; see `Endpoint.ask`."""


class Endpoint(Client):
    """One model at an address, shared by threads."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = DEFAULT_KEY,
        max_tokens: int = 256,
        patience: Patience | None = None,
        workers: int = 8,
        seed: int | None = None,
    ) -> None:
        """Prepare a client; nothing is sent.

        Args:
            url: see `wheels.endpoints.address.endpoint_url`.
            model: the name that the server knows it by.
            key_variable: the environment variable that holds the key; the default one may be missing, for no key.
            max_tokens: the longest answer.
            patience: how long and how often.
            workers: connections that are kept open.
            seed: of the waits.

        Raises:
            WheelsError: for an address, a key or a proxy that cannot be used.
        """
        address = endpoint_url(url, "/chat/completions")
        super().__init__(address, key_variable=key_variable, patience=patience, workers=workers, seed=seed)
        self.model = model
        self._options = {"temperature": 0.0, "max_tokens": max_tokens}

    def ask(self, prompt: str, key: str) -> Answer:
        """Return the model's answer to a prompt, decoded as greedily as the server allows.

        Args:
            prompt: the text of the one message.
            key: names the item; the same in every attempt, of this run and of the next.

        Raises:
            RequestFailed, RequestRefused, ServerRefused: as `Client.retried`.
        """
        return self.retried(lambda: self._masked(self._attempt(prompt, key)))

    def _attempt(self, prompt: str, key: str) -> Answer:
        """Return the answer to one request."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], **self._options}
        return answer_of(self.posted(body, key))

    def _masked(self, answer: Answer) -> Answer:
        """Return an answer with the key masked; one that repeats it is no label. A word such as `EMPTY` is no key."""
        if len(self.key.value) < RUN and self.key.value.isalpha():
            return answer
        text = self.key.mask(answer.text)
        return answer if text == answer.text else replace(answer, text=text, flaw="repeats the key")
