"""Every code block of a page runs: Python as it stands, commands against the configurations, cheap ones for real."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import LANGUAGES, PAGES, blocks_of, commands_of, name_of
from wheels.cli.commands import COMMANDS
from wheels.cli.main import _find, _load, main
from wheels.config.parsing import parse
from wheels.output.streams import take_time_limit

FILES = {"--input", "--model", "--student", "--data", "--output", "--config"}
"""Flags of commands that need what only a reader has."""


def cheap() -> list[list[str]]:
    """Return the commands that write a text with the embedded pair."""
    found = [arguments for page in PAGES for arguments in commands_of(page.read_text(encoding="utf-8"))]
    return [arguments for arguments in found if arguments[0] == "generate" and not FILES & set(arguments)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_has_flags_that_exist(page: Path) -> None:
    for arguments in commands_of(page.read_text(encoding="utf-8")):
        name, rest = _find(take_time_limit(arguments)[1])
        parse(_load(COMMANDS[name].config), rest, prog=f"wheels {name}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_a_page_has_a_language_that_is_tested(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"^```(\S*)", text, re.MULTILINE)[::2]
    assert set(opened) <= LANGUAGES


@pytest.mark.slow
@pytest.mark.parametrize("arguments", cheap(), ids=" ".join)
def test_a_command_that_needs_no_files_runs(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip()


def test_the_commands_of_a_page_are_found() -> None:
    page = (
        '`wheels demo --output X` and `wheels demo`\n```sh\npip install . && wheels generate "a b"  # now\n'
        "wheels bench curve --seeds 3\n```\n"
    )
    found = [["demo", "--output", "X"], ["generate", "a b"], ["bench", "curve", "--seeds", "3"]]
    assert commands_of(page) == found


def test_the_blocks_of_a_page_are_found() -> None:
    page = '```python title="x.py"\na = 1\n```\n\n```sh\nls\n```\n```python\nb = 2\n```\n'
    assert blocks_of(page, "python") == ["a = 1\n", "b = 2\n"]
