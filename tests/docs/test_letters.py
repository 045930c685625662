"""The letters of tensors' axes: each that the product uses stands in CONTRIBUTING's table, once."""

import ast
import re
from pathlib import Path

from tests.docs.blocks import ROOT

FOLDERS = ("wheels", "decoding", "envs", "agents", "benchmarks")
SUFFIX = re.compile(r"[a-z0-9]_([A-Z]+)$")


def letters_of(source: str) -> set[str]:
    """Return the axes that end the names of a file, as in `logits_BTV`."""
    names = [
        name
        for node in ast.walk(ast.parse(source))
        for field in ("id", "arg", "attr", "name")
        if isinstance(name := getattr(node, field, None), str)
    ]
    return {letter for name in names if (found := SUFFIX.search(name)) for letter in found[1]}


def table() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## The letters")[1].split("\n## ")[0]
    return re.findall(r"^\| ([A-Z]) \|", section, re.MULTILINE)


def files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_letter_of_an_axis_is_in_the_table_once() -> None:
    used = set().union(*(letters_of(path.read_text(encoding="utf-8")) for path in files()))
    assert used - set(table()) == set()
    assert table() == sorted(set(table()))


def test_the_letters_of_a_name_are_found() -> None:
    assert letters_of("logits_BTV = f(x_D)\nself.cost_B = 1\ndef g(mask_BT): ...\nMOST_BIG = 1\nA_B = 2") == set("BTVD")
