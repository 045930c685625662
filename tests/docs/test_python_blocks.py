"""The Python of every page runs, from the first block to the last, in an empty folder."""

import types
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, blocks_of, name_of

WITH_PYTHON = [page for page in PAGES if blocks_of(page.read_text(encoding="utf-8"), "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("__page__")
    for block in blocks_of(page.read_text(encoding="utf-8"), "python"):
        exec(compile(block, name_of(page), "exec"), module.__dict__)
