"""`wheels bench annotation`: its grid, its erring teacher, its figures, and a small run as a whole."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wheels.annotation import models as annotate_models
from wheels.annotation.answer import Answer
from wheels.annotation.local_model import LocalModel
from wheels.benchmarks.annotation import cells as annotation_cells
from wheels.benchmarks.annotation import run as annotation
from wheels.benchmarks.annotation.cells import GridPoint, grid, is_right, with_errors
from wheels.benchmarks.annotation.config import AnnotationConfig, error_share
from wheels.benchmarks.annotation.run import run
from wheels.benchmarks.annotation.summary import FILTER_FIGURES, SCORE_FIGURES, filter_figures, score_figures
from wheels.config.parsing import build
from wheels.data.tasks import Row, Task
from wheels.errors import WheelsError
from wheels.metrics import score
from wheels.models.build import ModelSize
from wheels.models.pair import Pair

WORDS = (("rot", "red"), ("blau", "blue"), ("Hund", "dog"), ("Katze", "cat"), ("laeuft", "runs"), ("und", "and"))


def sentences(count, first=0):
    picks = [
        [WORDS[(i * 7 + j * (i % 5 + 1) + i // 6) % 6] for j in range(2 + i % 4)] for i in range(first, first + count)
    ]
    return [Row(" ".join(w[0] for w in pick), " ".join(w[1] for w in pick)) for pick in picks]


def config(**more):
    given = {"data": "d", "pool": "p", "student": "s", "assistants": ("a", "b"), "output": "o", "budgets": (4, 8, 16)}
    return build(AnnotationConfig, given | more)


@pytest.fixture
def small(tmp_path):
    rows = {"train": sentences(12), "validation": sentences(12, 12), "test": sentences(8, 24)}
    for split, lines in (rows | {"pool": sentences(60, 40)}).items():
        text = "".join(json.dumps({"source": row.source, "target": row.target}) + "\n" for row in lines)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.jsonl").write_text(text)
    size = ModelSize(width=16, layers=1, heads=2, ff=32)
    pair = Pair.build(Task("words", rows), family="t5", student=size, teacher=size, vocab_size=300)
    data = tmp_path / "data"
    return {"data": str(data), "pool": str(data / "pool.jsonl"), "student": str(pair.save_student(tmp_path / "s")),
            "assistants": (str(pair.save_teacher(tmp_path / "a")),), "budgets": (8,), "warm_ups": (), "seeds": 2,
            "warm_up": 0.25, "metric": "chrf", "samples": 2, "epochs": 1.0, "max_new_tokens": 4, "pool_limit": 16,
            "resamples": 50,
            "strategies": ("random", "consistency", "assistant", "full")}  # fmt: skip


def test_the_rate_of_errors_is_exact_and_each_is_wrong():
    rows = [Row(f"q{i}", f"( {i % 7}.0 + 1.0 )") for i in range(100)]
    labels = with_errors(rows, 0.3, "equation", 0)
    wrong = [not is_right(label, row.target, "equation") for row, label in zip(rows, labels, strict=True)]
    assert sum(wrong) == 30
    assert labels == with_errors(rows, 0.3, "equation", 0)
    assert labels != with_errors(rows, 0.3, "equation", 1)
    assert with_errors(rows, 0.0, "equation", 0) == [row.target for row in rows]


def test_a_right_label_is_right_by_value_or_letter_for_letter():
    assert is_right("3 + 4", "( 4.0 + 3.0 )", "equation")
    assert not is_right("3 + 4", "( 4.0 + 3.0 )", "exact")
    assert not is_right("a red dog", "a red dog.", "chrf")


@pytest.mark.parametrize(
    ("teacher", "share"), [("references", 0.0), ("references:0.3", 0.3), ("runs/teacher", None), ("/references", None)]
)
def test_a_teacher_is_a_folder_or_references_with_errors(teacher, share):
    assert error_share(teacher) == share


def test_the_grid_has_every_strategy_at_every_budget_and_ablations_at_the_middle_one():
    cells = grid(config(teachers=("references:0.3", "t"), seeds=2))
    assert len(cells) == len(set(cells)) == len({cell.name for cell in cells})
    main = [cell for cell in cells if (cell.teacher, cell.assistant, cell.seed) == ("references:0.3", "a", 0)]
    assert len([cell for cell in main if cell.warm_up in (0.0, 0.1)]) == 3 * 5 + 1
    ablations = [cell for cell in main if cell.warm_up not in (0.1,) and not cell.strategy.startswith("random")]
    assert {(cell.strategy, cell.budget) for cell in ablations} == {("full", 8)}
    assert sorted(cell.warm_up for cell in ablations) == [0.0, 0.05, 0.2, 0.3]
    assert [cell.strategy for cell in cells if cell.assistant == "b"] == ["full", "full"]
    assert {cell.budget for cell in cells if cell.teacher == "t"} == {8}
    order = [cell.strategy for cell in main]
    assert order.index("assistant") < order.index("consistency")
    assert all(cell.warm_up == 0.0 for cell in cells if cell.strategy.startswith("random"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"teachers": ("references:30",)}, "did you mean 0.3"),
        ({"budgets": (4, 4)}, "budgets must hold at least one value, each once"),
        ({"strategies": ("fll",)}, "did you mean 'full'"),
        ({"warm_ups": (5.0,)}, "did you mean 0.05"),
        ({"teachers": ("runs/a/teacher", "runs/b/teacher/")}, "teachers must differ in their last parts"),
    ],
)
def test_settings_that_cannot_be(more, message):
    with pytest.raises(WheelsError, match=message):
        config(**more)


def test_filter_figures_by_hand():
    kinds = [(True, True)] * 6 + [(True, False)] * 1 + [(False, True)] * 1 + [(False, False)] * 2
    labels = [{"right": right, "accepted": accepted} for right, accepted in kinds]
    found = filter_figures([labels, labels], resamples=400)
    values = [found[name].difference for name in FILTER_FIGURES]
    assert values == pytest.approx([0.7, 6 / 7, 6 / 7 - 0.7, 0.7, 6 / 7, 2 / 3])
    assert found["lift"].low < 6 / 7 - 0.7 < found["lift"].high


def test_scores_of_labels_by_hand():
    kinds = [(100.0, True)] * 4 + [(50.0, True)] * 2 + [(20.0, False)] * 4
    labels = [{"score": score, "accepted": accepted} for score, accepted in kinds]
    found = score_figures([labels, labels], resamples=400)
    assert [found[name].difference for name in SCORE_FIGURES] == pytest.approx([58.0, 500 / 6, 500 / 6 - 58.0])
    assert 0.0 < found["score_lift"].low < 500 / 6 - 58.0 < found["score_lift"].high
    nothing = score_figures([[{"score": 20.0, "accepted": False}] * 3], resamples=20)
    assert nothing["score_after"].difference == 0.0


def test_the_interval_of_the_filter_covers_what_it_should():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        right, accepted = rng.random(200) < 0.7, rng.random(200) < 0.8
        labels = [{"right": bool(r), "accepted": bool(a)} for r, a in zip(right, accepted, strict=True)]
        lift = filter_figures([labels], 200, seed=trial)["lift"]
        hits += lift.low <= 0.0 <= lift.high
    assert 51 <= hits <= 60, "a filter that draws lots lifts nothing, in about 95% of the intervals"


def shifted(config, labelled, validation, rows, place):
    """Stands in for a training, which has tests of its own: other weights, a function of the rows."""
    assert not (place / "student").exists(), "a training refuses the folder of another"
    model = LocalModel.load(config.student, role="student")
    with torch.no_grad():
        torch.manual_seed(zlib.crc32(repr(sorted((row.source, row.target) for row in rows)).encode()))
        for weights in model.model.parameters():
            weights += 0.3 * torch.randn_like(weights)
    return str(model.pair.save_student(place / "student"))


@pytest.mark.slow
def test_a_run_that_is_cut_short_goes_on_and_its_figures_follow_from_its_cells(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wheels.annotation.models.retrain", shifted)
    config = build(AnnotationConfig, small | {"output": str(tmp_path / "o")})
    real, done = annotation_cells.run_cell, []

    def fails(bench, cell):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(cell.name)
        return real(bench, cell)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("wheels.benchmarks.annotation.run.run_cell", fails)
        run(config)
    kept = {name: (tmp_path / "o/cells" / name / "cell.json").stat().st_mtime_ns for name in done}
    run(config)
    said = capsys.readouterr().out
    assert "quality of the student at equal spend" in said
    for name, time in kept.items():
        assert (tmp_path / "o/cells" / name / "cell.json").stat().st_mtime_ns == time, "a cell is run once"
    with pytest.raises(WheelsError, match="holds a run with samples 2, not 3"):
        run(build(AnnotationConfig, small | {"output": str(tmp_path / "o"), "samples": 3}))
    namesake = shutil.copytree(small["student"], tmp_path / "other" / "a")
    with pytest.raises(WheelsError, match="holds a run with assistant a '"):
        run(replace(config, assistants=(str(namesake),)))

    lines = list(csv.DictReader(io.StringIO((tmp_path / "o" / "annotation.csv").read_text())))
    assert len(lines) == len({line["signature"] for line in lines}) == 4 * 2
    summary = json.loads((tmp_path / "o" / "annotation.json").read_text())
    assert {line["minus"] for line in summary["paired"]} == {"random"}
    (trial,) = summary["filters"]
    assert trial["right_before"]["difference"] == pytest.approx(11 / 16), "5 of 16 labels are exchanged"
    twins = [tmp_path / "o" / "cells" / f"{name}_8_0.25_references-0.3_a_0" for name in ("assistant", "consistency")]
    first, second = (json.loads((twin / "cell.json").read_text()) for twin in twins)
    assert [label["stage"] for label in second["labels"]] == ["warm-up"] * 2 + ["main"] * 6
    assert first["labels"][:2] == second["labels"][:2]
    references = [row.target for row in sentences(8, 24)]
    for line in lines:
        name = f"{line['strategy']}_8_{line['warm_up']}_references-0.3_a_{line['signature'].split('seed=')[1][0]}"
        cell = json.loads((tmp_path / "o" / "cells" / name / "cell.json").read_text())
        assert float(line["chrf"]) == pytest.approx(score("chrf", cell["answers"], references).value, rel=1e-4)
        kept = [label["right"] for label in cell["labels"] if label["accepted"]]
        assert float(line["right_trained_on"]) == pytest.approx(np.mean(kept) if kept else 0.0, rel=1e-4)
        kept = [label["score"] for label in cell["labels"] if label["accepted"]]
        assert float(line["score_trained_on"]) == pytest.approx(np.mean(kept) if kept else 0.0, rel=1e-4)


@pytest.mark.slow
def test_a_model_as_teacher_is_told_by_the_scores_of_its_labels(small, tmp_path, monkeypatch, capsys):
    teacher, load = (tmp_path / "a").rename(tmp_path / "part"), annotate_models.load_local
    pool = list({row.source: row for row in sentences(16, 40)}.values())
    said = {row.source: row.target[: 3 + 2 * place] for place, row in enumerate(pool)}
    model = SimpleNamespace(labels=lambda sources: [Answer(said[source]) for source in sources])

    def loaded(config, folder, role, prompt=None):
        return model if (folder, role) == (str(teacher), "teacher") else load(config, folder, role, prompt)

    monkeypatch.setattr(annotate_models, "load_local", loaded)
    monkeypatch.setattr(annotate_models, "retrain", shifted)
    more = {"teachers": (str(teacher),), "assistants": (small["student"],), "strategies": ("random",), "seeds": 1}
    run(build(AnnotationConfig, small | more | {"output": str(tmp_path / "o")}))
    scores = [score("chrf", [said[row.source]], [row.target]).value for row in pool]
    assert len(set(scores)) > 4
    summary = json.loads((tmp_path / "o" / "annotation.json").read_text())
    (trial,) = summary["filters"]
    assert trial["teacher"] == "part"
    assert trial["score_before"]["difference"] == pytest.approx(np.mean(scores), abs=0.01)
    (cell,) = (json.loads(path.read_text()) for path in (tmp_path / "o/cells").glob("random*/cell.json"))
    (line,) = csv.DictReader(io.StringIO((tmp_path / "o" / "annotation.csv").read_text()))
    bought = [label["score"] for label in cell["labels"]]
    assert len(bought) == 8 and set(bought) <= {round(value, 3) for value in scores}
    assert float(line["score_bought"]) == pytest.approx(np.mean(bought), rel=1e-4)
    assert "chrF before" in capsys.readouterr().out


def test_labels_that_no_seed_changes_are_graded_once(monkeypatch):
    """Repetitions of a model's labels, drawn apart, would make its intervals too narrow."""
    tried = []
    labels = [{"right": n % 3 > 0, "accepted": n % 2 > 0, "score": float(n)} for n in range(40)]
    monkeypatch.setattr(annotation, "filter_trial", lambda bench, *trial: tried.append(trial) or labels)
    bench = SimpleNamespace(config=config(assistants=("a",), teachers=("references:0.3", "runs/part"), seeds=3))
    lines = annotation._filters(bench)
    assert tried == [("a", "references:0.3", seed) for seed in range(3)] + [("a", "runs/part", 0)]
    assert [line["seeds"] for line in lines] == [3, 1]
    widths = [line["score_before"]["high"] - line["score_before"]["low"] for line in lines]
    assert widths[1] > 1.3 * widths[0]


def test_a_budget_beyond_the_pool_is_refused(small, tmp_path):
    with pytest.raises(WheelsError, match=r"budgets must be at most the 16 rows of .*pool.jsonl, got 17"):
        run(build(AnnotationConfig, small | {"output": str(tmp_path / "o"), "budgets": (8, 17)}))


def test_a_cells_name_tells_all():
    cell = GridPoint("full", 300, 0.1, "references:0.3", "runs/big/", 2)
    assert cell.name == "full_300_0.1_references-0.3_big_2"
