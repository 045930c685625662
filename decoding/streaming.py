"""Texts in, traces out: all at once (`decode`), each as soon as it has ended (`stream`), any number (`in_order`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from wheels.decoding.engine import GROUPED, Engine
from wheels.decoding.methods.method import Method, check_method
from wheels.decoding.models.runner import Pass
from wheels.decoding.params import DecodeParams
from wheels.decoding.scheduler import Schedule
from wheels.decoding.sequences import Sequence, prepare_sequences
from wheels.decoding.trace import Trace, trace_of
from wheels.errors import check_kind, check_texts
from wheels.models.pair import Pair

BLOCK = 256
"""Texts of any number of them that are encoded together at least, or four batches of them; the longest begin."""
AHEAD = 16
"""Blocks that may be written while one text goes on: the outputs after it are held until it ends."""
Spent = dict[float, tuple[int, int]]
"""The calls and tokens that online mode has counted so far, by budget."""


def decode(
    pair: Pair,
    sources: Iterable[str],
    method: Method,
    params: DecodeParams | None = None,
    *,
    batch_size: int = 64,
    schedule: Schedule = GROUPED,
    journal: dict[str, list[Pass]] | None = None,
    on_error: str = "stop",
    progress: Callable[[int], object] | None = None,
) -> list[Trace]:
    """Write an output for each source, and return the traces in the sources' order.

    Args:
        pair: Student, teacher and tokenizer; this and the others are those of `stream`.
        sources: The texts to translate, summarize or continue.
        method: How, and under which budget.
        params: Lengths, sampling and the like.
        batch_size: Rows of a forward pass at most.
        schedule: When the teacher runs.
        journal: Every forward pass is noted here.
        on_error: What an unreadable source does.
        progress: Called with the number of outputs that have just become ready.
    """
    check_kind("progress", progress, (Callable, type(None)), "a function, or None")
    sources, traces = check_texts("sources", sources), dict[int, Trace]()
    running = stream(
        pair, sources, method, params, batch_size=batch_size, schedule=schedule, journal=journal, on_error=on_error
    )
    for index, trace in running:
        traces[index] = trace
        if progress is not None:
            progress(1)
    return [traces[index] for index in sorted(traces)]


def stream(
    pair: Pair,
    sources: Iterable[str],
    method: Method,
    params: DecodeParams | None = None,
    *,
    batch_size: int = 64,
    schedule: Schedule = GROUPED,
    journal: dict[str, list[Pass]] | None = None,
    on_error: str = "stop",
) -> Iterator[tuple[int, Trace]]:
    """Write an output for each source, and yield its index and trace as soon as it has ended.

    Args:
        pair: Student, teacher and tokenizer.
        sources: The texts to translate, summarize or continue.
        method: How, and under which budget (`wheels.decoding.methods.method`), such as `deferral(rule, budget=0.2)`.
        params: Lengths, sampling and the like; None: greedy, at most 128 tokens.
        batch_size: Rows of a forward pass at most. Up to twice as many texts are in flight (`decoding.scheduler`), and
            memory grows with them; results do not depend on it, but in online mode.
        schedule: When the teacher runs; results do not depend on it, but in online mode.
        journal: Every forward pass is noted here, under `student` and `teacher`.
        on_error: For a source that cannot be read: `stop` before anything is written, or `skip` it: its trace says why.

    Raises:
        WheelsError: for what is of another kind or out of its range, an empty source, or one longer than the context.
    """
    check_kind("journal", journal, (dict, type(None)), "a dict to be filled, or None")
    params, method = DecodeParams() if params is None else params, check_method(method)
    check_kind("params", params, DecodeParams, "DecodeParams, or None")
    sequences = prepare_sequences(pair, sources, params.max_new_tokens, on_error=on_error, first=params.first)
    method.check_count(params.first + len(sequences))
    unread = [sequence for sequence in sequences if sequence.error is not None]
    sequences = [sequence for sequence in sequences if sequence.error is None]
    engine = Engine(pair, sequences, method, params, batch_size=batch_size, schedule=schedule, journal=journal)
    del sequences  # what a text wrote is given back as soon as it has been passed on
    runs_on = engine.passes.runs_on
    for sequence in chain(unread, engine.run()):
        yield sequence.index, trace_of(pair, sequence, method, runs_on)


def in_order(
    pair: Pair,
    sources: Iterable[str],
    method: Method,
    params: DecodeParams | None = None,
    *,
    batch_size: int = 64,
    on_error: str = "stop",
    spent: Spent | None = None,
    total: int | None = None,
) -> Iterator[Trace]:
    """Write an output for each of any number of sources, and yield the traces in the sources' order.

    Sources are read as earlier ones end, so memory does not grow with their number: see `BLOCK` and `AHEAD`.

    Args:
        pair: Student, teacher and tokenizer.
        sources: The texts, read as they are needed.
        method: How, and under which budget: one for all texts.
        params: As in `stream`; the number of the first source among them.
        batch_size: As in `stream`.
        on_error: For a source that cannot be read: `stop` before its block is written, or `skip` it.
        spent: What online mode goes on from; at the end it holds what all texts have spent.
        total: How many sources there are, over which dollars mode spreads its money; None: a block of them.

    Raises:
        WheelsError: as `stream`.
    """
    params, method = DecodeParams() if params is None else params, check_method(method)
    blocks = _Blocks(pair, iter(sources), params, max(BLOCK, 4 * batch_size), on_error, params.first)
    done, written = blocks.unread, params.first
    known = blocks.read()
    engine = Engine(pair, known, method, params, batch_size=batch_size, more=blocks.more, total=total)
    del known
    if engine.online is not None and spent is not None:
        engine.online.resume(spent)
    runs_on = engine.passes.runs_on
    while engine.busy or done or blocks.more:
        while written in done:
            yield trace_of(pair, done.pop(written), method, runs_on)
            written += 1
        if blocks.more and len(engine.waiting) < engine.batch_size and blocks.next - written <= AHEAD * blocks.size:
            engine.submit_longest_first(blocks.read())
        else:
            done.update((each.index, each) for each in engine.step())
    if engine.online is not None and spent is not None:
        spent.update(engine.online.spent)


@dataclass
class _Blocks:
    """Sources that are encoded some at a time."""

    pair: Pair
    rest: Iterator[str]
    params: DecodeParams
    size: int
    on_error: str
    next: int
    """The number of the first source that was not read."""
    more: bool = True
    """Whether there may be another one."""
    unread: dict[int, Sequence] = field(default_factory=dict)
    """Those that cannot be read, by number."""

    def read(self) -> list[Sequence]:
        """Return the next sources, as many as can be read of a block."""
        texts = list(islice(self.rest, self.size))
        longest, first = self.params.max_new_tokens, self.next
        found = prepare_sequences(self.pair, texts, longest, on_error=self.on_error, first=first)
        self.next, self.more = first + len(texts), len(texts) == self.size
        self.unread.update((each.index, each) for each in found if each.error is not None)
        return [each for each in found if each.error is None]
