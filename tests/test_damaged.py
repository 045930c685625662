"""Files of earlier runs that were damaged: each reader names the file in one line, whatever stands in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_json_text import DAMAGED
from wheels.agents.runlog import Metrics
from wheels.benchmarks.core.stages import seconds_of
from wheels.benchmarks.curve.diagnostics import read_prices
from wheels.distillation.run_folder import run_facts
from wheels.distillation.teacher_outputs import tokens_written
from wheels.errors import WheelsError
from wheels.models.artefact import check_model
from wheels.policy.calibration import FORMAT, Calibration
from wheels.runs import find

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "calibration": ("calibration.json", lambda folder: Calibration.load(folder / "calibration.json")),
    "head": ("deferral/config.json", check_model),
    "begun": ("run.json", lambda folder: find(folder, "train", {"seed": 0}, kept=lambda: True)),
    "finished": ("finished.json", run_facts),
    "tokens": ("tokens.json", tokens_written),
    "stages": ("run.json", seconds_of),
}
OTHERS = {
    "list": b"[]", "list of lists": b"[[[[]]]]", "list of objects": b"[{}]", "null": b"null", "number": b"0.5",
    "text": b'"a"', "true": b"true", "nulls": b'[{"source": null, "answer": 1, "consistency": "x"}]',
}  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGED, *OTHERS])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, damage):
    file, read = READERS[name]
    place = tmp_path / file
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(DAMAGED[damage][0] if damage in DAMAGED else OTHERS[damage])
    with pytest.raises(WheelsError, match=r"\.json") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [*DAMAGED, *OTHERS])
def test_what_can_be_made_again_is_passed_over(tmp_path, damage):
    content = DAMAGED[damage][0] if damage in DAMAGED else OTHERS[damage]
    (tmp_path / "a.json").write_bytes(content)
    assert read_prices(tmp_path / "a.json") == {}
    (tmp_path / "metrics.jsonl").write_bytes(content + b'\n{"seed": 1}\n')
    Metrics(tmp_path / "metrics.jsonl", 0).keep_before(0)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"seed": 1}\n'


POINT = '{"rule": "margin", "seed": 0, "budget": 0.2, "threshold": %s, "use": 0.19}'


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (POINT % "NaN", "'threshold' is not as this version writes it"),
        (POINT % '"0.5"', "'threshold' is not"),
        (POINT % "true", "'threshold' is not"),
        ('{"rule": "margin"}', "missing 4 required"),
        ((POINT % "1").replace("seed", "seeed"), "'seeed' is not"),
        ("[]", "must hold Points, got a list"),
    ],
)
def test_a_threshold_that_is_no_number_is_refused(tmp_path, point, message):
    rest = '"data": "", "data_digest": null, "rows": 1, "date": ""'
    (tmp_path / "c.json").write_text(f'{{"format": {FORMAT}, "points": [{point}], {rest}}}')
    with pytest.raises(WheelsError, match=f"c.json: .*{message}"):
        Calibration.load(tmp_path / "c.json")
    (tmp_path / "c.json").write_text(f'{{"format": {FORMAT}, "points": [{POINT % "Infinity"}], {rest}}}')
    assert Calibration.load(tmp_path / "c.json").points[0].threshold == float("inf")
