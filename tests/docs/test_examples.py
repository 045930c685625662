"""The examples run as they stand; the notebook prints what it shows."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOK = ROOT / "examples" / "tour.ipynb"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_from_any_folder(script: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 1


def cells(kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def printed(cell: dict[str, Any]) -> str:
    """Return what a cell printed when the notebook was last run."""
    return "".join("".join(out["text"]) for out in cell["outputs"] if out.get("name") == "stdout")


def test_the_notebook_has_outputs_and_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 100_000
    assert all(cell["outputs"] and cell["execution_count"] for cell in cells("code"))


@pytest.mark.slow
def test_the_notebook_prints_what_it_shows() -> None:
    module = types.ModuleType("__notebook__")
    for cell in cells("code"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), module.__dict__)
        assert NUMBER.sub("#", out.getvalue()) == NUMBER.sub("#", printed(cell))
        assert numbers(out.getvalue()) == pytest.approx(numbers(printed(cell)), rel=0.05, abs=0.02)
