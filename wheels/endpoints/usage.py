"""What requests used: tokens as a server counts them. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """What some requests used. A text's own part may be a fraction of a token."""

    requests: int = 0
    """Requests that were answered."""
    prompt: float = 0.0
    """Tokens that the server read, those from its cache among them."""
    cached: float = 0.0
    """Tokens of these that were in its cache."""
    completion: float = 0.0
    """Tokens that it wrote."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
        )

    def shared(self, read: Sequence[int], wrote: Sequence[int]) -> list[Usage]:
        """Split the usage of one request among its texts: by the tokens of each prompt, and those written after it."""
        parts = [_shares(self.prompt, read), _shares(self.cached, read), _shares(self.completion, wrote)]
        return [Usage(self.requests, *own) for own in zip(*parts, strict=True)]


USED_NOTHING = Usage()


def _shares(total: float, weights: Sequence[int]) -> list[float]:
    """Split a number by weights; evenly, where all of them are 0."""
    whole = sum(weights)
    return [total * (weight / whole if whole else 1 / len(weights)) for weight in weights]


def usage_of(told: Mapping[str, Any], read: int, wrote: int) -> Usage:
    """Return a server's `usage`; what it leaves out, or tells wrongly, is counted here.

    Args:
        told: The object of an answer.
        read: Tokens of its prompts.
        wrote: Tokens that it holds.
    """
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    prompt = _count(told.get("prompt_tokens"), read)
    return Usage(1, prompt, min(prompt, _count(cached, 0)), _count(told.get("completion_tokens"), wrote))


def _count(value: Any, otherwise: int) -> int:
    """Return a count of tokens as a server tells it."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise
