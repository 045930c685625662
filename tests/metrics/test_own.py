"""Metrics of the user's own: read, asked, and refused where they give no number for each row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.decoding.tiny import save_artefact
from tests.envs.tiny import SOURCES
from wheels.agents.config import TrainConfig
from wheels.agents.plan import sentence_metric
from wheels.agents.runlog import identity_of
from wheels.cli.main import main
from wheels.data.tasks import Row, Task, load_task
from wheels.envs.settings import Settings
from wheels.errors import WheelsError
from wheels.metrics import METRICS, find_metric, own, score, sentence_scores, sentence_statistics, signature

CODE = """
def longer(hypotheses, references, sources):
    return [100 * (len(text) > len(source)) for text, source in zip(hypotheses, sources)]

def words(hypotheses, references, sources):
    return [abs(len(one.split()) - len(other.split())) for one, other in zip(hypotheses, references)]

words.higher_is_better = False
words.signature = "words:split|v1"

def few(hypotheses, references, sources): return [1.0]
def nan(hypotheses, references, sources): return [float("nan")] * len(sources)
def none(hypotheses, references, sources): return [None] * len(sources)
def fails(hypotheses, references, sources): raise RuntimeError("a\\nb")
def total(hypotheses, references, sources): return 3.0
def chrf(hypotheses, references, sources): return [0.0] * len(sources)
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "my_metrics.py"
    path.write_text(CODE)
    yield path
    own.OWN.clear()


def test_each_row_is_scored_and_a_corpus_is_their_mean(file: Path) -> None:
    texts = (["a b c", "", "x"], ["a", "b", "c"], ["a", "b", "xyz"])
    assert sentence_scores(f"{file}:longer", *texts) == [100.0, 0.0, 0.0]
    found = score(f"{file}:longer", *texts)
    assert (found.name, found.value, found.count) == ("longer", pytest.approx(100 / 3), 3)
    assert found.signature.startswith("own:longer|code:") and len(found.signature) == len("own:longer|code:") + 16
    statistics = sentence_statistics("longer", *texts)
    assert statistics.corpus([0, 0, 1]) == pytest.approx(200 / 3)
    assert statistics.resampled(np.array([[1, 1, 1], [2, 1, 0]])) == pytest.approx([100 / 3, 200 / 3])


def test_where_less_is_better_scores_are_negated(file: Path) -> None:
    assert sentence_scores(f"{file}:words", ["a b c", "a"], ["a", "a"], ["", ""]) == [-2.0, 0.0]
    assert signature("words", ["a"]).startswith("words:split|v1|code:")
    assert signature("words", ["a"]).endswith("|negated:lower-is-better")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few", "metric '.*:few' returned 1 scores for 2 rows"),
        ("nan", "metric '.*:nan' returned nan for row 1 of 2"),
        ("none", "metric '.*:none' failed: TypeError: .*NoneType"),
        ("fails", "metric '.*:fails' failed: RuntimeError: a b$"),
        ("total", "metric '.*:total' failed: TypeError: 'float' object is not iterable"),
        ("chrf", "my_metrics.py:chrf is named 'chrf', as one of the package's is; give it another name"),
        ("number", r"my_metrics.py has no function named number; write def number\(hypotheses, references, sources\)"),
        ("missing", "my_metrics.py has no function named missing; write def missing"),
    ],
)
def test_what_gives_no_number_for_each_row_is_refused(file: Path, name: str, message: str) -> None:
    with pytest.raises(WheelsError, match=message) as caught:
        sentence_scores(f"{file}:{name}", ["a", "b"], ["a", "b"], ["a", "b"])
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(WheelsError, match=r"cannot read a metric from .*none.py: FileNotFoundError"):
        find_metric(f"{tmp_path / 'none.py'}:x")
    with pytest.raises(WheelsError, match=r"cannot read a metric from no.such.module: ModuleNotFoundError"):
        find_metric("no.such.module:x")
    with pytest.raises(WheelsError, match=r"metric must be one of bleu, .*, or a function of your own \(FILE.py:NAME"):
        find_metric("comet")
    with pytest.raises(WheelsError, match="reads the sources too; give them as sources="):
        score(f"{file}:longer", ["a"], ["b"])
    find_metric(f"{file}:longer")
    (tmp_path / "other.py").write_text(CODE)
    with pytest.raises(WheelsError, match=r"other.py:longer is named 'longer', as .*my_metrics.py:longer is"):
        find_metric(f"{tmp_path / 'other.py'}:longer")
    assert find_metric(f"{file}:longer") == find_metric("longer") == "longer" and "longer" not in METRICS


def test_every_place_that_takes_a_metric_takes_it(file: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"source": "a", "target": "b"}\n')
    assert load_task(tmp_path, metrics=[f"{file}:longer", "chrf"]).metrics == ("longer", "chrf")
    assert Settings(reward="terminal", metric=f"{file}:longer").metric.endswith(":longer")
    config = TrainConfig(student="s", teacher="t", data="d", output="o", metric=f"{file}:longer")
    assert sentence_metric(config, Task("t", {"train": [Row("a", "b")]})) == "longer"


def test_another_code_is_another_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wheels.agents.runlog.model_digest", lambda name: "0")
    config = TrainConfig(student="s", teacher="t", data="d", output="o", metric=f"{file}:longer")
    first = identity_of(config, "1")
    assert len(first["metric_code"]) == 16
    file.write_text(CODE + "# mended\n")
    own.OWN.clear()
    assert identity_of(config, "1")["metric_code"] != first["metric_code"]


@pytest.mark.slow
def test_a_curve_and_a_training_are_scored_by_it(file: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation", "test"):
        rows = [json.dumps({"source": source + split[0] * (split == "test"), "target": "a b c"}) for source in SOURCES]
        (data / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    model, metric = save_artefact(tmp_path / "model"), f"{file}:longer"
    flags = ["--model", str(model), "--data", str(data), "--rules", "random", "--budgets", "0,0.5,1", "--seeds", "1"]
    flags += ["--resamples", "100", "--max-new-tokens", "6", "--output", str(tmp_path / "curve")]
    assert main(["bench", "curve", "--metrics", f"{metric},chrf", *flags]) == 0
    found = json.loads((tmp_path / "curve" / "curve.json").read_text())
    assert found["metrics"] == ["longer", "chrf"] and found["metric_signatures"]["longer"].startswith(
        "own:longer|code:"
    )
    assert 0 <= found["teacher"]["metrics"]["longer"] <= 100
    flags = ["--student", str(model), "--teacher", str(model / "teacher"), "--data", str(data), "--metric", metric]
    flags += [
        "--rounds",
        "1",
        "--texts",
        "8",
        "--forks",
        "1",
        "--states",
        "100",
        "--no-calibrate",
        "--max-new-tokens",
        "6",
    ]
    assert main(["train", *flags, "--output", str(tmp_path / "trained")]) == 0
    flags = ["--data", str(data), "--metric", metric, "--max-steps", "2", "--vocab-size", "300", "--eval-limit", "2"]
    assert main(["pretrain", *flags, "--output", str(tmp_path / "pretrained")]) == 0
    assert "eval_longer" in (tmp_path / "pretrained" / "metrics.jsonl").read_text()
