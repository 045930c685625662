"""Two tasks in one model: the loss by hand, exact under accumulation, and a run that learns both and is cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distillation.conftest import WORDS
from tests.distillation.conftest import rows as words_rows
from tests.distillation.test_pretrain_resumes import run_until
from tests.marks import slow
from wheels.data.prompts import Prompt
from wheels.data.tasks import load_task
from wheels.distillation.collate import Collator, Example
from wheels.distillation.config import PretrainConfig
from wheels.distillation.generation import write
from wheels.distillation.multitask import count_tasks, load_rationales, prefixed, token_weights
from wheels.distillation.run import run
from wheels.distillation.training_data import load_training_data, training_examples
from wheels.errors import WheelsError
from wheels.files import read_json, write_text
from wheels.models.pair import Pair

QUICK = {"width": 16, "layers": 2, "heads": 2, "ff": 32, "vocab_size": 300, "batch_size": 8, "learning_rate": 0.01}
QUICK |= {"log_every": 1, "eval_limit": 4, "max_target_length": 24}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Rows whose rationale is the source backwards; every third has none."""
    for split in ("train", "validation"):
        lines = []
        for number, row in enumerate(words_rows(24)):
            why = {} if number % 3 == 2 else {"why": " ".join(row.source.split()[::-1])}
            lines.append(json.dumps({"source": row.source, "target": row.target} | why))
        write_text(tmp_path / "data" / f"{split}.jsonl", "\n".join(lines) + "\n")
    return tmp_path / "data"


def config(data: Path, output: Path, **options) -> PretrainConfig:
    return PretrainConfig(data=str(data), output=str(output), **(QUICK | {"rationale": "why"} | options))


