"""A ledger of paid items: each is paid once, through kills, parallel workers and failures.

A file of JSON lines that only grows. A unit is reserved before a request and settled, with the answer, after it:

    {"event": "begin", "unit": "annotation", "budget": 500, "run": "..."}    once, at the top
    {"event": "reserve", "item": "..."}                                      on disk before the request is sent
    {"event": "settle", "item": "...", "answer": "..."}                      paid; never asked again; may have a "flaw"
    {"event": "release", "item": "...", "reason": "..."}                     failed; the unit is free again
    {"event": "refuse", "item": "...", "reason": "..."}                      the server will not; the unit is free again
    {"event": "budget", "budget": 900}                                       the budget has grown

Each line ends with its checksum (`wheels.runs.checked`), and one whose bytes have changed is refused.
At every moment settled + open <= budget. A reservation that a killed run left open counts as spent: its answer may have
been paid for and lost. It is never given to another item; the next run asks for the same item again under the same
reservation (and the same idempotency key, see `endpoint`), which costs nothing more where the other side knows the key.

It is no item of `wheels.runs`, which would be made again where it is damaged: what was paid for is not. It has the lock
and the journal from there.

A ledger without purchases is empty: the next run starts it over and asks again for what was refused,
for without any answer a refusal may have been about every item.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wheels.annotation.answer import Answer
from wheels.errors import WheelsError
from wheels.runs import append_line, checked, checked_object, locked, mend, whole_lines

EVENTS = ("reserve", "settle", "release", "refuse")


@dataclass
class Account:
    """The totals of a ledger's lines."""

    budget: int | None
    """The most units that may be settled or open at once; None: no limit."""
    run: str = ""
    """Names the run that the ledger belongs to."""
    unit: str = "annotation"
    first_budget: int | None = field(init=False)
    """The budget that the run began with."""
    settled: dict[str, Answer] = field(default_factory=dict)
    """The answer of each item that was paid for."""
    open: set[str] = field(default_factory=set)
    """The items that are reserved: asked for, without an answer yet."""
    refused: dict[str, str] = field(default_factory=dict)
    """The server's message for each item that it refuses."""
    released: int = 0
    """How often a request failed, and its unit was freed again."""

    def __post_init__(self) -> None:
        self.first_budget = self.budget

    @property
    def bought(self) -> bool:
        """Whether anything was, or may have been, paid for."""
        return bool(self.settled or self.open)

    @property
    def spent(self) -> int:
        """Units that are no longer free: settled and open ones."""
        return len(self.settled) + len(self.open)

    @property
    def free(self) -> float:
        """Units that can still be reserved."""
        return float("inf") if self.budget is None else self.budget - self.spent

    def apply(self, line: Mapping[str, Any]) -> None:
        """Enter one event.

        Raises:
            WheelsError: for an event that cannot be: an item settled twice, or without a reservation; a unit too many.
        """
        event, item = line.get("event"), line.get("item")
        if event == "budget":
            if self.budget is None or line["budget"] <= self.budget:
                raise WheelsError(f"a budget of {self.budget} can only grow, got {line['budget']}")
            self.budget = line["budget"]
            return
        if event not in EVENTS or not isinstance(item, str):
            raise WheelsError(f"not an event of a ledger: {json.dumps(line)[:80]}")
        if event == "reserve":
            if item in self.settled or item in self.open or item in self.refused:
                raise WheelsError(f"item {item} is reserved twice")
            if self.free < 1:
                raise WheelsError(f"the budget of {self.budget} {self.unit}s is spent; nothing more may be reserved")
            self.open.add(item)
            return
        if item not in self.open:
            raise WheelsError(f"item {item}: {event} without a reservation")
        self.open.remove(item)
        if event == "settle":
            self.settled[item] = Answer(str(line["answer"]), line.get("flaw"))
        elif event == "refuse":
            self.refused[item] = str(line["reason"])
        else:
            self.released += 1


def read_account(path: Path | str) -> Account:
    """Return a ledger's totals. Every line is checked; a truncated last line is skipped.

    Raises:
        WheelsError: naming the file and the line, for anything that no ledger of ours can hold.
    """
    return _replay(path, whole_lines(Path(path)))


