"""What calls cost. Imports nothing heavy.

Money is counted in whole picodollars (1e-12), so sums do not round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wheels.endpoints.usage import Usage
from wheels.errors import WheelsError, check_number

PICO = 10**12
"""Picodollars of a dollar."""
KINDS = ("prompt", "cached", "completion")


@dataclass(frozen=True)
class Prices:
    """Dollars for a million tokens.

    Raises:
        WheelsError: for a price that is none.
    """

    prompt: float
    """Of tokens that are read."""
    completion: float
    """Of tokens that are written."""
    cached: float | None = None
    """Of tokens that are read from the server's cache; None: as much as of any other."""

    def __post_init__(self) -> None:
        """Check the prices."""
        for kind in KINDS:
            if getattr(self, kind) is not None:
                check_number(f"the price of {kind} tokens", getattr(self, kind), 0)

    @classmethod
    def of(cls, given: Sequence[str]) -> Prices:
        """Return the prices of words such as `prompt=0.40`.

        Raises:
            WheelsError: for another word, one that is missing, or no number.
        """
        found: dict[str, float] = {}
        for word in given:
            kind, _, number = word.partition("=")
            try:
                found[kind] = float(number)
            except ValueError:
                found[kind] = math.nan
            if kind not in KINDS or math.isnan(found[kind]):
                raise WheelsError(f"prices must be like prompt=0.40,cached=0.10,completion=1.60, got {word!r}")
        if not {"prompt", "completion"} <= set(found) or len(found) < len(given):
            raise WheelsError(f"prices must have prompt and completion, each once, got {','.join(given)}")
        return cls(**found)

    def pico(self, usage: Usage) -> int:
        """Return what tokens cost, in picodollars; a millionth of a dollar a token is a million of them."""
        cached = self.prompt if self.cached is None else self.cached
        rates = (usage.prompt - usage.cached, self.prompt), (usage.cached, cached), (usage.completion, self.completion)
        return round(sum(tokens * round(price * 10**6) for tokens, price in rates))

    def dollars(self, usage: Usage) -> float:
        """Return what tokens cost, in dollars."""
        return self.pico(usage) / PICO


def prices_option(make: Callable[..., Any]) -> Any:
    """Return the field that takes prices, made by an option group."""
    return make((), "dollars for a million tokens, such as prompt=0.40,cached=0.10,completion=1.60", check=check_prices)


def check_prices(name: str, word: str) -> None:
    """Raise a `WheelsError` for a word that is no price; the check of an option."""
    kind, _, _ = word.partition("=")
    other = "completion=0" if kind == "prompt" else "prompt=0"
    Prices.of((word, other) if kind in ("prompt", "completion") else (word, "prompt=0", "completion=0"))


@dataclass(frozen=True)
class Bill:
    """What one output cost."""

    usage: Usage
    """Its part of the requests that it took part in."""
    dollars: float | None
    """What that cost; None: no prices are known."""
    teacher_dollars: float | None
    """What the teacher alone would have cost for as many tokens, in one request."""

    def to_json(self) -> dict[str, Any]:
        """Return the bill as a JSON object."""
        return asdict(self.usage) | {"dollars": self.dollars, "teacher_dollars": self.teacher_dollars}


def bill_of(prices: Prices | None, usage: Usage, source: int, tokens: int) -> Bill:
    """Return the bill of an output.

    Args:
        prices: What tokens cost.
        usage: What it used.
        source: Tokens of its source, or of its prompt.
        tokens: Tokens that were written.
    """
    if prices is None:
        return Bill(usage, None, None)
    return Bill(usage, prices.dollars(usage), prices.dollars(Usage(1, source, 0, tokens)))
