"""What `wheels generate` reads: a text of the command line, lines of text, or rows with a column of texts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

from wheels.data.lines import read_lines, text_lines
from wheels.data.rows import is_object, records_of, refuse_other_formats, row_of
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.errors import WheelsError

STDIN = "-"
"""The name that stands for standard input."""
MOST_TEXTS = 2_000_000
"""Texts of one run, all of which are held in memory with their outputs."""
LONGEST_TEXT = 1 << 20
"""Characters of one line: a tokenizer takes minutes for more."""
MOST_CHARACTERS = 256 << 20
"""Characters of all of them."""


def read_sources(config: GenerateConfig) -> list[str]:
    """Return the texts to write from: of the command line, of a file, or of standard input.

    Raises:
        WheelsError: where there is none, a line is blank, or a file cannot be read: names the file and the line.
    """
    if config.text is not None and config.text != STDIN:
        if not config.text.strip():
            raise WheelsError("the text is empty; give some text, or a file by --input")
        return [config.text]
    name = "standard input" if config.input in (None, STDIN) else str(config.input)
    lines = _bounded(_lines(config, name), name)
    first = next(lines, None)
    if first is None:
        raise WheelsError(f"{name}: nothing but blank lines; give one text a line")
    rows, lines = _are_rows(config, name, first[1]), itertools.chain([first], lines)
    if rows:
        found = (row_of(record, place, config.source, "target", False) for place, record in records_of(name, lines))
        return [row.source for row in found]
    return _texts(name, {_number(place): line for place, line in lines}, config.on_error == "skip")


def _bounded(lines: Iterator[tuple[str, str]], name: str) -> Iterator[tuple[str, str]]:
    """Yield the lines, as many as fit into one run; standard input may have no end."""
    characters = 0
    for number, (place, line) in enumerate(lines, 1):
        if len(line) > LONGEST_TEXT:
            raise WheelsError(f"{place}: more than {LONGEST_TEXT:,} characters; no model reads so many, split them")
        characters += len(line)
        if number > MOST_TEXTS or characters > MOST_CHARACTERS:
            most = f"{MOST_TEXTS:,} texts or {MOST_CHARACTERS >> 20} MiB"
            raise WheelsError(f"{name}: more than {most}, which is what one run holds; give it in parts")
        yield place, line


def _lines(config: GenerateConfig, name: str) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not blank, each with its place; standard input is UTF-8 whatever the locale says."""
    if config.input not in (None, STDIN):
        return read_lines(str(config.input))
    if config.text is None and config.input is None and sys.stdin.isatty():
        raise WheelsError('no text to write from; give it in quotes ("..."), by --input FILE, or through a pipe')
    return text_lines(sys.stdin.buffer, name)


def _are_rows(config: GenerateConfig, name: str, first: str) -> bool:
    """Return whether the lines are rows: as `input_format` says, else as the name or the `first` line shows.

    Raises:
        WheelsError: where they are neither rows nor texts.
    """
    if config.input_format == "auto" and not name.endswith((".jsonl", ".jsonl.gz")):
        refuse_other_formats(name, first, (config.source.casefold(),))
        return is_object(first)
    return config.input_format != "text"


def _number(place: str) -> int:
    """Return the line of `file:line`."""
    return int(place.rpartition(":")[2])


def _texts(name: str, lines: dict[int, str], skips: bool) -> list[str]:
    """Return the texts of numbered lines, none of them blank.

    Raises:
        WheelsError: for a line between or before them that is blank, unless it `skips` such inputs.
    """
    numbers = list(lines)
    if skips:
        return [lines.get(number, "").strip() for number in range(1, numbers[-1] + 1)]
    gap = next((index for index, number in enumerate(numbers, 1) if number != index), None)
    if gap is not None:
        raise WheelsError(f"{name}:{gap}: the line is blank; remove it, or put a text there")
    return [lines[number].strip() for number in numbers]
