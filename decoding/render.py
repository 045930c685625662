"""Traces to look at and to pass on: text with the teacher's tokens in colour, JSON lines, a page that stands alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wheels.decoding.trace import TEACHER, Trace, teacher_use
from wheels.output.page import facts, page
from wheels.output.visible import html, json_line, visible

TEACHER_COLOR, PLAIN = "\x1b[1;33m", "\x1b[0m"
"""The escape sequences, ANSI X3.64, around what the teacher wrote: bold yellow, legible on dark and light alike."""
SUMMED = ("tokens", "teacher_tokens", "teacher_passes", "teacher_positions", "drafted", "accepted", "degraded")
"""The costs of a trace that are summed up."""


def spans(trace: Trace) -> list[tuple[str, str]]:
    """Return the output as (author, text) spans, one for each token that shows something, without outer spaces."""
    shown = "".join(trace.pieces)
    first, last = len(shown) - len(shown.lstrip()), len(shown.rstrip())
    found, start = [], 0
    for author, piece in zip(trace.authors, trace.pieces, strict=True):
        text = shown[max(start, first) : max(first, min(start + len(piece), last))]
        start += len(piece)
        if text:
            found.append((author, text))
    return found


def as_text(trace: Trace, *, color: bool = False, one_line: bool = False) -> str:
    """Return the output as text, without what a terminal would obey; `as_json` keeps it, escaped.

    Args:
        trace: The output.
        color: Whether the teacher's tokens stand out, by ANSI escape sequences.
        one_line: Whether line breaks become spaces, so that one line stands for one output.
    """
    if color:
        text = "".join(
            f"{TEACHER_COLOR}{visible(part)}{PLAIN}" if author == TEACHER else visible(part)
            for author, part in spans(trace)
        ).replace(PLAIN + TEACHER_COLOR, "")
    else:
        text = visible(trace.text)
    return " ".join(text.splitlines()) if one_line else text


def as_json(traces: Sequence[Trace]) -> str:
    """Return one JSON object a line (`Trace.to_json`)."""
    return "".join(json_line(trace.to_json()) + "\n" for trace in traces)


class Summary:
    """What the teacher was used for in the outputs of one decode, as they come.

    Args:
        state: That of the same decode before it was cut short.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._asked, self._total = "", Counter[str]()
        self._dollars = (0.0, 0.0)
        """What a remote teacher was paid, and what it alone would have cost."""
        if state is not None:
            self.include(state)

    @property
    def state(self) -> dict[str, Any]:
        """What was counted, as values of JSON."""
        return {"asked": self._asked, "total": dict(self._total), "dollars": list(self._dollars)}

    def include(self, state: Mapping[str, Any]) -> None:
        """Count what another decode of the same settings counted, as its `state` tells it."""
        self._asked = str(state["asked"]) or self._asked
        self._total.update(state["total"])
        self._dollars = self._dollars[0] + state["dollars"][0], self._dollars[1] + state["dollars"][1]

    def add(self, traces: Iterable[Trace]) -> None:
        """Count some outputs."""
        for trace in traces:
            self._asked = trace.rule if trace.budget is None else f"asked {trace.budget:g}, {trace.mode}"
            self._total.update({name: getattr(trace, name) for name in SUMMED})
            if trace.own_tokens is not None:
                counts = {name: getattr(trace, name) for name in ("characters", "teacher_characters")}
                self._total.update(counts | dict(zip(("own_read", "own_written"), trace.own_tokens, strict=True)))
            if trace.bill is not None and trace.bill.dollars is not None:
                paid, alone = self._dollars
                self._dollars = paid + trace.bill.dollars, alone + (trace.bill.teacher_dollars or 0.0)

    def __str__(self) -> str:
        total = self._total
        use = total["teacher_tokens"] / total["tokens"] if total["tokens"] else 0.0
        drafted = _counted(total["drafted"], "draft token")
        return (
            f"teacher use {use:.2f} ({self._asked}): "
            f"{total['teacher_tokens']} of {_counted(total['tokens'], 'token')}, "
            f"{_counted(total['teacher_passes'], 'pass')}, {_counted(total['teacher_positions'], 'position')}"
            + (f"; {total['accepted']} of {drafted} kept" if total["drafted"] else "")
            + (self._by_text if total["own_read"] else "")
            + ("; ${:.6f}, the teacher alone ${:.6f}".format(*self._dollars) if any(self._dollars) else "")
            + (f"; degraded: {_counted(total['degraded'], 'call')} without an answer" if total["degraded"] else "")
        )

    @property
    def _by_text(self) -> str:
        """What a teacher with a tokenizer of its own was used for."""
        total = self._total
        return (
            f"; {total['teacher_characters']:,} of {_counted(total['characters'], 'character')}, for which it read "
            f"{total['own_read']:,} and wrote {_counted(total['own_written'], 'token')} of its own"
        )


def summary(traces: Sequence[Trace]) -> str:
    """Return one line on what the teacher was used for; the traces are of one decode, at least one."""
    found = Summary()
    found.add(traces)
    return str(found)


def _counted(count: int, word: str) -> str:
    """Return such as `1 pass`, `2 passes`."""
    return f"{count:,} {word}{'' if count == 1 else 'es' if word.endswith('s') else 's'}"


def as_html(traces: Sequence[Trace], sources: Sequence[str], *, student: str, teacher: str) -> str:
    """Return a self-contained page without scripts: whatever the texts hold is only shown.

    Args:
        traces: The outputs of one decode, at least one.
        sources: What each was written from.
        student: The name of the student.
        teacher: The name of the teacher.
    """
    first = traces[0]
    values = {
        "teacher use": f"{teacher_use(list(traces)):.3f} of all tokens, in {_counted(len(traces), 'output')}",
        "budget": "none" if first.budget is None else f"{first.budget:g}, {first.mode}",
        "rule": first.rule,
        "student": student,
        "teacher": teacher,
        "cost in all": _cost(traces),
        "cost per output": _cost(traces, each=True),
    }
    return page(
        "Who wrote what",
        [
            facts({name: html(value) for name, value in values.items()}),
            *(_section(trace, source) for trace, source in zip(traces, sources, strict=True)),
        ],
        heading="The student writes, <mark>the teacher</mark> is called",
    )


def _cost(traces: Sequence[Trace], each: bool = False) -> str:
    """Return the teacher's tokens, passes and positions, in all or for each output."""
    totals = {
        "teacher tokens": sum(trace.teacher_tokens for trace in traces),
        "tokens": sum(trace.tokens for trace in traces),
        "passes": sum(trace.teacher_passes for trace in traces),
        "positions": sum(trace.teacher_positions for trace in traces),
        "of the source": sum(trace.prompt_positions for trace in traces),
    }
    shown = [f"{total / len(traces):,.1f}" if each else f"{total:,}" for total in totals.values()]
    return "{} of {} tokens, {} passes, {} positions, and {} of the source".format(*shown)


def _section(trace: Trace, source: str) -> str:
    """Return one output, the teacher's tokens marked."""
    text = "".join(
        f'<mark title="written by the teacher">{html(part)}</mark>' if author == TEACHER else html(part)
        for author, part in spans(trace)
    )
    ended = "" if trace.finished else f"; {trace.error or 'cut at the length limit'}"
    return (
        f'<section>\n<p class="source" dir="auto">{html(source)}</p>\n<p class="text" dir="auto">{text}</p>\n'
        f'<p class="cost">{html(summary([trace]) + ended)}</p>\n</section>'
    )
