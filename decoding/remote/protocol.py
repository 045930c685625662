"""What a remote teacher is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wheels.decoding.remote.prices import USED_NOTHING, Usage
from wheels.errors import WheelsError


@dataclass(frozen=True)
class TextSoFar:
    """A text that is to go on."""

    source: Sequence[int]
    """Tokens of the source, or of the prompt."""
    written: Sequence[int]
    """Tokens of the output so far."""
    limit: int
    """Tokens of the whole output at most."""
    seed: int = 0
    """The seed of the draws of its next tokens, where tokens are drawn."""

    @property
    def left(self) -> int:
        """Tokens that may still be written."""
        return self.limit - len(self.written)


@dataclass(frozen=True)
class Span:
    """What the teacher writes after a text."""

    tokens: tuple[int, ...]
    """Its tokens; none where the text ends here and the server does not show the end token."""
    ended: bool
    """Whether the text ends with them."""


@dataclass(frozen=True)
class Answer:
    """What one text was answered."""

    span: Span | None = None
    """What the teacher wrote; None: there is no answer."""
    error: WheelsError | None = None
    """Why there is none."""
    usage: Usage = USED_NOTHING
    """Its part of what the request used."""


@dataclass(frozen=True)
class Probe:
    """What a server has: found out once, before it is asked for anything that counts."""

    server: str
    """Who made it, as it says: `wheels`, `vllm`; or `unknown`."""
    name: str
    """What it calls the model in its answers."""
    limit: int | None
    """Tokens that the model reads at most; None: it does not say."""
    batches: bool
    """Whether one request may hold several texts."""
    log_probs: bool
    """Whether it gives log-probabilities."""
    usage: Usage = USED_NOTHING
    """What finding this out used."""

    @property
    def is_wheels(self) -> bool:
        """Whether it is `wheels serve`, which continues the outputs of encoder-decoders too."""
        return self.server == "wheels"

    def __str__(self) -> str:
        parts = [
            "token ids",
            "log-probabilities" if self.log_probs else "no log-probabilities",
            "several texts a request" if self.batches else "one text a request",
            "no limit known" if self.limit is None else f"{self.limit} tokens of context",
        ]
        return f"{self.name} ({self.server}): {', '.join(parts)}"
