"""The embedded corpus: everyday German sentences and their English translations, from Tatoeba.

40,000 pairs to train on, 1,500 to choose on, 2,000 to report on. They come with the embedded pair, which learned from
all 162,000 (`wheels demo --retrain`). No sentence of either side stands in two splits. CC BY 2.0, see the pair's card.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from types import MappingProxyType

from wheels.errors import WheelsError, check_choice
from wheels.files import write_bytes

EMBEDDED = "embedded-translation"
SIZES: Mapping[str, int] = MappingProxyType({"train": 40_000, "validation": 1_500, "test": 2_000})
FILE = "corpus.tsv.xz"

MOST_WORDS = 30
"""Of a source; 1 in 1,000 of the training sources has more."""
MOST_UNKNOWN = 1 / 3
"""Share of a source's words that are in no training source of the corpus."""
WORD = re.compile(r"\w+")

Pairs = list[tuple[str, str]]


def read(path: Path | None = None) -> dict[str, Pairs]:
    """Return the splits of the embedded corpus, or of another file that `draw` wrote, as (source, target) rows.

    Raises:
        WheelsError: where the file is missing or damaged.
    """
    place = path or Path(str(files("wheels"))) / "assets" / EMBEDDED / FILE
    try:
        text = lzma.decompress(place.read_bytes()).decode("utf-8")
        splits: dict[str, Pairs] = {split: [] for split in SIZES}
        for line in text.splitlines():
            split, source, target = line.split("\t")
            splits[split].append((source, target))
    except (OSError, lzma.LZMAError, EOFError, ValueError, KeyError) as error:
        raise WheelsError(f"{place}: cannot be read ({error}); install wheels again") from error
    return splits


@cache
def known_words() -> frozenset[str]:
    """Return the words of the embedded corpus' training sources, in small letters: some 16,000."""
    return frozenset(word for source, _ in read()["train"] for word in WORD.findall(source.lower()))


def is_beyond(text: str) -> bool:
    """Tell whether a text is unlike what the embedded pair learned from: long, or with many words it does not know.

    Of the corpus' own validation sources this holds for 7 in 1,000; of their English sides for 995, of captions in
    German (Multi30k) for 20.
    """
    words = WORD.findall(text.lower())
    return len(words) > MOST_WORDS or sum(word not in known_words() for word in words) > MOST_UNKNOWN * len(words)


def draw(path: Path, splits: Mapping[str, Iterable[tuple[str, str]]]) -> None:
    """Write a corpus for `read`: of each split as many rows as it has there, drawn by a fixed seed.

    Raises:
        WheelsError: for a split with too few rows, or a row with a tab or a line end in it.
    """
    lines = []
    for split, size in SIZES.items():
        rows = list(splits[split])
        if len(rows) < size:
            raise WheelsError(f"the embedded corpus has {size:,} rows of {split}, got {len(rows):,}")
        for source, target in Random(f"wheels {split}").sample(rows, size):
            if {"\t", "\n", "\r"} & set(source + target):
                raise WheelsError(f"a row of {split} has a tab or a line end in it: {source!r}")
            lines.append(f"{split}\t{source}\t{target}\n")
    write_bytes(path, lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))


def check_name(spec: str) -> str:
    """Return the name of the embedded corpus.

    Raises:
        WheelsError: for another.
    """
    return check_choice("the embedded corpus", spec, (EMBEDDED,))
