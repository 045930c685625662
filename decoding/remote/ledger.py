"""A ledger of money: what calls may cost is set aside before they are made, and what they did cost is paid after.

Before a request as much is reserved as it can cost at most; after it what the server's `usage` says is settled, and the
rest is free again. At every moment settled + reserved <= budget, from any number of threads.

With a file each step is on disk before the next: a line before the request, one after it. What a killed run left
reserved counts as spent, for its answer may have been paid for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wheels.decoding.remote.prices import PICO, Prices, Usage
from wheels.errors import WheelsError, check_number
from wheels.json_text import parse_object
from wheels.runs import append_line, locked, mend

log = logging.getLogger("wheels")


class Ledger:
    """The money of one teacher, shared by threads.

    Args:
        prices: What tokens cost; None: nothing, and only tokens are counted.
        budget: Dollars that may be spent, what the file holds already among them; None: no limit.
        path: A file that keeps account, so that another run with it goes on; None: this run alone.

    Raises:
        WheelsError: for a budget without prices, a file that is damaged, or held by another process.
    """

    def __init__(
        self, prices: Prices | None = None, budget: float | None = None, path: str | Path | None = None
    ) -> None:
        if prices is None and (budget is not None or path is not None):
            raise WheelsError("a budget in dollars and its ledger need prices: give prompt=..., completion=...")
        self.prices = prices
        self.budget = None if budget is None else round(check_number("budget_dollars", budget, 0) * PICO)
        self.path = None if path is None else Path(path)
        self.usage, self.spent, self.reserved = Usage(), 0, 0
        """What the requests of this run used; picodollars that are settled, with the file's; and those reserved."""
        self._open: dict[int, int] = {}
        self._next = 0
        self._mutex, self._held = threading.Lock(), ExitStack()
        if self.path is not None:
            self._held.enter_context(locked(Path(f"{self.path}.lock"), self.path))
            self._replay(self.path)

    def close(self) -> None:
        """Give the file up to others."""
        self._held.close()

    def reserve(self, prompt: int, completion: int) -> int | None:
        """Set aside what a request costs at most; return its number, or None where the budget has not so much left.

        Args:
            prompt: Tokens that the server reads.
            completion: Tokens that it writes at most.
        """
        cost = self._cost(Usage(1, prompt, 0, completion))
        with self._mutex:
            if self.budget is not None and self.spent + self.reserved + cost > self.budget:
                return None
            self._next += 1
            self._write({"event": "reserve", "request": self._next, "pico": cost})
            self._open[self._next], self.reserved = cost, self.reserved + cost
            return self._next

    def settle(self, request: int, usage: Usage) -> None:
        """Pay what a request used."""
        cost = self._cost(usage)
        with self._mutex:
            told = {"prompt": usage.prompt, "cached": usage.cached, "completion": usage.completion}
            self._write({"event": "settle", "request": request, "pico": cost, **told})
            self.reserved -= self._open.pop(request)
            self.spent += cost
            self.usage += usage

    def release(self, request: int) -> None:
        """Free what was set aside for a request that was not answered."""
        with self._mutex:
            self._write({"event": "release", "request": request})
            self.reserved -= self._open.pop(request)

    def _cost(self, usage: Usage) -> int:
        return 0 if self.prices is None else self.prices.pico(usage)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.path is not None:
            append_line(self.path, line, sync=True)

    def _replay(self, path: Path) -> None:
        """Take over what earlier runs spent, and what they left open."""
        for number, text in enumerate(mend(path) if path.exists() else [], 1):
            line = parse_object(text, f"{path}:{number}", "event", "request")
            event, request, pico = line["event"], line["request"], line.get("pico", 0)
            whole = all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in (request, pico))
            if not whole or event not in ("reserve", "settle", "release"):
                raise WheelsError(f"{path}:{number}: no line of a ledger of money; give another file")
            if event == "reserve":
                self._open[request] = pico
            elif self._open.pop(request, None) is None:
                raise WheelsError(f"{path}:{number}: request {request} was not reserved; give another file")
            self.spent += pico if event == "settle" else 0
            self._next = max(self._next, request)
        left = sum(self._open.values())
        if left:
            log.warning("%s: %d requests of a run that was cut short count as spent", path, len(self._open))
        self.spent += left
        self._open.clear()
