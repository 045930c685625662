"""Buying answers: every one through a ledger, from an endpoint in parallel or from a model in this process."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import Protocol

from wheels.distillation.endpoint import Ask, Endpoint, RequestFailed
from wheels.distillation.ledger import Ledger
from wheels.errors import WheelsError

log = logging.getLogger("wheels")

Advance = Callable[[int], object]


class Responder(Protocol):
    """Whatever answers prompts, each paid once."""

    def respond(self, prompts: Sequence[str], ledger: Ledger, advance: Advance) -> list[str]:
        """Return the answer to each prompt, from the ledger where it was paid before; `advance` counts them."""
        ...


def item_of(prompt: str) -> str:
    """Return the name of an item: 24 hexadecimal digits of the SHA-256 of what is asked."""
    return hashlib.sha256(prompt.encode("utf-8", "backslashreplace")).hexdigest()[:24]


class Remote:
    """A model behind an endpoint, asked by several threads at once."""

    def __init__(self, endpoint: Endpoint, workers: int) -> None:
        """Ask `endpoint` with `workers` threads."""
        self.endpoint = endpoint
        self.workers = workers

    def respond(self, prompts: Sequence[str], ledger: Ledger, advance: Advance) -> list[str]:
        """Return the answer to each prompt.

        Raises:
            RequestFailed: where some had no answer after all attempts; all others were asked and are kept.
            RequestRefused: at the first request that the server refuses; nothing new is asked after it.
        """
        wanted = {item_of(prompt): prompt for prompt in prompts}
        asked = [item for item in wanted if ledger.answer(item) is None]
        advance(len(prompts) - len(asked))
        again = sum(item in ledger.recovered for item in asked)
        if again:
            log.info("%d requests of a run that was cut short are sent again under their reservations", again)
        failures = buy(ledger, {item: wanted[item] for item in asked}, self.endpoint.ask, self.workers,
                       self.endpoint.stopped, advance)  # fmt: skip
        if failures:
            raise RequestFailed(
                f"{len(failures)} of {len(asked)} requests got no answer, and their units are free again; "
                f"run the same command again to ask for them ({failures[0]})"
            )
        return [_paid(ledger, item_of(prompt)) for prompt in prompts]


def buy(
    ledger: Ledger, prompts: dict[str, str], ask: Ask, workers: int, stopped: Event, advance: Advance
) -> list[RequestFailed]:
    """Ask for each item under a reservation, `workers` at a time; return what failed in a way that may pass.

    A reservation is on disk before its request is sent, and the answer is on disk before the item counts as done.

    Args:
        ledger: where units are reserved and answers kept.
        prompts: what to ask for, by item.
        ask: sends a request; the second argument names the item to the server, the same in every run.
        workers: threads.
        stopped: set where no further request is to be sent.
        advance: counts the items that are done.

    Raises:
        RequestRefused: the first refusal; also whatever else ends a thread.
    """
    failures: list[RequestFailed] = []

    def one(item: str) -> None:
        if stopped.is_set() or not ledger.reserve(item):
            return
        try:
            answer = ask(prompts[item], f"{ledger.account.run}-{item}")
        except RequestFailed as error:
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


def _in_parallel(work: Callable[[str], None], items: Sequence[str], workers: int, stopped: Event) -> None:
    """Do `work` for each item, `workers` at a time; at the first error, or an interruption, nothing new is begun.

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

    def __init__(self, write: Callable[[Sequence[str]], list[str]], batch_size: int) -> None:
        """Answer with `write`, which takes a batch of prompts."""
        self.write = write
        self.batch_size = batch_size

    def respond(self, prompts: Sequence[str], ledger: Ledger, advance: Advance) -> list[str]:
        """Return the answer to each prompt."""
        distinct = list(dict.fromkeys(prompts))
        advance(len(prompts) - len(distinct))
        for start in range(0, len(distinct), self.batch_size):
            batch = distinct[start : start + self.batch_size]
            items = [item_of(prompt) for prompt in batch]
            if any(ledger.answer(item) is None for item in items):
                claimed = [ledger.reserve(item) for item in items]
                for item, answer, ours in zip(items, self.write(batch), claimed, strict=True):
                    if ours:
                        ledger.settle(item, answer)
            advance(len(batch))
        return [_paid(ledger, item_of(prompt)) for prompt in prompts]


def _paid(ledger: Ledger, item: str) -> str:
    """Return an answer that is in the ledger."""
    answer = ledger.answer(item)
    assert answer is not None, "an item that was bought has an answer"
    return answer