def losses(output: Path) -> list[float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_each_task_has_its_own_mean():
    """Labels of 1 and 3 tokens in two batches, rationales of 2 and 4: every task's weights sum to its share."""
    collator = Collator(True, 0, (0,))
    label, why = {"source": [5], "target": [1]}, {"source": [6], "target": [7, 1]}
    first: list[Example] = [{**label, "rationale": why}, {"source": [5], "target": [8, 8, 1]}]
    second: list[Example] = [{"source": [5, 5], "target": [1], "rationale": {"source": [6], "target": [7, 7, 7, 1]}}]
    batches = [collator(first), collator(second), collator([label])]
    assert batches[0]["is_rationale"].tolist() == [False, False, True]
    assert "is_rationale" not in batches[2]
    counts = count_tasks(batches)
    assert counts.tolist() == [1 + 3 + 1 + 1, 2 + 4]
    weights = [token_weights(batch, counts, 0.25) for batch in batches]
    assert weights[0].tolist() == pytest.approx([0.75 / 6] * 4 + [0.25 / 6] * 2)
    assert weights[1].tolist() == pytest.approx([0.75 / 6] + [0.25 / 6] * 4)
    assert sum(part.sum().item() for part in weights) == pytest.approx(1.0)
    alone = count_tasks(batches[2:])
    assert alone.tolist() == [1, 0]
    assert token_weights(batches[2], alone, 0.25).tolist() == [0.75]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", *slow("llama")])
def test_the_first_loss_is_the_formula(folder, tmp_path, family):
    """Of the model before its first step, by transformers' own loss of each row."""
    options = {"family": family, "max_steps": 1, "rationale_weight": 0.3, "batch_size": 24, "eval_limit": 0}
    settings = config(folder, tmp_path / "out", **options)
    task = load_task(folder, rationale="why")
    rationales = load_rationales(settings, task, Prompt("{source} =>") if family == "llama" else Prompt())
    assert rationales is not None
    data = load_training_data(settings, task, rationales)
    pair = data.pair
    total, tokens = {"predict: ": 0.0, "explain: ": 0.0}, {"predict: ": 0, "explain: ": 0}
    for row, why in zip(task.train, rationales.texts, strict=True):
        for prefix, target in (("predict: ", row.target), ("explain: ", why)):
            if target:
                loss, count = row_loss(pair, prefix + row.source + (" =>" if family == "llama" else ""), target)
                total[prefix] += loss
                tokens[prefix] += count
    expected = 0.7 * total["predict: "] / tokens["predict: "] + 0.3 * total["explain: "] / tokens["explain: "]
    run(settings)
    assert losses(tmp_path / "out")[0] == pytest.approx(expected, rel=1e-4)


def row_loss(pair: Pair, text: str, target: str) -> tuple[float, int]:
    """Return the summed loss of a row's target by transformers alone, and its number of tokens."""
    source, output = pair.tokenizer(text)["input_ids"], pair.tokenizer(target)["input_ids"]
    output = [token for token in output if token != 1] + [1]
    with torch.no_grad():
        if pair.is_seq2seq:
            mean = pair.student(input_ids=torch.tensor([source]), labels=torch.tensor([output])).loss
        else:
            ids, labels = torch.tensor([source + output]), torch.tensor([[-100] * len(source) + output])
            mean = pair.student(input_ids=ids, labels=labels).loss
    return mean.item() * len(output), len(output)


@pytest.mark.slow
def test_accumulation_changes_nothing(folder, tmp_path):
    """Passes of 2 rows have very different shares of both tasks."""
    for name, options in (("whole", {"batch_size": 8}), ("cut", {"batch_size": 2, "gradient_accumulation": 4})):
        run(config(folder, tmp_path / name, max_steps=3, eval_limit=0, **options))
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_learns_both_tasks_and_tells_them_apart(tmp_path, family):
    """Single words: the target is the translation, the rationale the word itself."""
    lines = [json.dumps({"source": source, "target": target, "why": source}) + "\n" for source, target in WORDS]
    for split in ("train", "validation"):
        write_text(tmp_path / "data" / f"{split}.jsonl", "".join(lines))
    options = {"family": family, "layers": 1, "max_steps": 80, "learning_rate": 0.02, "metric": "exact"}
    out = run(config(tmp_path / "data", tmp_path / "out", **options, eval_every=80, eval_limit=6))
    facts = read_json(out / "finished.json")
    assert facts["prompt"] == ("predict: {source} =>" if family == "llama" else "predict: {source}")
    assert (facts["rows"], facts["rationales"]) == (6, 6)
    assert facts["value"] == 100.0, "scored by the label alone"
    for prefix, answers in (("predict: ", [w[1] for w in WORDS]), ("explain: ", [w[0] for w in WORDS])):
        pair = Pair.load(out, out, prompt=facts["prompt"].replace("predict: ", prefix))
        sources = pair.encode([source for source, _ in WORDS])
        found = write(pair.student, sources, pad_id=pair.pad_id, eos_ids=pair.eos_ids, max_new_tokens=9)
        assert [pair.decode(tokens) for tokens in found] == answers


@pytest.mark.slow
def test_goes_on_where_it_was_cut_short_to_the_same_bytes(folder, tmp_path, monkeypatch):
    options = {"max_steps": 5, "eval_every": 2, "dropout": 0.2}
    run(config(folder, tmp_path / "whole", **options))
    settings = config(folder, tmp_path / "cut", **options)
    run_until(settings, 3, monkeypatch)
    run(settings)
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_is_told_by_its_rationales(folder, tmp_path):
    settings = config(folder, tmp_path / "out", max_steps=1)
    run(settings)
    text = (folder / "train.jsonl").read_text()
    write_text(folder / "train.jsonl", text.replace('"why": "', '"why": "weil ', 1))
    with pytest.raises(WheelsError, match=r"holds a run with rationales_digest"):
        run(settings)
    plain = config(folder, tmp_path / "plain", rationale=None, max_steps=1)
    run(plain)
    assert not {"rationale", "label_prefix"} & set(read_json(tmp_path / "plain" / "run.json")["identity"])


def test_rationales_beyond_the_limits_are_left_out(folder, tmp_path, caplog):
    settings = config(folder, tmp_path / "out", max_target_length=6, max_source_length=60)
    text = (folder / "train.jsonl").read_text()
    write_text(folder / "train.jsonl", text.replace('"why": "', '"why": "' + "weil " * 20, 1))
    task = load_task(folder, rationale="why")
    rationales = load_rationales(settings, task, Prompt())
    data = load_training_data(settings, task, rationales)
    with caplog.at_level("WARNING", logger="wheels"):
        examples = training_examples(settings, data, task.train, tmp_path / "x", rationales)
    kept = sum("rationale" in example for example in examples)
    assert len(examples) > kept
    assert "rationales are longer than the limits and left out" in caplog.text
    assert all(len(example["target"]) <= 6 for example in examples)
    assert kept > 0
    assert all(len(example["rationale"]["target"]) <= 6 for example in examples if "rationale" in example)


def test_what_does_not_go_together_is_refused(folder, tmp_path):
    with pytest.raises(
        WheelsError, match=r"no training row has a rationale in column 'wy'; the command rationales writes some"
    ):
        run(config(folder, tmp_path / "out", rationale="wy"))
    with pytest.raises(WheelsError, match=r"objective must be ce and trainer wheels, got 'kl'"):
        config(folder, tmp_path / "out", objective="kl", teacher="x")
    with pytest.raises(WheelsError, match=r"label_prefix and rationale_prefix must differ, got 'a' twice"):
        config(folder, tmp_path / "out", label_prefix="a", rationale_prefix="a")
    with pytest.raises(WheelsError, match=r"rationale_weight must be in \[0, 1\], got 50; did you mean 0.5"):
        config(folder, tmp_path / "out", rationale_weight=50)


def test_a_prefix_may_have_braces():
    assert prefixed("{a} ", Prompt("Q: {source}")).filled("x") == "{a} Q: x"
