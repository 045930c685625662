"""A ledger of what a teacher may cost: set aside before a request is made, and settled after it.

Dollars and written tokens are reserved, as many as a request can take at most; after it what the server's `usage` says
is settled, and the rest is free again. At every moment settled + reserved <= limit, from any number of threads.
Requests are counted as they are sent, those of the probe and every new attempt among them.

With a file each step is on disk before the next. What a killed run left reserved counts as spent, for its answer may
have been paid for.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wheels.decoding.remote.lease import Lease
from wheels.decoding.remote.prices import PICO, Prices
from wheels.endpoints.usage import Usage
from wheels.errors import WheelsError, check_number, check_whole
from wheels.runs import append_line, checked, checked_object, locked, mend

log = logging.getLogger("wheels")

EVENTS = ("reserve", "send", "settle", "release")


class OverLimit(WheelsError):
    """A request that a limit does not allow, and that was not sent."""


class Ledger:
    """What one teacher cost so far, and may still cost; shared by threads.

    Args:
        prices: What tokens cost; None: nothing, and only tokens are counted.
        budget: Dollars that may be spent, what the file holds already among them; None: no limit.
        path: A file that keeps account, so that another run with it goes on; None: this run alone.
        max_requests: Requests that may be sent; None: no limit.
        max_tokens: Tokens that the teacher may write; None: no limit.

    Raises:
        WheelsError: for a budget without prices, a file that is damaged, or held by another process.
    """

    def __init__(
        self,
        prices: Prices | None = None,
        budget: float | None = None,
        path: str | Path | None = None,
        *,
        max_requests: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        if prices is None and budget is not None:
            raise WheelsError("a budget in dollars needs prices: give prompt=..., completion=...")
        self.prices = prices
        self.budget = None if budget is None else round(check_number("budget_dollars", budget, 0) * PICO)
        self.max_requests = None if max_requests is None else check_whole("max_teacher_requests", max_requests)
        self.max_tokens = None if max_tokens is None else check_whole("max_teacher_tokens", max_tokens)
        self.path = None if path is None else Path(path)
        self.usage = Usage()
        """What the requests of this run used, as far as they were answered."""
        self.spent = self.reserved = 0
        """Picodollars that are settled, with the file's, and those reserved."""
        self.tokens = self.reserved_tokens = 0
        """Tokens that the teacher wrote, with the file's, and those reserved."""
        self.requests = 0
        """Requests that were sent, with the file's."""
        self.lease: Lease | None = None
        """What the limits are parts of, where shards keep them together."""
        self._open: dict[int, tuple[int, int]] = {}
        self._next = 0
        self._mutex, self._held = threading.Lock(), ExitStack()
        if self.path is not None:
            self._held.enter_context(locked(Path(f"{self.path}.lock"), self.path))
            self._replay(self.path)

    def __str__(self) -> str:
        ceiling = "" if self.budget is None else f" of ${self.budget / PICO:.6f}"
        money = "" if self.prices is None else f"${self.spent / PICO:.6f}{ceiling} spent, "
        return f"{money}{self.requests:,} requests sent, {self.tokens:,} tokens written"

    def close(self) -> None:
        """Give the file up to others."""
        self._held.close()

    def join(self, lease: Lease) -> None:
        """Take the limits of a lease, and more as other shards leave some."""
        self.lease = lease
        self._refresh()

    def leave(self) -> None:
        """Leave what was not spent to the other shards."""
        if self.lease is not None:
            self.lease.leave({"dollars": self.spent, "requests": self.requests, "tokens": self.tokens})

    def _refresh(self) -> None:
        """Take in what the lease has now."""
        if self.lease is not None:
            held = self.lease.held()
            self.budget, self.max_requests = held.get("dollars"), held.get("requests")
            self.max_tokens = held.get("tokens")

    def reserve(self, prompt: int, completion: int) -> int:
        """Set aside what a request costs at most; return its number.

        Args:
            prompt: Tokens that the server reads.
            completion: Tokens that it writes at most.

        Raises:
            OverLimit: where not so much is left.
        """
        cost = self.cost_of(prompt, completion)
        with self._mutex:
            self._refresh()
            if self.budget is not None and self.spent + self.reserved + cost > self.budget:
                raise OverLimit(f"budget_dollars {self.budget / PICO:g} has not enough left for another call")
            if self.max_tokens is not None and self.tokens + self.reserved_tokens + completion > self.max_tokens:
                raise OverLimit(f"max_teacher_tokens {self.max_tokens} has not enough left for another call")
            self._next += 1
            self._write("reserve", self._next, {"tokens": completion}, cost)
            self._open[self._next] = cost, completion
            self.reserved, self.reserved_tokens = self.reserved + cost, self.reserved_tokens + completion
            return self._next

    def send(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            OverLimit: where it would be one too many.
        """
        with self._mutex:
            self._refresh()
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise OverLimit(f"max_teacher_requests {self.max_requests} are sent, and no other may be")
            self._write("send")
            self.requests += 1

    def settle(self, request: int, usage: Usage) -> None:
        """Pay what a request used."""
        cost = self.pico(usage)
        with self._mutex:
            told = {"prompt": usage.prompt, "cached": usage.cached, "tokens": round(usage.completion)}
            self._write("settle", request, told, cost)
            self._close(request)
            self.spent, self.tokens = self.spent + cost, self.tokens + round(usage.completion)
            self.usage += usage

    def release(self, request: int) -> None:
        """Free what was set aside for a request that was not answered."""
        with self._mutex:
            self._write("release", request)
            self._close(request)

    def _close(self, request: int) -> None:
        cost, tokens = self._open.pop(request)
        self.reserved, self.reserved_tokens = self.reserved - cost, self.reserved_tokens - tokens

    @property
    def left(self) -> float:
        """Picodollars that are neither spent nor reserved; infinite without a budget."""
        self._refresh()
        return math.inf if self.budget is None else self.budget - self.spent - self.reserved

    def cost_of(self, prompt: int, completion: int) -> int:
        """Return what a request costs at most, in picodollars; the arguments are those of `reserve`."""
        return self.pico(Usage(1, prompt, 0, completion))

    def fits(self, prompt: int, texts: int) -> float:
        """Return how many tokens may be written after each of some texts whose prompts have so many tokens in all."""
        found, each = math.inf, self.cost_of(0, texts)
        if self.budget is not None and each:
            found = (self.left - self.cost_of(prompt, 0)) // each
        if self.max_tokens is not None:
            found = min(found, (self.max_tokens - self.tokens - self.reserved_tokens) // texts)
        return found

    def pico(self, usage: Usage) -> int:
        """Return what tokens cost, in picodollars."""
        return 0 if self.prices is None else self.prices.pico(usage)

    def _write(
        self, event: str, request: int | None = None, told: Mapping[str, Any] | None = None, cost: int | None = None
    ) -> None:
        """Add a line; those about money are on disk before this returns, that of a request with the next of them."""
        if self.path is None:
            return
        line = {"event": event} | ({} if request is None else {"request": request}) | dict(told or {})
        if cost is not None and self.prices is not None:
            line["pico"] = cost
        append_line(self.path, checked(line), sync=event != "send")

    def _replay(self, path: Path) -> None:
        """Take over what earlier runs spent, and what they left open."""
        for number, text in enumerate(mend(path) if path.exists() else [], 1):
            place = f"{path}:{number}"
            line = checked_object(text, place, "bring back a copy that is whole, or give another file")
            event, request = line.get("event"), line.get("request", 0)
            pico, tokens = line.get("pico", 0), line.get("tokens", 0)
            whole = all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in (request, pico))
            if event not in EVENTS or not whole or not isinstance(tokens, int) or tokens < 0:
                raise WheelsError(f"{place}: no line of a teacher's ledger; give another file")
            if self.prices is not None and event in ("reserve", "settle") and "pico" not in line:
                raise WheelsError(f"{place}: this ledger was kept without prices; give another file, or no prices")
            if event == "reserve":
                self._open[request] = pico, tokens
            elif event != "send" and self._open.pop(request, None) is None:
                raise WheelsError(f"{place}: request {request} was not reserved; give another file")
            elif event == "settle":
                self.spent, self.tokens = self.spent + pico, self.tokens + tokens
            self.requests += event == "send"
            self._next = max(self._next, request)
        if self._open:
            log.warning("%s: %d requests of a run that was cut short count as spent", path, len(self._open))
        for pico, tokens in self._open.values():
            self.spent, self.tokens = self.spent + pico, self.tokens + tokens
        self._open.clear()
