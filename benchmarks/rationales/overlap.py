"""How often the words of a rationale are part of the answer, where the answer stands in the source.

Published: in 68% of the cases (Ballout et al. 2024, arXiv 2409.12586), without saying whether a case is a word or a
row. Both are given, each beside what words drawn without looking would have: of n words of which m belong to the
answer, k drawn ones are `m / n` on average, and at least one is with probability `1 - C(n - m, k) / C(n, k)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

from wheels.data.equations import value_of
from wheels.data.formats import read_records
from wheels.rationales.words import top_words, words_of


def answer_places(source: Sequence[str], target: str, kind: str) -> set[int]:
    """Return which words of the source belong to the answer.

    Args:
        source: its words.
        target: the answer.
        kind: `words`: every run of the source that is the answer's words, in any case of letters; `numbers`: every
            word of the source that is a number of the answer.
    """
    if kind == "numbers":
        numbers = {value_of(piece) for piece in target.replace("(", " ").replace(")", " ").split()} - {None}
        return {place for place, word in enumerate(source) if value_of(word.replace(",", "")) in numbers}
    wanted = [word.text.casefold() for word in words_of(target)]
    folded, size = [word.casefold() for word in source], len(wanted)
    starts = [start for start in range(len(folded) - size + 1) if wanted and folded[start : start + size] == wanted]
    return {place for start in starts for place in range(start, start + size)}


def overlap(attributed: Path, *, column: str, kind: str, k: int) -> dict[str, Any] | None:
    """Return the overlap of an attribution's k heaviest words with the answer, as shares; None without such a row.

    `words` is the share of the chosen words that belong to the answer, `rows` that of the rows of which at least one
    does; `words_expected` and `rows_expected` are those of words drawn at random, and `count` is the number of rows
    whose source holds the answer.
    """
    totals, count = [0.0] * 4, 0
    for _, record in read_records(attributed):
        words, scores = [word for word, _ in record[f"{column}_words"]], [s for _, s in record[f"{column}_words"]]
        places = answer_places(words, record["target"], kind)
        if not places:
            continue
        chosen, n, m = top_words(scores, k), len(words), len(places)
        found = len(places & set(chosen))
        here = (found / len(chosen), float(found > 0), m / n, 1.0 - comb(n - m, len(chosen)) / comb(n, len(chosen)))
        totals, count = [total + value for total, value in zip(totals, here, strict=True)], count + 1
    names = ("words", "rows", "words_expected", "rows_expected")
    return (
        {"count": count} | {name: total / count for name, total in zip(names, totals, strict=True)} if count else None
    )
