"""Buying answers through a ledger: from an endpoint in parallel, or from a model in this process."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import islice
from threading import Event
from typing import Protocol

from wheels.annotation.answer import REFUSED, Answer
from wheels.annotation.endpoint import Ask, Endpoint
from wheels.annotation.ledger import Ledger
from wheels.endpoints.faults import RequestFailed, RequestRefused, ServerRefused
from wheels.errors import WheelsError

log = logging.getLogger("wheels")

Advance = Callable[[int], object]

HOPELESS = 100
"""Refusals without a single answer after which they are taken to be about every item."""


class Responder(Protocol):
    """Answers prompts, each paid once."""

    def respond(
        self, prompts: Iterable[str], ledger: Ledger, advance: Advance, wanted: int | None = None
    ) -> list[Answer]:
        """Return the answers to the first prompts; those already paid for come from the ledger.

        Args:
            prompts: what to ask, in this order.
            ledger: where every answer is paid for.
            advance: counts the answers.
            wanted: how many; for each prompt that the server refuses one more of `prompts` is asked. None: all of them.
        """
        ...


def item_of(prompt: str) -> str:
    """Return the id of an item: 24 hexadecimal digits of the SHA-256 of its prompt and settings."""
    return hashlib.sha256(prompt.encode("utf-8", "backslashreplace")).hexdigest()[:24]


class Remote:
    """A model at an endpoint, queried by several threads at once."""

    def __init__(self, endpoint: Endpoint, workers: int, *, skip_failed: bool = False) -> None:
        """Ask `endpoint` with `workers` threads; `skip_failed` counts a request that gets no answer as refused."""
        self.endpoint = endpoint
        self.workers = workers
        self.skip_failed = skip_failed

    def respond(
        self, prompts: Iterable[str], ledger: Ledger, advance: Advance, wanted: int | None = None
    ) -> list[Answer]:
        """Return the answer to each prompt; see `Responder`.

        Raises:
            RequestFailed: where some had no answer after all attempts; all others were asked and are kept.
            ServerRefused: at a refusal that is about every request; nothing new is asked after it.
        """
        rest, items, missing = iter(prompts), list[str](), wanted
        while batch := list(islice(rest, missing)):
            self._buy_all(batch, ledger, advance)
            items += map(item_of, batch)
            if wanted is not None:
                missing = wanted - sum(item in ledger.account.settled for item in items)
        refused = ledger.account.refused
        if wanted and refused and not ledger.account.settled:
            raise ServerRefused(f"each of {len(refused)} requests was refused: {next(iter(refused.values()))}")
        return [_paid(ledger, item) for item in items]

    def _buy_all(self, prompts: Sequence[str], ledger: Ledger, advance: Advance) -> None:
        """Buy the answers to the prompts that have none yet."""
        named = {item_of(prompt): prompt for prompt in prompts}
        asked = {item: prompt for item, prompt in named.items() if not ledger.done(item)}
        advance(len(prompts) - len(asked))
        again = sum(item in ledger.recovered for item in asked)
        if again:
            log.info("%d requests of a run that was cut short are sent again under their reservations", again)
        failures = buy(ledger, asked, self.endpoint.ask, self.workers, self.endpoint.stopped, advance, self.skip_failed)
        if failures:
            raise RequestFailed(
                f"{len(failures)} of {len(asked)} requests got no answer, and their units are free again; run the same "
                f"command again to ask for them, or with --skip-failed to leave them out ({failures[0]})"
            )


def buy(
    ledger: Ledger,
    prompts: dict[str, str],
    ask: Ask,
    workers: int,
    stopped: Event,
    advance: Advance,
    skip_failed: bool = False,
) -> list[RequestFailed]:
    """Request each item under a reservation, `workers` at a time; return the temporary failures.

    A reservation is on disk before its request is sent, and the answer is on disk before the item counts as done.

    `ask` takes a prompt and the item's name, the same in every run; `stopped` is set where nothing more is to be sent.

    Raises:
        ServerRefused: the first refusal that is about every request; also whatever else ends a thread.
    """
    failures: list[RequestFailed] = []

    def one(item: str) -> None:
        if stopped.is_set() or not ledger.reserve(item):
            return
        try:
            answer = ask(prompts[item], f"{ledger.account.run}-{item}")
        except RequestRefused as error:
            _refuse(ledger, item, error)
        except RequestFailed as error:
            if skip_failed and not stopped.is_set():
                _refuse(ledger, item, error)
            else:
                ledger.release(item, str(error))
                failures.append(error)
        except WheelsError as error:
            stopped.set()
            ledger.release(item, str(error))
            raise
        else:
            ledger.settle(item, answer)
        advance(1)

    _in_parallel(one, list(prompts), workers, stopped)
    return failures


def _refuse(ledger: Ledger, item: str, error: WheelsError) -> None:
    """Note that the server will not answer an item.

    Raises:
        ServerRefused: where it has refused very many, and answered none.
    """
    ledger.refuse(item, str(error))
    if len(ledger.account.refused) >= HOPELESS and not ledger.account.settled:
        raise ServerRefused(f"the first {HOPELESS} requests were refused, and none was answered: {error}")


def _in_parallel(work: Callable[[str], None], items: Sequence[str], workers: int, stopped: Event) -> None:
    """Do `work` for each item, `workers` at a time; after the first error or an interruption, start nothing new.

    What is under way then is waited for: its answer may be paid for.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="annotate") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if any(future.exception() is not None for future in done):
                stopped.set()
        except BaseException:
            stopped.set()
            raise
        finally:
            pool.shutdown(cancel_futures=stopped.is_set())
    for future in futures:
        if not future.cancelled():
            future.result()


class Local:
    """A model in this process.

    It is asked in the same batches whatever was paid before, so that a resumed run gives the same answers.
    """

    def __init__(self, write: Callable[[Sequence[str]], list[Answer]], batch_size: int) -> None:
        """Answer with `write`, which takes a batch of prompts."""
        self.write = write
        self.batch_size = batch_size

    def respond(
        self, prompts: Iterable[str], ledger: Ledger, advance: Advance, wanted: int | None = None
    ) -> list[Answer]:
        """Return the answer to each prompt; see `Responder`."""
        asked = list(islice(prompts, wanted))
        distinct = list(dict.fromkeys(asked))
        advance(len(asked) - len(distinct))
        for start in range(0, len(distinct), self.batch_size):
            batch = distinct[start : start + self.batch_size]
            items = [item_of(prompt) for prompt in batch]
            if any(ledger.answer(item) is None for item in items):
                claimed = [ledger.reserve(item) for item in items]
                for item, answer, ours in zip(items, self.write(batch), claimed, strict=True):
                    if ours:
                        ledger.settle(item, answer)
            advance(len(batch))
        return [_paid(ledger, item_of(prompt)) for prompt in asked]


def _paid(ledger: Ledger, item: str) -> Answer:
    """Return an answer from the ledger, or the server's message where it refused."""
    answer = ledger.answer(item)
    return answer if answer is not None else Answer("", f"{REFUSED}: {ledger.account.refused[item]}")
