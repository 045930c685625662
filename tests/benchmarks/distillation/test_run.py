"""`wheels bench distillation`: a grid of students on a few rows, cut short and gone on with; what is said of it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.collections import LineCollection

from tests.distillation.conftest import rows
from tests.pictures import drawn
from wheels.benchmarks.core.stages import stage_key
from wheels.benchmarks.distillation import cache as distillation_cache
from wheels.benchmarks.distillation import run as distillation
from wheels.benchmarks.distillation.baselines import baselines, frequent_name, last_repeated
from wheels.benchmarks.distillation.config import CacheConfig, DistillationConfig, SweepConfig
from wheels.benchmarks.distillation.plan import DistillationPlan, Kind, kinds_of
from wheels.benchmarks.distillation.plot import draw
from wheels.benchmarks.distillation.summary import ModelOutputs, SweepOutputs, summarise
from wheels.benchmarks.distillation.table import as_csv, as_text
from wheels.cli import main as cli
from wheels.data.tasks import Row, Task
from wheels.distillation import cached_teacher
from wheels.errors import WheelsError
from wheels.files import read_json

SMALL = "width: 8, layers: 1, heads: 1, ff: 8, max_steps: 2, batch_size: 4, eval_limit: 2, max_target_length: 12"
RECIPE = f"""
teacher: {{{SMALL}, vocab_size: 280}}
student: {{{SMALL.replace("width: 8, ", "")}}}
sizes: {{w8: {{width: 8}}}}
sweep: {{labels: [hard, soft], temperatures: [1, 5], seeds: 1, cached_logits: 20, resamples: 100}}
scores: {{limit: 4, max_new_tokens: 6, metrics: [chrf, bleu]}}
cache: {{sizes: [4, 16], temperatures: [1, 5], rows: 12, rounds: 3, steps: 1, k: 8, seeds: 1, resamples: 100}}
"""


@pytest.fixture
def data(tmp_path) -> str:
    every = rows(30)
    (tmp_path / "data").mkdir()
    for split, part in {"train": every[:20], "validation": every[20:25], "test": every[25:]}.items():
        lines = [json.dumps({"source": row.source, "target": row.target}) for row in part]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "data")


def recipe_of(folder: Path, text: str = RECIPE) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def settings(tmp_path: Path, data: str, name: str, **options) -> DistillationConfig:
    recipe = options.pop("recipe", None) or recipe_of(tmp_path)
    return DistillationConfig(recipe=recipe, data=data, output=str(tmp_path / name), threads=1, **options)


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_killed_to_the_same_result(data, tmp_path, capsys, monkeypatch):
    distillation.run(settings(tmp_path, data, "whole"))
    whole = tmp_path / "whole"
    calls: list[str] = []
    write, load = distillation.write_texts, cached_teacher.Loading.teacher

    def dies(plan, model, place):
        calls.append(model.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(plan, model, place)

    loads: list[str] = []
    monkeypatch.setattr(cached_teacher.Loading, "teacher", lambda how, name: loads.append(name) or load(how, name))
    monkeypatch.setattr(distillation, "write_texts", dies)
    cut = settings(tmp_path, data, "cut")
    with pytest.raises(KeyboardInterrupt):
        distillation.run(cut)
    assert calls == ["teacher", "w8-hard-s0", "w8-soft-T1-s0"]
    made = (tmp_path / "cut/sweep/students/w8-hard-s0/model.safetensors").stat().st_mtime_ns
    distillation.run(cut)
    assert calls[3:] == ["w8-soft-T1-s0", "w8-soft-T5-s0"]
    assert (tmp_path / "cut/sweep/students/w8-hard-s0/model.safetensors").stat().st_mtime_ns == made
    assert len(loads) == 1, "both temperatures are served by one cache"
    results = [read_json(folder / "distillation.json") for folder in (whole, tmp_path / "cut")]
    assert results[0] == results[1]
    for name in ("distillation.csv", "distillation.png"):
        assert (whole / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    capsys.readouterr()
    distillation.run(cut)
    again = capsys.readouterr().out
    assert again.count("done before") == 5
    assert "w8 soft" in again and "(*: the best of its label" in again
    table = list(csv.DictReader((whole / "distillation.csv").open()))
    assert [row["student"] for row in table] == ["teacher", "w8-hard", "w8-soft-T1", "w8-soft-T5"]
    assert table[2]["signature"].startswith("data|test|4|w8-soft-T1|")
    resolved = read_json(whole / "resolved.json")
    assert resolved["teacher_digest"] and resolved["recipe"]["sizes"] == {"w8": {"width": 8}}
    with pytest.raises(WheelsError, match=r"differs in 'w8-soft-T1-s0'"):
        text = RECIPE.replace("cached_logits: 20", "cached_logits: 20, objective: rkl")
        distillation.run(settings(tmp_path, data, "cut", recipe=recipe_of(tmp_path, text)))


@pytest.mark.slow
def test_the_cache_is_measured(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wheels.benchmarks.distillation.cache_measures.peak_memory_mb", lambda config, folder: 100.0)
    arguments = ["bench", "distillation", "--recipe", recipe_of(tmp_path), "--data", data, "--parts", "cache"]
    arguments += ["--output", str(tmp_path / "out"), "--threads", "1"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    found = read_json(tmp_path / "out/cache.json")
    sizes = [weight["k"] for weight in found["weights"]]
    assert sizes[:2] == [4, 16] and sizes[2] == found["vocab_size"]
    assert found["weights"][0]["bytes_per_token"] == pytest.approx(4 * 4 + 4 * 2, abs=6), "the header is shared by few"
    by = {(error["k"], error["temperature"]): error for error in found["errors"]}
    for temperature in (1.0, 5.0):
        shares = [by[k, temperature]["share"] for k in sizes]
        assert 0.0 < shares[0] < shares[1] < 0.99 < shares[2]
        assert by[sizes[2], temperature]["gradient"] < 0.01 < by[4, temperature]["gradient"]
        assert all(by[k, temperature]["above"] < 1e-4 for k in sizes), "never above the full divergence"
    assert set(found["steps"]) == {"live", "cache", "hard", "cache-all"}
    assert all(len(clock) == 3 for way in found["steps"].values() for clock in way.values())
    assert found["memory_mb"] == {"live": 100.0, "cache": 100.0, "hard": 100.0}
    minus = found["quality"]["chrf"]["cache_minus_live"]
    assert minus["low"] <= minus["difference"] <= minus["high"]
    assert found["runs"][0]["live"]["cpu"] > 0.0
    assert "trained to the end, T = 1, k = 8, 1 seeds" in shown and "live / this" in shown
    assert len(list(csv.DictReader((tmp_path / "out/cache.csv").open()))) == 6


def test_ratios_are_taken_round_by_round():
    from wheels.benchmarks.core.bootstrap import ratio_by_round

    assert ratio_by_round([4.0, 6.0, 9.0], [2.0, 1.0, 3.0]) == {"median": 3.0, "low": 2.0, "high": 6.0}


def test_ways_differ_in_the_cache_alone(tmp_path, data):
    plan = DistillationPlan.of(settings(tmp_path, data, "out"))
    live, cache = (distillation_cache.student_of(plan, way, 1, tmp_path / "o") for way in ("live", "cache"))
    assert (live.cached_logits, cache.cached_logits) == (0, 8)
    same = ("seed", "objective", "temperature", "w", "width", "max_steps", "batch_size", "learning_rate", "teacher")
    assert [getattr(live, name) for name in same] == [getattr(cache, name) for name in same]


@pytest.mark.slow
def test_a_process_tells_its_own_memory_not_that_of_its_parent():
    from wheels.benchmarks.distillation.cache_measures import own_memory_mb

    mine = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    found = own_memory_mb(["--version"])
    if mine:
        parent = next(int(line.split()[1]) / 1024 for line in mine.splitlines() if line.startswith("VmHWM"))
        assert found is not None and 4 < found < 100 < parent
    with pytest.raises(WheelsError, match=r"wheels pretrain failed .*: error: output must be a folder, got ''"):
        own_memory_mb(["pretrain", "--output="])


def test_the_grid():
    sweep = SweepConfig(weights=(0.5, 0.9), temperatures=(1.0, 5.0))
    names = [kind.name for kind in kinds_of(("a", "b"), sweep)]
    assert names[:4] == ["a-hard", "a-soft-T1", "a-soft-T5", "a-both-0.5-T1"]
    assert len(names) == len(set(names)) == 2 * (1 + 2 + 2 * 2)
    assert kinds_of(("a",), SweepConfig(labels=("hard",))) == [Kind("a", "hard", 0.0, None)]


def test_a_size_may_have_fewer_temperatures_and_its_students_stay_the_same(tmp_path, data):
    wide = RECIPE.replace("sizes: {w8: {width: 8}}", "sizes: {w8: {width: 8}, w16: {width: 16}}")
    narrow = wide.replace("w16: {width: 16}", "w16: {width: 16, temperatures: [1]}")
    plans = [
        DistillationPlan.of(settings(tmp_path, data, "o", recipe=recipe_of(tmp_path, text))) for text in (wide, narrow)
    ]
    names = [{kind.name for kind in plan.kinds} for plan in plans]
    assert names[0] - names[1] == {"w16-soft-T5"} and names[1] < names[0]
    keys = [{s.name: stage_key(s) for s in distillation.sweep_stages(plan)} for plan in plans]
    assert keys[1].items() <= keys[0].items(), "a grid may grow to the temperatures that were left out"
    kind = Kind("w16", "soft", 1.0, 1.0)
    assert plans[0].student_config(kind, 0, tmp_path) == plans[1].student_config(kind, 0, tmp_path)


REFERENCES = ["the red dog runs", "a blue cat sleeps", "two men stand there", "one woman sings a song"]


def measured(quality: dict[tuple[str, float | None], tuple[int, float]], sizes=("s", "l")) -> SweepOutputs:
    """Students that write the first so many references right, with a score on validation rows."""
    cells = {}
    for size in sizes:
        for (label, temperature), (right, validation) in quality.items():
            kind = Kind(size, label, {"hard": 0.0, "soft": 1.0, "both": 0.5}[label], temperature)
            texts = [text if n < right else "nothing" for n, text in enumerate(REFERENCES)]
            cells[kind] = [ModelOutputs(texts, 10, validation), ModelOutputs(texts, 10, validation)]
    teacher = ModelOutputs(REFERENCES, 100, None)
    return SweepOutputs("t", REFERENCES, ("exact", "chrf"), cells, teacher, {"copy": 1.0}, 64, "kl", 200, "2 epochs")


def test_the_temperature_is_chosen_on_validation_rows_not_on_those_that_are_scored():
    summary = summarise(
        measured({("hard", None): (1, 9.0), ("soft", 1.0): (2, 5.0), ("soft", 5.0): (4, 3.0)}, sizes=("s",))
    )
    lines = {line["name"]: line for line in summary["lines"]}
    assert lines["s-soft-T1"]["chosen"] and not lines["s-soft-T5"]["chosen"]
    assert lines["s-soft-T5"]["scores"]["exact"]["mean"] == 100.0
    (labels,) = (one for one in summary["contrasts"] if one["claim"] == "labels")
    assert (labels["of"], labels["minus"], labels["difference"]) == ("s-soft-T1", "s-hard", 25.0)
    (temperature,) = (one for one in summary["contrasts"] if one["claim"] == "temperature")
    assert (temperature["of"], temperature["difference"]) == ("s-soft-T5", 50.0)
    assert lines["s-soft-T5"]["minus_hard"]["exact"]["difference"] == 75.0
    assert lines["s-hard"]["minus_hard"] == {}
    assert lines["s-hard"]["by_seed"]["exact"] == [25.0, 25.0]
    low, high = (lines["s-hard"]["scores"]["exact"][end] for end in ("low", "high"))
    assert low < 25.0 < high, "the interval is over sentences too"
    assert summary["teacher"]["exact"]["mean"] == 100.0


def test_capacity_is_the_gain_of_one_size_minus_that_of_another():
    parts = [measured({("hard", None): (1, 1.0), ("soft", 1.0): (2, 1.0)}, sizes=("s",))]
    parts += [measured({("hard", None): (1, 1.0), ("soft", 1.0): (4, 1.0)}, sizes=("l",))]
    both = SweepOutputs(**(vars(parts[0]) | {"cells": {**parts[0].cells, **parts[1].cells}}))
    (found,) = (one for one in summarise(both)["contrasts"] if one["claim"] == "capacity")
    assert (found["of"], found["difference"]) == ("(soft - hard) at l", 50.0)


def test_weights_are_held_against_the_lowest_and_have_a_row_of_the_picture():
    one = measured({("hard", None): (1, 1.0), ("both", 1.0): (2, 1.0), ("soft", 1.0): (4, 2.0)})
    heavier = {replace(kind, w=0.9): cells for kind, cells in one.cells.items() if kind.label == "both"}
    right = [ModelOutputs([*REFERENCES[:3], "nothing"], 10, 1.0)] * 2
    two = SweepOutputs(**(vars(one) | {"cells": {**one.cells, **dict.fromkeys(heavier, right)}}))
    found = [(c["of"], c["minus"], c["difference"]) for c in summarise(two)["contrasts"] if c["claim"] == "weight"]
    assert found[:2] == [("s-soft-T1", "s-both-0.5-T1", 50.0), ("l-soft-T1", "l-both-0.5-T1", 50.0)]
    assert found[2:] == [("s-both-0.9-T1", "s-both-0.5-T1", 25.0), ("l-both-0.9-T1", "l-both-0.5-T1", 25.0)]
    alone = drawn(draw, summarise(one)).axes
    assert len(alone) == 2, "one weight: a panel a size"
    intervals = [mark for mark in alone[0].collections if isinstance(mark, LineCollection)]
    assert len(intervals) == 2, "points that stand alone show their intervals"
    panels = drawn(draw, summarise(two)).axes
    assert [panel.get_xlabel()[0] for panel in panels] == ["t", "t", "w", "w"]
    line, _ = panels[2].lines  # the other is the teacher's
    assert line.get_xydata().tolist() == [[0.0, 25.0], [0.5, 50.0], [0.9, 75.0], [1.0, 100.0]]
    assert [text.get_text() for text in panels[3].get_legend().get_texts()] == ["T = 1"]
    assert [text.get_text() for text in panels[3].texts] == ["teacher: 100.0"]


def test_table_csv_and_picture():
    quality = {("hard", None): (1, 1.0), ("soft", 1.0): (2, 5.0), ("soft", 5.0): (3, 3.0), ("both", 1.0): (4, 3.0)}
    summary = summarise(measured(quality))
    text = as_text(summary)
    assert "students by kl from a cache of 64 tokens, 2 epochs" in text
    assert "s both, w 0.5*" in text and "s soft*" in text and "without a model, exact match" in text
    table = list(csv.DictReader(as_csv(summary).splitlines()))
    assert len(table) == 9 and table[0]["exact"] == "100" and table[1]["exact_minus_hard"] == ""
    assert {row["size"] for row in table[1:]} == {"s", "l"}
    assert len(drawn(draw, summary).axes) == 2
    assert summary["lines"][0]["name"] == "s-hard"


def test_words_copied_from_the_source():
    text = 'The man met Anna. "Do you know Bob?" asked Anna, and Anna smiled at Bob. Then I left the garden of'
    assert frequent_name(text) == "Anna"
    assert last_repeated("the garden was large and she loved the garden of") == "garden"
    assert frequent_name("no names. Here") == last_repeated("all words differ") == ""
    split = [Row("we met Anna and Anna", "Anna"), Row("some large garden, a garden", "garden"), Row("x y", "z")]
    task = Task("t", {"train": [Row("a", "z"), Row("b", "z"), Row("c", "q")], "test": split}, metrics=("exact",))
    found = baselines(task, split, task.metrics)
    assert list(found.values()) == pytest.approx([100 / 3, 100 / 3, 200 / 3, 200 / 3])
    assert baselines(task, split, ("bleu",)) == {}


@pytest.mark.parametrize(
    "name", ["distillation-multi30k", "distillation-multi30k-rate", "distillation-cache", "distillation-lambada"]
)
def test_shipped_recipes_are_whole(tmp_path, name):
    plan = DistillationPlan.of(DistillationConfig(recipe=name, data="d", teacher="t", output=str(tmp_path)))
    assert plan.cache.size is None or plan.cache.size in plan.sizes
    soft = next(kind for kind in plan.kinds if kind.label == "soft")
    assert plan.student_config(soft, 2, tmp_path).seed == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE.replace("sizes: {w8: {width: 8}}", ""), "must have the section sizes"),
        (RECIPE.replace("w8: {", "teacher: {"), "'teacher' cannot be the name of a size"),
        (RECIPE.replace("{width: 8}}", "3}"), "sizes: w8 must hold `key: value` lines, got 3"),
        (
            RECIPE.replace("{width: 8}}", "{width: 8, temperatures: [1, 2]}}"),
            r"w8: temperatures must be some of 1, 5, got \[1, 2",
        ),
        (RECIPE.replace("labels: [hard", "labels: [hart"), "sweep: labels must be one of hard, soft, both.*'hard'"),
        (RECIPE.replace("seeds: 1, cached", "weights: [1], cached"), "weights must be between 0 .* got 1"),
        (RECIPE.replace("k: 8,", "k: 8, size: w9,"), "cache: size must be one of w8, got 'w9'"),
        (RECIPE.replace("student: {", "student: {seed: 3, "), "sizes: w8: seed is set by the run itself"),
        (RECIPE.replace("teacher: {", "#"), "has no section teacher; add one, or give --teacher DIR"),
    ],
)
def test_a_bad_recipe_is_refused_before_any_work(data, tmp_path, text, message):
    with pytest.raises(WheelsError, match=f"recipe.yaml: .*{message}"):
        distillation.run(settings(tmp_path, data, "out", recipe=recipe_of(tmp_path, text)))
    assert not (tmp_path / "out").exists()


def test_configurations_are_checked():
    with pytest.raises(WheelsError, match="parts must be one of sweep, cache, got 'all'"):
        DistillationConfig(recipe="r", data="d", parts=("all",))
    with pytest.raises(WheelsError, match="temperatures must hold at least one value"):
        SweepConfig(temperatures=())
    assert CacheConfig(temperatures=(5.0,), temperature=2.0).temperatures == (2.0, 5.0)