def _replay(path: Path | str, lines: Iterable[bytes]) -> Account:
    """Return the account of the lines of a file."""
    account: Account | None = None
    for number, text in enumerate(lines, 1):
        line = checked_object(text, f"{path}:{number}", "bring back a copy of the ledger that is whole")
        try:
            if account is None:
                if line["event"] != "begin":
                    raise WheelsError("a ledger begins with its budget")
                account = Account(line["budget"], line["run"], line["unit"])
            else:
                account.apply(line)
        except WheelsError as error:
            raise WheelsError(f"{path}:{number}: {error}") from None
        except (ValueError, KeyError, TypeError):
            raise WheelsError(f"{path}:{number}: not a line of a ledger: {text[:80]!r}") from None
    return account if account is not None else Account(None)


class Ledger:
    """The ledger of one run, held by one process; its threads share it.

    Use it in a `with` block: the lock on the file ends with the block, or with the process.
    """

    def __init__(self, path: Path | str, *, budget: int | None, run: str, unit: str = "annotation") -> None:
        """Take the ledger of a run, or begin it.

        Args:
            path: of the file.
            budget: the most units, at least what they were before; None: no limit, the ledger only keeps answers.
            run: names everything that an answer depends on.
            unit: what one item is, for errors.

        Raises:
            WheelsError: where another process holds it, where it belongs to another run, or is damaged.
        """
        self.path = Path(path)
        self._mutex = threading.Lock()
        self._held = ExitStack()
        self._held.enter_context(locked(Path(f"{self.path}.lock"), self.path))
        try:
            self.account = self._begin(Account(budget, run, unit))
            if budget != self.account.budget:
                self._enter({"event": "budget", "budget": budget})
        except BaseException:
            self._held.close()
            raise
        self._claimed: set[str] = set()
        self.recovered = frozenset(self.account.open)

    def _begin(self, wanted: Account) -> Account:
        """Return the account that stands in the file, or begin one where nothing was bought; cut off a torn line."""
        account = _replay(self.path, mend(self.path) if self.path.exists() else [])
        if not account.bought:
            self.path.unlink(missing_ok=True)
            line = {"event": "begin", "unit": wanted.unit, "budget": wanted.budget, "run": wanted.run}
            append_line(self.path, checked(line), sync=True)
            return wanted
        for name in ("run", "unit"):
            if getattr(account, name) != getattr(wanted, name):
                raise WheelsError(
                    f"{self.path} is the ledger of a run with {name} {getattr(account, name)!r}, not "
                    f"{getattr(wanted, name)!r}; give another --output"
                )
        if account.budget != wanted.budget and not (account.budget or 0) < (wanted.budget or 0):
            raise WheelsError(
                f"{self.path} is the ledger of a run with a budget of {account.budget}, which can only grow, got "
                f"{wanted.budget}; give at least {account.budget}, or another --output"
            )
        return account

    def __enter__(self) -> Ledger:
        """Return the ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up the lock."""
        self._held.close()

    def answer(self, item: str) -> Answer | None:
        """Return what was paid for, or None."""
        return self.account.settled.get(item)

    def done(self, item: str) -> bool:
        """Whether an item is done: paid, or refused by the server."""
        return item in self.account.settled or item in self.account.refused

    def reserve(self, item: str) -> bool:
        """Return whether the caller may request `item` now: not if it is done or another thread has reserved it.

        A reservation of a run that was killed is taken over, and costs no further unit.

        Raises:
            WheelsError: where the budget has no unit left.
        """
        with self._mutex:
            if self.done(item) or item in self._claimed:
                return False
            if item not in self.account.open:
                self._enter({"event": "reserve", "item": item})
            self._claimed.add(item)
            return True

    def settle(self, item: str, answer: Answer) -> None:
        """Record a paid answer, usable or not."""
        flaw = {"flaw": answer.flaw} if answer.flaw is not None else {}
        with self._mutex:
            self._enter({"event": "settle", "item": item, "answer": answer.text, **flaw})
            self._claimed.discard(item)

    def release(self, item: str, reason: str) -> None:
        """Release the unit of a failed request and record the failure."""
        with self._mutex:
            self._enter({"event": "release", "item": item, "reason": reason})
            self._claimed.discard(item)

    def refuse(self, item: str, reason: str) -> None:
        """Release the unit of a request that the server refuses, and record its message."""
        with self._mutex:
            self._enter({"event": "refuse", "item": item, "reason": reason})
            self._claimed.discard(item)

    def _enter(self, line: Mapping[str, Any]) -> None:
        """Check an event and write it to disk before returning."""
        self.account.apply(line)
        append_line(self.path, checked(line), sync=True)
