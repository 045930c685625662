"""`wheels bench passes`: every family at its settings, costs by hand, a rerun that repeats nothing."""

import csv
import json

import pytest

from tests.decoding.tiny import save_artefact
from wheels.artefact import Artefact
from wheels.benchmarks import passes
from wheels.benchmarks.passes import Setting, as_text, points_of, run, settings_of
from wheels.benchmarks.passes_config import FAMILIES, PassesConfig
from wheels.benchmarks.records import Record
from wheels.calibration import Calibration, Point
from wheels.decoding.method import deferral, speculative
from wheels.decoding.rules import SIMPLE
from wheels.errors import WheelsError

ROWS = [("a b c", "a b"), ("k j i h", "c d"), ("d", "e"), ("e a e a", "f g"), ("c c", "h")]


@pytest.fixture
def config(tmp_path) -> PassesConfig:
    model = save_artefact(tmp_path / "model")
    Calibration([Point("learned", 0, 0.2, 0.0, 0.2)]).save(model / "deferral" / "calibration.json")
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in ROWS))
    return PassesConfig(
        model=str(model), data=str(data), budgets=(0.2,), metrics=("chrf", "bleu"), max_new_tokens=8,
        output=str(tmp_path / "out"),
    )  # fmt: skip


def test_every_family_is_measured_and_kept(config, tmp_path, capsys, monkeypatch):
    points = run(config)
    assert list(dict.fromkeys(point.family for point in points)) == ["student", "teacher", *FAMILIES]
    student, teacher = points[:2]
    assert (student.passes, student.use, teacher.passes, teacher.use) == (0.0, 0.0, 1.0, 1.0)
    lossless = [point for point in points if point.family in ("speculative", "lookup")]
    assert len(lossless) == 5 and all(point.metrics == teacher.metrics for point in lossless)
    folder = tmp_path / "out"
    kept = json.loads((folder / "passes.json").read_text())
    assert [point["label"] for point in kept["points"]] == [point.label for point in points]
    assert len(list(csv.reader((folder / "passes.csv").open()))) == len(points) + 1
    assert (folder / "passes.png").read_bytes().startswith(b"\x89PNG")
    assert "verified, budget 0.2, 2 nats" in capsys.readouterr().out
    monkeypatch.setattr(passes, "decode", lambda *args, **kwargs: pytest.fail("decoded again"))
    assert run(config) == points


def test_settings_of_one_family_have_names_of_their_own(config):
    artefact = Artefact.load(config.model)
    settings = list(settings_of(config, artefact))
    assert len({setting.key.file_name for setting in settings}) == len(settings)
    assert all("/" not in setting.key.file_name for setting in settings)


def test_costs_are_per_token_and_shares_of_the_gap_by_hand():
    def record(text: str, tokens: int, by_teacher: int, read: int, positions: int) -> Record:
        return Record(text, tokens, by_teacher, read, positions, 1.0)

    settings = [Setting("student", "alone", deferral(SIMPLE["random"]), 0.0)] * 2
    settings = [*settings, Setting("speculative", "drafts of 5", speculative(5), None)]
    outputs = [
        [record("x", 4, 0, 0, 0), record("x", 4, 0, 0, 0)],
        [record("a", 2, 2, 2, 2), record("b", 2, 2, 2, 2)],
        [record("a", 3, 1, 1, 6), record("x", 5, 1, 2, 4)],
    ]
    *_, point = points_of(settings, outputs, ["a", "b"], ["exact"])
    assert (point.passes, point.positions, point.use) == (3 / 8, 10 / 8, 2 / 8)
    assert (point.metrics, point.gap) == ({"exact": 50.0}, {"exact": 0.5})
    assert "0.375" in as_text([point], ["exact"])


def test_the_rows_of_the_calibration_are_refused(config, monkeypatch):
    monkeypatch.setattr(passes, "rows_digest", lambda rows: None)  # what an uncalibrated digest is
    with pytest.raises(WheelsError, match="calibrated on the very rows that are to be scored"):
        run(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"families": ()}, "families must hold at least one value, got none"),
        ({"budgets": (2.0,)}, r"budgets must be in \[0, 1\], got 2"),
        ({"families": ("spekulative",)}, "families must be one of .*did you mean 'speculative'"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(WheelsError, match=message):
        PassesConfig(**values)
