"""Corpora that need no file: made from the Unicode CLDR, the same for the same seed on every machine.

The names and formats are those of the installed Babel: another release of CLDR may change a name here and there, and
the digest of the data shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from types import MappingProxyType

from wheels.errors import WheelsError, check_choice

TRANSLATION, SUMMARIZATION = "embedded-translation", "embedded-summarization"
# Name -> the locales that are meant where none are given.
NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType({TRANSLATION: ("de", "en"), SUMMARIZATION: ("en",)})
SIZES: Mapping[str, int] = MappingProxyType({"train": 20_000, "validation": 500, "test": 1_000})
# The held-out splits are made first and whole, so that they are the same beside a training split of any size.
_ORDER = ("test", "validation", "train")
_PATIENCE = 1_000


def parse_name(spec: str) -> tuple[str, tuple[str, ...]]:
    """Return the name and the locales of a corpus: "embedded-translation:fr-es" is that and ("fr", "es").

    Raises:
        WheelsError: for an unknown name, or another number of locales than the corpus has.
    """
    name, _, given = spec.partition(":")
    defaults = NAMES[check_choice("the embedded corpus", name, NAMES)]
    locales = tuple(given.split("-")) if given else defaults
    if len(locales) != len(defaults) or not all(locales):
        example = "-".join(defaults)
        raise WheelsError(f"{name} takes {len(defaults)} locale(s), as in {name}:{example}, got {given!r}")
    return name, locales


def build(spec: str, *, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, list[tuple[str, str]]]:
    """Return the splits of an embedded corpus as (source, target) rows.

    No source and no target stands in two rows, in one split or in two. A shorter training split is the beginning of a
    longer one, and the held-out splits of the default sizes or fewer do not change with it.

    Args:
        spec: a name of `NAMES`, with ":" and locales where others than the default are wanted.
        seed: of all that is drawn.
        sizes: rows per split, `SIZES` where none are given.

    Raises:
        WheelsError: for an unknown name, locale or split, or more rows than there are different sentences.
    """
    name, locales = parse_name(spec)
    sizes = dict(SIZES if sizes is None else sizes)
    for split, size in sizes.items():
        check_choice("split", split, _ORDER)
        if size < 0:
            raise WheelsError(f"the size of {split} must be 0 or more, got {size}")
    seen: tuple[set[str], set[str]] = (set(), set())
    splits = {}
    for split in _ORDER:
        size = sizes.get(split, 0)
        whole = size if split == "train" else max(size, SIZES[split])
        rows = _rows(name, locales, Random(f"wheels {name} {seed} {split}"))
        splits[split] = _distinct(rows, whole, seen, f"{spec} {split}")[:size]
    return {split: splits[split] for split in sizes}


def _rows(name: str, locales: tuple[str, ...], random: Random) -> Iterator[tuple[str, str]]:
    if name == TRANSLATION:
        from wheels.data.corpora.translation import translation_rows

        return translation_rows((locales[0], locales[1]), random)
    from wheels.data.corpora.summarization import summarization_rows

    return summarization_rows(locales[0], random)


def _distinct(
    rows: Iterator[tuple[str, str]], size: int, seen: tuple[set[str], set[str]], what: str
) -> list[tuple[str, str]]:
    """Return the next `size` rows with a source and a target that were not seen, and mark them as seen."""
    kept: list[tuple[str, str]] = []
    misses = 0
    while len(kept) < size:
        source, target = next(rows)
        if source in seen[0] or target in seen[1]:
            misses += 1
            if misses > _PATIENCE + 10 * size:
                raise WheelsError(f"{what}: only {len(kept)} different rows of {size} were found; ask for fewer")
            continue
        seen[0].add(source)
        seen[1].add(target)
        kept.append((source, target))
    return kept
