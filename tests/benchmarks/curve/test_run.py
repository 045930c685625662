from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.marks import slow
from wheels.benchmarks.core import decodes as core_decodes
from wheels.benchmarks.core import results
from wheels.benchmarks.core.cell import PointKey
from wheels.benchmarks.core.results import plain_values
from wheels.benchmarks.curve import decodes
from wheels.benchmarks.curve import run as curves
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.curve.decodes import load_artefact, rows_digest
from wheels.benchmarks.curve.diagnostics import Diagnostics
from wheels.benchmarks.curve.run import run
from wheels.data.prompts import Prompt
from wheels.data.tasks import Row
from wheels.decoding.methods.method import Method
from wheels.decoding.methods.rules import RULES
from wheels.decoding.params import DecodeParams
from wheels.errors import WheelsError
from wheels.output.page import Picture
from wheels.policy.calibration import NotCalibrated

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "near", "a", "river", "bank"]
TEST_ROWS = [Row(f"Satz {i}", " ".join(WORDS[i:] + WORDS[:i])) for i in range(12)]
OTHER_ROWS = [Row(f"Anderer Satz {i}", "text") for i in range(5)]


class Prompted:
    """What the curve reads and sets of a pair."""

    prompt, source_limit = Prompt(), None

    def read_by(self, prompt: str) -> None:
        self.prompt = Prompt.of(prompt)


@dataclass
class Calibration:
    """Knows every rule but those in `lacking`."""

    data_digest: str | None = rows_digest(OTHER_ROWS)
    lacking: tuple[str, ...] = ()
    points: list[Any] = field(default_factory=list)
    shift: dict[PointKey, float] = field(default_factory=dict)
    save: Any = None
    model_digest: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    def threshold(self, rule: str, budget: float, seed: int) -> float:
        if rule in self.lacking:
            raise NotCalibrated(f"{rule} was not calibrated")
        return 1.0 - budget + self.shift.get(PointKey(rule, seed, budget), 0.0)

    nearest = threshold

    def levels(self, rule: str, seed: int) -> tuple[tuple[float, float], ...]:
        return (0.0, 1.0), (0.5 + self.shift.get(PointKey(rule, seed, 0.0), 0.0), 0.5)


@dataclass
class Artefact:
    """A model that says what it is asked."""

    pair: Any = field(default_factory=Prompted)
    heads: dict[str, list[str]] = field(default_factory=lambda: {"learned": ["a", "b"], "regret": ["c", "d", "e"]})
    calibration: Calibration = field(default_factory=Calibration)
    student_name: str = "small"
    teacher_name: str = "large"
    digest: str = "models-1"
    folder: Path | None = None

    def head_digest(self, rule: str, seed: int) -> str:
        return self.heads[rule][seed] if rule in self.heads else ""


