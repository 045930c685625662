from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pictures import pixels
from wheels.benchmarks.redraw import main, redraw
from wheels.errors import WheelsError

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_result_is_drawn_again_from_its_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(RESULTS / "rationales_anli" / "rationales.json", tmp_path)
    assert main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "rationales.json", "rationales.png", "rationales-dark.png"
    }  # fmt: skip
    assert pixels((tmp_path / "rationales-dark.png").read_bytes()).mean() < 0.5
    assert capsys.readouterr().out.strip() == str(tmp_path / "rationales.json")


def test_a_folder_without_a_result_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WheelsError, match=r"holds no result that has a picture: none of annotation, ceiling"):
        redraw(tmp_path)
    assert main([str(tmp_path)]) == 2 and "error:" in capsys.readouterr().err
