"""Baselines without a model, for tasks whose target is one word: words copied from the source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from wheels.data.tasks import Row, Task

WORD = re.compile(r"[^\W\d_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W\d_]+)*")


def words(text: str) -> list[str]:
    """Return the words of a text as they stand: runs of letters, apostrophes within."""
    return WORD.findall(text)


def frequent_name(source: str) -> str:
    """Return the capitalised word that stands most often within the text's sentences; nothing where there is none.

    A capital at the start of a sentence says nothing, so words after a full stop, a quotation mark or a line break are
    not counted.
    """
    inner = [match.group() for match in WORD.finditer(source) if _is_inside(source, match.start())]
    names = Counter(word for word in inner if word[0].isupper() and word not in ("I", *_contractions()))
    return names.most_common(1)[0][0] if names else ""


def last_repeated(source: str) -> str:
    """Return the last word of four letters or more that has stood in the text before; nothing where there is none."""
    found = [word for word in words(source) if len(word) > 3]
    counts = Counter(found)
    return next((word for word in reversed(found) if counts[word] > 1), "")


def _is_inside(text: str, start: int) -> bool:
    """Whether a word does not begin a sentence."""
    before = text[:start].rstrip(" ")
    return bool(before) and (before[-1].isalnum() or before[-1] in ",;:-")


def _contractions() -> tuple[str, ...]:
    return tuple(f"I{mark}{end}" for mark in "'\N{RIGHT SINGLE QUOTATION MARK}" for end in ("m", "d", "ll", "ve"))


def in_source(rows: Sequence[Row]) -> float:
    """Return the share of rows whose target is a word of the source: the most that copying one can get right."""
    return sum(row.target.strip() in words(row.source) for row in rows) / len(rows)


def baselines(task: Task, rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, float]:
    """Return the `exact` score, 0 to 100, of what needs no model; only where that is the first metric."""
    if metrics[0] != "exact":
        return {}
    commonest = Counter(row.target for row in task.train).most_common(1)[0][0]
    copies: dict[str, Callable[[str], str]] = {
        "the commonest target of the training rows": lambda source: commonest,
        "the commonest name of the source": frequent_name,
        "the last repeated word of the source": last_repeated,
    }
    found = {
        name: 100.0 * sum(copy(row.source) == row.target.strip() for row in rows) / len(rows)
        for name, copy in copies.items()
    }
    return found | {"ceiling of copying: the target is a word of the source": 100.0 * in_source(rows)}
