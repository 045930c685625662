"""Timeouts, retries and backoff of a request."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)\s*([a-z]*)\.?", re.IGNORECASE)
_UNITS = {
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "millisecond": 1e-3,
    "milliseconds": 1e-3,
    "m": 60.0,
    "min": 60.0,
    "mins": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
}
_YEAR = 366 * 86400.0


@dataclass(frozen=True)
class Patience:
    """How long and how often a request is tried, and the waits in between."""

    attempts: int = 8
    """Requests for one item, at most."""
    timeout: float = 60.0
    """Seconds for one whole attempt, from the search for the host to the last byte."""
    base: float = 0.5
    """Seconds: attempt n waits a random part of `base * 2^n` (full jitter) ..."""
    cap: float = 30.0
    """... and of no more than this."""
    longest: float = 300.0
    """The longest `Retry-After` that is waited for, in seconds."""


def backoff(attempt: int, patience: Patience, draw: float) -> float:
    """Return the seconds to wait after attempt 0, 1, ...: `draw * min(cap, base * 2^attempt)`, draw in [0, 1].

    "Full jitter" (Brooker 2015, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    return draw * min(patience.cap, patience.base * 2.0 ** min(attempt, 60))


def wait_of(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the delay that a server asks for, in seconds, from `Retry-After` or `retry-after-ms`."""
    milliseconds = retry_after(headers.get("retry-after-ms"), now)
    return milliseconds / 1000.0 if milliseconds is not None else retry_after(headers.get("Retry-After"), now)


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the delay in a `Retry-After` header, in seconds, finite and >= 0; None if it holds none.

    A number of seconds or an HTTP date (RFC 9110, 10.2.3); and, as servers write them, a number with a unit (`30s`,
    `1.5 min`), an ISO date, and the seconds since 1970, which no wait of a year is.
    """
    text = (value or "").strip().strip('"')
    number = _NUMBER.fullmatch(text)
    if number:
        unit = _UNITS.get(number[2].lower())
        seconds = float(number[1]) * unit if unit is not None else math.nan
        if not number[2] and seconds > _YEAR:
            seconds -= now.timestamp()
    else:
        date = _date(text)
        seconds = (date - now).total_seconds() if date is not None else math.nan
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _date(text: str) -> datetime | None:
    """Parse an HTTP or ISO 8601 date; without a zone it is UTC."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = read(text)
            return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None
