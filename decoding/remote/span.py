"""How much one call of a remote teacher buys. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wheels.errors import WheelsError

LONGEST = 64
"""Tokens of a sentence or a line at most."""
MOST = 4096
"""Tokens of any call at most."""
STOPS = {"sentence": (". ", "! ", "? ", "\n"), "line": ("\n",)}
"""The texts that end a call; the token that completes one is a part of it."""
FORMS = "tokens:N, sentence or line"
AUTO = "auto"
"""The word for calls whose length is chosen, each by what it is expected to gain (`wheels.decoding.remote.auto`)."""


@dataclass(frozen=True)
class SpanRule:
    """Where a call ends."""

    most: int = 1
    """Tokens at most."""
    stops: tuple[str, ...] = ()
    """Texts that end it before."""
    chosen: bool = False
    """Whether each call says how many tokens it buys."""

    def end_in(self, text: str) -> int:
        """Return where a text ends by this rule; its length, where none of the texts that end a call is in it."""
        ends = [text.index(stop) + len(stop) for stop in self.stops if stop in text]
        return min(ends, default=len(text))

    @classmethod
    def of(cls, given: str) -> SpanRule:
        """Return the rule of `tokens:N`, `sentence`, `line` or `auto`.

        Raises:
            WheelsError: for anything else.
        """
        if given in STOPS:
            return cls(LONGEST, STOPS[given])
        if given == AUTO:
            return cls(LONGEST, chosen=True)
        number = re.fullmatch(r"tokens:([0-9]{1,5})", given)
        if number is None or not 1 <= int(number[1]) <= MOST:
            raise WheelsError(f"span must be {FORMS} with N in 1 to {MOST}, or {AUTO}, got {given!r}")
        return cls(int(number[1]))


def span_option(make: Callable[..., Any]) -> Any:
    """Return the field of what a call buys of a teacher with other tokens, made by an option group."""
    return make(
        "tokens:1", f"how much one call buys of a teacher with a tokenizer of its own: {FORMS}", check=check_span
    )


def check_span(name: str, given: str) -> None:
    """Raise a `WheelsError` for what is no span; the check of an option."""
    SpanRule.of(given)
