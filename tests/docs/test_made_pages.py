"""Pages and pictures that are made from the code."""

from collections import Counter
from pathlib import Path

import pytest
from api_pages import api_pages, names_of
from command_pages import command_pages
from import_picture import UP, draw, edges_of, rooms_of

from wheels.cli.commands import COMMANDS
from wheels.cli.main import _load
from wheels.config.fields import fields_of
from wheels.config.flags import ON_EVERY_COMMAND

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_page_with_all_its_flags(name: str) -> None:
    (text,) = [text for _, title, text in command_pages() if title == name]
    shown = [line.split("`")[1].split(" ")[0].replace("[no-]", "") for line in text.splitlines() if "| `" in line]
    fields = fields_of(_load(COMMANDS[name].config))
    assert {field.flag for field in fields if not field.positional} <= set(shown)
    assert len(shown) == len(fields) + len(ON_EVERY_COMMAND)


def test_every_public_name_has_its_entry() -> None:
    text = "\n".join(text for _, _, text in api_pages())
    for name in names_of("wheels"):
        assert f"\n::: wheels.{name}\n" in text


def test_the_picture_of_imports_has_no_arrow_up() -> None:
    edges = edges_of(ROOT)
    assert edges["agents/rl", "wheels/policy"] > 0
    assert UP not in draw(edges)


def test_an_arrow_up_is_red() -> None:
    edges = Counter({("decoding", "wheels"): 2, ("wheels", "decoding"): 1})
    assert rooms_of(edges) == ["decoding", "wheels"]
    assert UP in draw(edges)
