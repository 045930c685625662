"""What `wheels generate` reads: a text of the command line, lines of text, or rows with a column of texts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from wheels.data.formats import read_records, text_records
from wheels.data.lines import Records
from wheels.data.rows import BadRow, Columns, row_of, warn_of_bad_rows
from wheels.decoding.commands.generate_config import GenerateConfig
from wheels.errors import WheelsError

STDIN = "-"
"""The name that stands for standard input."""
MOST_TEXTS = 2_000_000
"""Texts that one run holds in memory: those of a pipe, which cannot be read twice, and where all are needed at once."""
MOST_CHARACTERS = 256 << 20
"""Characters of all of them."""
LONGEST_TEXT = 1 << 20
"""Characters of one text: a tokenizer takes minutes for more."""


class FileTexts:
    """The texts of a file, which is read anew whenever they are asked for.

    Raises:
        WheelsError: at once, for anything in it that is not as its format says.
    """

    def __init__(self, config: GenerateConfig) -> None:
        self._config = config
        self._count = sum(1 for _ in _checked(config, str(config.input), self._records(), tell=True))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return _checked(self._config, str(self._config.input), self._records())

    def _records(self) -> Records:
        config = self._config
        form, column = config.input_format, config.source
        return read_records(str(config.input), form=form, wanted=[column], line=column)


Texts = FileTexts | list[str]
"""The texts to write from, in their order."""


def read_sources(config: GenerateConfig) -> Texts:
    """Return the texts to write from: of the command line, of a file, or of standard input.

    Raises:
        WheelsError: where there is none, or a file cannot be read: names the file, the row and the column.
    """
    if config.text is not None and config.text != STDIN:
        if not config.text.strip():
            raise WheelsError("the text is empty; give some text, or a file by --input")
        return [config.text]
    if config.input not in (None, STDIN):
        path = Path(str(config.input))
        if path.is_file():
            return FileTexts(config)
        records = read_records(path, form=config.input_format, line=config.source)
        return held(_checked(config, str(path), records, tell=True), str(path))
    if config.text is None and config.input is None and sys.stdin.isatty():
        raise WheelsError('no text to write from; give it in quotes ("..."), by --input FILE, or through a pipe')
    name = "standard input"
    given: Any = sys.stdin.buffer
    pipe = given if isinstance(given, BufferedReader) else BufferedReader(given)
    records = text_records(pipe, name, config.input_format, config.source)
    return held(_checked(config, name, records, tell=True), name)


def held(texts: Iterable[str], name: str) -> list[str]:
    """Return texts as a list, as many as fit into one run.

    Raises:
        WheelsError: where there are more; standard input may have no end.
    """
    found, characters = [], 0
    for text in texts:
        found.append(text)
        characters += len(text)
        if len(found) > MOST_TEXTS or characters > MOST_CHARACTERS:
            most = f"{MOST_TEXTS:,} texts or {MOST_CHARACTERS >> 20} MiB"
            raise WheelsError(f"{name}: more than {most}, which is what one run holds; give a file, or parts")
    return found


def _checked(config: GenerateConfig, name: str, records: Records, tell: bool = False) -> Iterator[str]:
    """Yield the text of each row; "" for one that does not fit, where such inputs are skipped.

    Args:
        config: names the column, and says what is skipped.
        name: of the input.
        records: its rows.
        tell: whether to warn of those that do not fit.

    Raises:
        WheelsError: for a row that does not fit, where it is not skipped, or none does; for a text that is too long.
    """
    columns, bad, count = Columns(config.source, require_target=False), list[BadRow](), 0
    for place, record in records:
        count += 1
        try:
            text = row_of(record, place, columns).source
        except BadRow as error:
            if config.on_error == "stop":
                raise
            bad.append(error)
            text = ""
        if len(text) > LONGEST_TEXT:
            raise WheelsError(f"{place}: more than {LONGEST_TEXT:,} characters; no model reads so many, split them")
        yield text
    if bad and len(bad) == count:
        raise bad[0]
    if bad and tell:
        warn_of_bad_rows(name, bad, count)