class Decoder:
    """Records what it decodes; writes the first half of the reference, and more of it under a larger budget."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.calls: list[tuple[PointKey, dict[str, Any]]] = []
        self.stop_after = stop_after

    def __call__(
        self, pair: Any, sources: list[str], method: Method, params: DecodeParams, *, progress: Any, batch_size: int
    ) -> list[Any]:
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        (budget,) = method.budgets
        asked = {"mode": method.mode, "max_new_tokens": params.max_new_tokens, "batch_size": batch_size}
        told = {"sources": sources, "prompt": pair.prompt} | asked
        self.calls.append((PointKey(method.name, params.seed, budget), told))
        references = {row.source: row.target.split() for row in TEST_ROWS}
        traces = []
        for source in sources:
            words = references[source]
            length = round(len(words) * (0.5 + 0.5 * budget))
            calls = round(budget * length)
            traces.append(
                SimpleNamespace(
                    text=" ".join(words[:length]),
                    tokens=length,
                    teacher_tokens=calls,
                    pieces=tuple(f" {word}" for word in words[:length]),
                    authors=("teacher",) * calls + ("student",) * (length - calls),
                    teacher_passes=calls,
                    teacher_positions=calls,
                    student_passes=length,
                    seconds=0.01,
                    token_ids=tuple(range(length)),
                )
            )
        progress(len(sources))
        return traces


@dataclass
class World:
    """One model, one data file, one output folder."""

    artefact: Artefact
    data: Path
    output: Path
    monkeypatch: pytest.MonkeyPatch

    def run(self, decoder: Decoder | None = None, **settings: Any) -> tuple[Any, Decoder]:
        """Measure; a curve that is there counts as unfinished, its points as kept."""
        (self.output / "curve.json").unlink(missing_ok=True)
        return self.again(decoder, **settings)

    def again(self, decoder: Decoder | None = None, **settings: Any) -> tuple[Any, Decoder]:
        decoder = decoder or Decoder()
        self.monkeypatch.setattr(core_decodes, "decode", decoder)
        usual = {
            "data": str(self.data),
            "output": str(self.output),
            "budgets": (0.0, 0.2, 0.5, 1.0),
            "rules": ("learned", "random", "entropy"),
            "seeds": 2,
            "resamples": 100,
        }
        return run(CurveConfig(**usual | settings)), decoder


def write_rows(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps({"source": row.source, "target": row.target}) + "\n" for row in rows))
    return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    artefact = Artefact()
    monkeypatch.setattr(curves, "rows_for", lambda pair, sources, longest, batch_size, most: batch_size)
    monkeypatch.setattr(decodes, "load_artefact", lambda config: artefact)
    monkeypatch.setattr(
        decodes,
        "calibrated",
        lambda artefact, name, budget, *_: replace(RULES["random"], name=name).at(0.5, budget),
    )
    monkeypatch.setattr(results, "render", lambda draw, curve: Picture(b"\x89PNG", b""))  # its own tests draw
    monkeypatch.setattr(curves, "diagnose", lambda *inputs: Diagnostics())
    monkeypatch.setattr(curves, "sections", lambda curve, diagnostics: ["<h2>Diagnostics</h2>"])
    return World(artefact, write_rows(tmp_path / "scored.jsonl", TEST_ROWS), tmp_path / "out", monkeypatch)


def inner(decoder: Decoder) -> list[PointKey]:
    return [key for key, _ in decoder.calls if 0 < key.budget < 1]


def test_a_run_decodes_each_point_once_and_writes_everything(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    curve, decoder = world.run()
    seeds = {"learned": (0, 1), "random": (0, 1), "entropy": (0,)}
    ends = [key for key, _ in decoder.calls if key.budget in (0.0, 1.0)]
    assert [(key.seed, key.budget) for key in ends] == [(0, 0.0), (0, 1.0)]
    assert inner(decoder) == [PointKey(r, s, b) for r in seeds for s in seeds[r] for b in (0.2, 0.5)]
    shown = capsys.readouterr().out
    assert "BLEU at equal teacher use" in shown and str(world.output) in shown
    files = {path.name for path in world.output.iterdir()} - {".lock"}
    assert files == {
        "curve.json",
        "curve.csv",
        "curve.png",
        "curve-dark.png",
        "report.html",
        "resolved.json",
        "run.json",
        "points",
    }
    found = json.loads((world.output / "curve.json").read_text())
    assert found["points"][0]["signature"] == "scored|12|small|large|learned|0|0|wheels:0.1.0"
    assert found["metric_signatures"]["bleu"].startswith("nrefs:1")
    assert found["versions"]["wheels"] == "0.1.0"
    resolved = json.loads((world.output / "resolved.json").read_text())
    assert resolved["data_digest"] == rows_digest(TEST_ROWS)
    assert resolved["config"]["budgets"] == [0.0, 0.2, 0.5, 1.0]
    assert plain_values(curve) == found
    page = (world.output / "report.html").read_text()
    assert "<h2>Diagnostics</h2>" in page
    assert f"wheels bench curve --data {world.data} --resamples 100 " in page and " --budgets 0,0.2,0.5,1 " in page


def test_the_decoder_gets_the_settings(world: World) -> None:
    settings = {"mode": "strict", "max_new_tokens": 40, "batch_size": 7, "prompt": "Translate: {source}", "limit": 9}
    _, decoder = world.run(**settings)
    for _, request in decoder.calls:
        assert (request["mode"], request["max_new_tokens"], request["batch_size"]) == ("strict", 40, 7)
        assert request["prompt"].text == "Translate: {source}"
        assert request["sources"] == [row.source for row in TEST_ROWS[:9]]


def test_an_interrupted_run_continues_where_it_stopped(world: World) -> None:
    first = Decoder(stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        world.run(first)
    assert not (world.output / "curve.json").exists()
    curve, second = world.run()
    whole, _ = world.run(output=str(world.output) + "-whole")
    assert len(first.calls) == 5 and len(second.calls) == 7
    assert not set(map(str, inner(first))) & set(map(str, inner(second)))
    assert plain_values(curve) == plain_values(whole)
    assert world.run()[1].calls == []


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda w: w.artefact.heads["learned"].__setitem__(1, "new"), {("learned", 1)}),
        (lambda w: setattr(w.artefact, "digest", "models-2"), {("learned", 0), ("learned", 1), ("random", 0),
                                                               ("random", 1), ("entropy", 0)}),
        (lambda w: w.artefact.calibration.shift.update({PointKey("entropy", 0, 0.5): 0.1}), {("entropy", 0)}),
        (lambda w: None, set()),
    ],
)  # fmt: skip
def test_only_what_was_made_otherwise_is_decoded_again(world: World, change: Any, again: set[tuple[str, int]]) -> None:
    world.run()
    change(world)
    _, decoder = world.run()
    assert {(key.rule, key.seed) for key in inner(decoder)} == again


def test_online_decodes_depend_on_the_batch_size_and_on_all_levels(world: World) -> None:
    world.run(mode="online")
    assert world.run(mode="online")[1].calls == []
    again = world.run(mode="online", batch_size=3)[1]
    assert len(inner(again)) == len(again.calls) == 10, "the ends are one model alone"
    world.artefact.calibration.shift[PointKey("entropy", 0, 0.0)] = 0.1  # a use that is not among the budgets
    assert {key.rule for key in inner(world.run(mode="online", batch_size=3)[1])} == {"entropy"}


@pytest.mark.parametrize(
    ("settings", "repeats"),
    [({"mode": "strict"}, 12), ({"batch_size": 3}, 0), ({"budgets": (0.2, 0.3)}, 5),
     *slow(({"max_new_tokens": 9}, 12), ({"limit": 6}, 12), ({"dtype": "float16"}, 12), ({"resamples": 120}, 0),
           ({"rules": ("entropy",)}, 0))],
)  # fmt: skip
def test_settings_that_change_outputs_decode_again(world: World, settings: dict[str, Any], repeats: int) -> None:
    world.run()
    assert len(world.run(**settings)[1].calls) == repeats


def test_outputs_of_rounded_weights_are_others(world: World) -> None:
    world.run()
    assert len(world.run(teacher_weights="int8")[1].calls) == 12 and world.run(teacher_weights="int8")[1].calls == []
    assert len(world.run(teacher_weights="int8", batch_size=3)[1].calls) == 12, "and of one batch size"


def test_below_float32_outputs_are_of_one_batch_size(world: World) -> None:
    world.run(dtype="bfloat16")
    assert len(world.run(dtype="bfloat16")[1].calls) == 0
    assert len(world.run(dtype="bfloat16", batch_size=3)[1].calls) == 12


def test_an_output_that_cannot_be_written_is_found_before_the_work(world: World) -> None:
    world.output.write_text("a file")
    decoder = Decoder()
    with pytest.raises(WheelsError, match="cannot write"):
        world.again(decoder)
    assert decoder.calls == []


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"budgets": (0.0, 0.2, 1.0)}, "budgets"), *slow(({"rules": ("entropy",)}, "rules"), ({"limit": 6}, "limit"),
     ({"resamples": 120}, "resamples"), ({"mode": "strict"}, "mode"))],
)  # fmt: skip
def test_a_curve_of_other_settings_is_kept(world: World, settings: dict[str, Any], name: str) -> None:
    world.run()
    before = (world.output / "curve.json").read_bytes()
    with pytest.raises(WheelsError, match=f"out holds a run with {name} .*; give another --output, or remove"):
        world.again(**settings)
    assert (world.output / "curve.json").read_bytes() == before
    assert world.again(batch_size=3)[1].calls == [], "the same curve"


def test_a_curve_of_another_model_is_kept(world: World) -> None:
    world.run()
    world.artefact.calibration.shift[PointKey("entropy", 0, 0.5)] = 0.1
    with pytest.raises(WheelsError, match="holds a run with points_digest"):
        world.again()


def test_results_do_not_go_where_something_else_is(world: World) -> None:
    world.output.mkdir()
    (world.output / "train.jsonl").write_text("mine")
    with pytest.raises(WheelsError, match=r"holds something else \(train.jsonl\)"):
        world.run()
    assert [path.name for path in world.output.iterdir()] == ["train.jsonl"]


def test_the_artefact_is_loaded_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    threads: list[tuple[Any, ...]] = []
    artefact = SimpleNamespace(pair="the pair")
    monkeypatch.setattr(decodes.Artefact, "of_student", lambda *args, **more: asked.append((args, more)) or artefact)
    monkeypatch.setattr(decodes, "set_threads", lambda *args: threads.append(args))
    load_artefact(
        CurveConfig(
            model="m",
            teacher="t",
            device="cuda",
            dtype="bfloat16",
            threads=3,
            teacher_weights="int8",
            teacher_device="cuda:1",
            teacher_quantization="int4",
        )
    )
    weights = {"student_weights": "float32", "teacher_weights": "int8"}
    of_teacher = {"teacher_device": "cuda:1", "teacher_quantization": "int4"}
    assert asked[0][1].pop("load_pair").keywords == {"span": "tokens:1"}
    assert asked == [(("m", "t"), {"device": "cuda", "dtype": "bfloat16", **weights, **of_teacher})]
    assert threads == [(3, "the pair")]


@pytest.mark.slow
def test_more_models_of_the_pair_are_further_seeds(world: World) -> None:
    curve, decoder = world.run(also=("second", "third"))
    assert curve["seeds"] == {"learned": [0, 1, 2, 3, 4, 5], "random": [0, 1, 2, 3, 4, 5], "entropy": [0, 1, 2]}
    assert len(decoder.calls) == 3 * 12
    assert curve["notes"] == ["seeds of 3 models, pooled"]
    assert world.run(also=("second", "third"))[1].calls == []
    with pytest.raises(WheelsError, match="holds a run with points_digest"):
        world.again()
