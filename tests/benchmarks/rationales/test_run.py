"""`wheels bench rationales`: a small grid, cut short and continued; the overlap and the table by hand."""

from __future__ import annotations

import csv
import json

import pytest

from tests.benchmarks.study.test_run import data, recipe_of  # noqa: F401
from wheels.benchmarks.rationales import cells as rationales_cells
from wheels.benchmarks.rationales import run as rationales
from wheels.benchmarks.rationales.config import GridConfig
from wheels.benchmarks.rationales.overlap import answer_places, overlap
from wheels.benchmarks.rationales.summary import against, as_text
from wheels.cli import main as cli
from wheels.errors import WheelsError
from wheels.files import read_json, write_text

SMALL = "width: 8, layers: 1, heads: 1, ff: 8, max_steps: 2, batch_size: 8, eval_limit: 0, max_target_length: 16"
RECIPE = f"""
teacher: {{{SMALL}, vocab_size: 280}}
student: {{{SMALL}}}
grid: {{methods: [saliency, integrated-gradients], ks: [1, 2], k: 2, controls: [none, random, untrained-teacher],
  seeds: 1, steps: 2, resamples: 100, captum: true, published: 50, metric: exact}}
"""


@pytest.mark.slow
def test_a_grid_goes_on_where_it_was_killed(data, tmp_path, capsys, monkeypatch):  # noqa: F811
    output = tmp_path / "out"
    arguments = ["bench", "rationales", "--recipe", recipe_of(tmp_path, RECIPE), "--data", data, "--threads", "1"]
    arguments += ["--output", str(output)]
    score, calls = rationales_cells.score_cell, []

    def counted(grid, task, model, place):
        calls.append(place.stem)
        if len(calls) == 3:
            raise KeyboardInterrupt
        score(grid, task, model, place)

    monkeypatch.setattr(rationales, "score_cell", counted)
    assert cli.main(arguments) == 130
    assert cli.main(arguments) == 0
    random = "random-2-0"
    kinds = ["none-0", "untrained-teacher-2-0", "saliency-1-0", "saliency-2-0", "integrated-gradients-2-0"]
    assert calls == ["teacher", kinds[0], random, random, *kinds[1:]], "what was done is not done again"
    printed = capsys.readouterr().out
    assert "Published (Ballout et al. 2024): 50%" in printed
    assert "not comparable" in printed
    report = read_json(output / "rationales.json")
    assert [(line["name"], line["k"]) for line in report["students"]] == [
        ("none", 0), ("random", 2), ("untrained-teacher", 2), ("saliency", 1), ("saliency", 2),
        ("integrated-gradients", 2),
    ]  # fmt: skip
    assert set(report["throughput"]["rows_per_second"]) == {"ours", "captum saliency", "captum layer"}
    signed = [row["signature"] for row in csv.DictReader((output / "rationales.csv").open())]
    assert len(set(signed)) == 6
    assert signed[4].startswith("data|5|")
    assert "|saliency|k:2|0|exact|wheels:" in signed[4]
    assert (output / "rationales.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (output / "rows" / "saliency-1" / "train.jsonl").read_text().splitlines()]
    assert all(len(row["attributed"].split()) == 1 and row["attributed"] in row["source"].split() for row in rows)
    facts = read_json(output / "students" / "saliency-1-0" / "finished.json")
    assert (facts["rows"], facts["rationales"], facts["prompt"]) == (20, 20, "predict: {source}")
    assert "rationales" not in read_json(output / "students" / "none-0" / "finished.json")
    assert cli.main(arguments) == 0
    assert len(calls) == 8
    assert "saliency" in capsys.readouterr().out
    recipe_of(tmp_path, RECIPE.replace("ks: [1, 2]", "ks: [1, 2, 3]").replace("captum: true", "captum: false"))
    assert cli.main(arguments) == 0
    assert calls[8:] == ["saliency-3-0"], "a grid grows in its folder"
    grown = read_json(output / "rationales.json")
    assert len(grown["students"]) == 7 and "throughput" not in grown


def test_a_recipe_that_does_not_fit_is_refused(data, tmp_path):  # noqa: F811
    def run(text: str) -> None:
        settings = {"recipe": recipe_of(tmp_path, text), "data": data, "output": str(tmp_path / "x")}
        rationales.run(rationales.BenchRationalesConfig(**settings))

    with pytest.raises(WheelsError, match="must have the section student"):
        run(f"teacher: {{{SMALL}}}")
    with pytest.raises(
        WheelsError, match=r"grid: methods must be one of saliency, .*'saliancy'; did you mean 'saliency'"
    ):
        run(RECIPE.replace("[saliency,", "[saliancy,"))
    with pytest.raises(WheelsError, match="ks must hold at least one value, got none"):
        GridConfig(ks=())


@pytest.mark.parametrize(
    ("source", "target", "kind", "places"),
    [
        ("the Big Dog saw a big dog", "big dog", "words", {1, 2, 5, 6}),
        ("the big cat", "big dog", "words", set()),
        ("a a a", "a a", "words", {0, 1, 2}),
        ("any", "", "words", set()),
        ("he had 59 and 1,250 of 3", "( 59.0 - ( 1250 + 7 ) )", "numbers", {2, 4}),
        ("59 is no word 59.5", "59.5", "numbers", {4}),
        ("one", "( )", "numbers", set()),
    ],
)
def test_where_the_answer_stands(source, target, kind, places):
    assert answer_places(source.split(), target, kind) == places


def test_the_overlap_by_hand(tmp_path):
    """Two of three rows hold the answer: 1 of 2 words in 5, and 2 of 3."""
    rows = [
        {"target": "b", "why_words": [["a", 3], ["b", 2], ["c", 1], ["d", 0], ["e", 0]]},
        {"target": "a b", "why_words": [["a", 0.1], ["b", 2], ["c", 3]]},
        {"target": "x", "why_words": [["a", 3], ["b", 2]]},
    ]
    file = write_text(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = overlap(file, column="why", kind="words", k=2)
    assert found == pytest.approx(
        {"count": 2, "words": 0.5, "rows": 1.0, "words_expected": (1 / 5 + 2 / 3) / 2, "rows_expected": (0.4 + 1.0) / 2}
    )
    assert overlap(write_text(tmp_path / "one.jsonl", json.dumps(rows[2])), column="why", kind="words", k=2) is None


def test_students_are_compared_at_equal_length():
    kinds = dict.fromkeys([("none", 0), ("given", 0), ("random", 5), ("saliency", 5), ("saliency", 1)])
    assert against(kinds, "saliency", 5) == {"none": ("none", 0), "given": ("given", 0), "random": ("random", 5)}
    assert set(against(kinds, "saliency", 1)) == {"none", "given"}
    assert set(against(kinds, "none", 0)) == {"given"}
    assert set(against(kinds, "random", 5)) == {"none", "given"}


def test_the_table_says_what_was_found():
    tested = {"difference": -1.25, "low": -3.0, "high": 0.5, "p": 0.2}
    line = {"name": "saliency", "k": 5, "accuracy": 12.34, "low": 10.0, "high": 14.0, "minus_none": tested}
    report = {"task": "t", "metric": "exact", "n": 9, "seeds": 3, "teacher": {"accuracy": 20.0, "parameters": 1234},
              "student_parameters": 99, "students": [line], "published": None,
              "overlap": {"k": 5, "of": "words", "methods": {"saliency": None}}}  # fmt: skip
    text = as_text(report)
    assert "saliency   5      12.3  10.0 to 14.0  -1.2 [-3.0, +0.5]" in text
    assert "Published" not in text
    assert "68%" not in text
