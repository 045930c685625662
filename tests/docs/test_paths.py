"""What the pages name in the repository exists: files, and the names in them."""

import importlib
import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, name_of

FOLDERS = "wheels|decoding|envs|agents|benchmarks|tests|docs|examples"
NAMED = re.compile(rf"`((?!wheels/Deferral-v0)(?:{FOLDERS})/[\w./-]+?)(?::([\w.]+))?`")


def named_in(text: str) -> list[tuple[str, str]]:
    """Return the paths of a page, and the name in the file where one stands behind a colon."""
    return NAMED.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_what_exists(page: Path) -> None:
    for path, name in named_in(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path
        if name:
            module = path.removesuffix(".py").replace("/", ".")
            found: object = importlib.import_module(module if module.startswith("wheels.") else f"wheels.{module}")
            for part in name.split("."):
                found = getattr(found, part)


def test_paths_and_names_are_found() -> None:
    page = "`decoding/engine.py:Engine.run`, `docs/results` and `wheels generate`, `my/file.py`"
    assert named_in(page) == [("decoding/engine.py", "Engine.run"), ("docs/results", "")]
