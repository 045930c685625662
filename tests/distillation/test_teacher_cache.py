"""The cache of a teacher's probabilities: what it keeps, how it goes on, and that training from it is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distillation.test_pretrain import config, metrics, same, weights
from tests.distillation.test_pretrain_resumes import run_until
from tests.distillation.test_trainer import collator, examples, loss_and_gradient
from wheels.distillation import cached_teacher, teacher_cache
from wheels.distillation.cached_teacher import numbered
from wheels.distillation.collate import target_states
from wheels.distillation.config import PretrainConfig
from wheels.distillation.run import run
from wheels.distillation.scorers import LocalScorer
from wheels.distillation.teacher_cache import CacheSettings, TeacherCache, distribution_of, shard_of
from wheels.distillation.trainer import Objective
from wheels.errors import WheelsError
from wheels.files import read_json

TEMPERATURES = (1.0, 2.0, 10.0)
# A float16 is off by 2^-11 of itself; logits of these laws are up to about 32 apart.
HALF = {"rtol": 0.0, "atol": 32 * 2**-11}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch) -> None:
    monkeypatch.setattr(teacher_cache, "ROWS", 5)


def settings_of(pair, k: int, **others) -> CacheSettings:
    given = {"teacher": "t", "dtype": "float32", "temperatures": TEMPERATURES, "start_ids": pair.start_ids}
    return CacheSettings(k=k, vocab_size=pair.vocab_size, **(given | others))


def scorer(pair, cache: TeacherCache, batch_size: int = 64, teacher=None) -> LocalScorer:
    return LocalScorer(teacher or pair.teacher, cache.settings, collator(pair), batch_size)


def written(pair, task, folder: Path, k: int, **others) -> TeacherCache:
    cache = TeacherCache(folder, settings_of(pair, k, **others), examples(pair, task))
    cache.write(scorer(pair, cache, 3))
    return cache


def sharpen(pair) -> None:
    """Make the teacher's law far from uniform, as a trained one's is."""
    with torch.no_grad():
        pair.teacher.get_output_embeddings().weight.mul_(8.0)


def teacher_logits(pair, rows) -> torch.Tensor:
    """The logits at the targets of some rows, one row at a time."""
    parts = []
    for row in rows:
        batch = collator(pair)([row])
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = pair.teacher(**batch).logits
        parts.append(logits[target_states(labels, is_seq2seq=pair.is_seq2seq)[0]][:, : pair.vocab_size])
    return torch.cat(parts)


@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_laws_are_the_teachers_at_every_temperature(request, task, tmp_path, family, temperature):
    pair = request.getfixturevalue(family)
    sharpen(pair)
    cache = written(pair, task, tmp_path, 8)
    chosen = [11, 0, 7, 4]
    law = cache.distribution(torch.tensor(chosen), temperature)
    p = (teacher_logits(pair, [cache.examples[row] for row in chosen]) / temperature).double().softmax(-1)
    torch.testing.assert_close(law.ids_NK[:, 0], p.argmax(-1))
    kept = p.gather(-1, law.ids_NK)
    exact = torch.cat([kept, 1.0 - kept.sum(-1, keepdim=True)], -1)
    found = law.outcomes_NJ.double().softmax(-1)
    torch.testing.assert_close(found.sum(-1), torch.ones(len(found)).double())
    torch.testing.assert_close(found.log(), exact.log(), **HALF)
    other = cache.distribution(torch.tensor(chosen), 1.0 if temperature == 10.0 else 10.0)
    assert (other.outcomes_NJ.double().softmax(-1) - exact).abs().max() > 0.02, "the rest of another T must miss"


def test_the_whole_vocabulary_is_kept_in_its_order(t5, task, tmp_path):
    sharpen(t5)
    cache = written(t5, task, tmp_path, t5.vocab_size)
    law = cache.distribution(torch.tensor([2, 3]), 2.0)
    assert law.ids_NK is None
    p = (teacher_logits(t5, cache.examples[2:4]) / 2.0).log_softmax(-1)
    torch.testing.assert_close(law.outcomes_NJ.log_softmax(-1), p, **HALF)
    assert cache.files[0].stat().st_size == pytest.approx(
        2 * t5.vocab_size * sum(len(row["target"]) for row in cache.examples[:5]), abs=200
    )


def test_bytes_a_token_are_what_the_format_says(t5, task, tmp_path):
    cache = written(t5, task, tmp_path, 16)
    held = [load_file(file) for file in cache.files]
    size = sum(tensor.nbytes for shard in held for tensor in shard.values())
    assert size == cache.tokens * (4 * 16 + 4 * len(TEMPERATURES))
    assert [len(shard["ids"]) for shard in held] == [
        sum(len(row["target"]) for row in cache.examples[start : start + 5]) for start in (0, 5, 10)
    ]
    assert read_json(cache.folder / "cache.json")["version"] == 1


@pytest.mark.parametrize(("size", "kind"), [(1 << 16, torch.uint16), ((1 << 16) + 1, torch.int32)])
def test_ids_of_large_vocabularies(size, kind):
    logits = torch.zeros(2, size)
    logits[0, size - 1], logits[1, 40_000] = 5.0, 5.0
    shard = shard_of(logits, 1, (1.0,))
    assert shard["ids"].dtype == kind
    assert distribution_of(shard, 1.0, 0).ids_NK.tolist() == [[size - 1], [40_000]]


class Dies:
    """A teacher that is killed at a call."""

    def __init__(self, teacher, calls: int) -> None:
        self.teacher, self.calls, self.device = teacher, calls, teacher.device
        self.get_output_embeddings = teacher.get_output_embeddings

    def __call__(self, **batch):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return self.teacher(**batch)


def test_goes_on_after_the_last_whole_file(t5, task, tmp_path):
    whole = written(t5, task, tmp_path / "whole", 8)
    cache = TeacherCache(tmp_path / "cut", settings_of(t5, 8), examples(t5, task))
    with pytest.raises(KeyboardInterrupt):
        cache.write(scorer(t5, cache, 3, Dies(t5.teacher, 3)))
    assert cache.missing() == [1, 2], "two batches a file: the third call was in the second file"
    cache.write(scorer(t5, cache, 3, Dies(t5.teacher, 3)))
    assert cache.missing() == []
    assert [file.read_bytes() for file in cache.files] == [file.read_bytes() for file in whole.files]
    cache.write(scorer(t5, cache, teacher=Dies(t5.teacher, 0)))


def test_a_folder_is_named_for_all_it_depends_on(t5, task, tmp_path):
    first = TeacherCache(tmp_path, settings_of(t5, 8), examples(t5, task))
    for others in ({"k": 9}, {"teacher": "u"}, {"temperatures": (1.0,)}, {"vocab_size": 99}, {"dtype": "bfloat16"}):
        settings = replace(first.settings, **others)
        assert TeacherCache(tmp_path, settings, first.examples).folder != first.folder, others
    assert TeacherCache(tmp_path, first.settings, first.examples[1:]).folder != first.folder
    assert TeacherCache(tmp_path, first.settings, numbered(list(first.examples))).folder == first.folder


def test_refuses(t5, task, tmp_path):
    cache = written(t5, task, tmp_path, 8)
    with pytest.raises(WheelsError, match="temperatures 1, 2, 10, got 3; make one with --cache-temperatures"):
        cache.distribution(torch.tensor([0]), 3.0)
    with pytest.raises(WheelsError, match=r"cached_logits must be between 1 and the .* logits, got 100000"):
        settings_of(t5, 100_000)
    fresh = TeacherCache(tmp_path, cache.settings, cache.examples)
    before = cache.distribution(torch.tensor([0]), 1.0).outcomes_NJ
    cache.files[0].write_bytes(cache.files[1].read_bytes())
    assert fresh.missing() == [0], "the rows of another part"
    cache.files[0].write_bytes(b"torn")
    assert fresh.missing() == [0]
    fresh.write(scorer(t5, fresh))
    assert torch.equal(fresh.distribution(torch.tensor([0]), 1.0).outcomes_NJ, before)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), [("t5", "kl"), ("t5", "jsd"), ("llama", "rkl")])
def test_training_from_the_whole_law_is_training_with_the_teacher(request, task, tmp_path, family, name):
    """Loss and gradient of a step of accumulated batches, as far as float16 goes."""
    pair = request.getfixturevalue(family)
    sharpen(pair)
    objective = Objective(name, temperature=2.0, w=0.7, vocab_size=pair.vocab_size)
    rows = examples(pair, task, 8)
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    live, live_gradient = loss_and_gradient(pair, rows, tmp_path, objective, **cut)
    cache = TeacherCache(tmp_path, settings_of(pair, pair.vocab_size), rows)
    cache.write(scorer(pair, cache))
    found, gradient = loss_and_gradient(pair, numbered(rows), tmp_path, objective, cache=cache, **cut)
    assert found == pytest.approx(live, rel=2e-3)
    for parameter, expected in live_gradient.items():
        torch.testing.assert_close(gradient[parameter], expected, rtol=0.02, atol=2e-3 * expected.abs().max().item())
    # Rows of one length, taken for each other: nothing but the loss can tell.
    twins = [row for row in rows if len(row["target"]) == len(rows[0]["target"])]
    assert len(twins) > 1
    others = TeacherCache(tmp_path, cache.settings, twins)
    others.write(scorer(pair, others))
    swapped = [{**row, "row": (number + 1) % len(twins)} for number, row in enumerate(twins)]
    right, _ = loss_and_gradient(pair, numbered(twins), tmp_path, objective, cache=others)
    wrong, _ = loss_and_gradient(pair, swapped, tmp_path, objective, cache=others)
    assert wrong != pytest.approx(right, rel=1e-4)


@pytest.mark.slow
def test_a_run_from_a_whole_cache_loads_no_teacher(data, folders, tmp_path, monkeypatch):
    shared = {"teacher": folders[1], "cached_logits": 16, "cache": str(tmp_path / "caches"), "max_steps": 6}
    shared |= {"eval_every": 2, "eval_limit": 0, "dropout": 0.2}
    first = run(config(data, tmp_path / "first", objective="kl", **shared))
    facts = read_json(first / "finished.json")
    cache = tmp_path / "caches" / facts["cache"]
    files = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert (
        facts["teacher_tokens"]
        == read_json(cache / "cache.json")["tokens"]
        == sum(len(load_file(file)["ids"]) for file in cache.glob("*.safetensors"))
    )
    assert not any("teacher_tokens" in line for line in metrics(first)), "nothing is scored while it trains"

    def refuse(*args, **kwargs):
        raise AssertionError("the teacher is loaded")

    monkeypatch.setattr(cached_teacher.Loading, "teacher", refuse)
    again = run(config(data, tmp_path / "again", objective="kl", **shared))
    assert same(weights(again), weights(first))
    cut = config(data, tmp_path / "cut", objective="kl", **shared)
    run_until(cut, 3, monkeypatch)
    run(cut)
    assert same(weights(tmp_path / "cut"), weights(first))
    other = run(config(data, tmp_path / "other", objective="jsd", temperature=5.0, w=0.5, **shared))
    assert not same(weights(other), weights(first))
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == files
    with pytest.raises(AssertionError, match="the teacher is loaded"):
        run(config(data, tmp_path / "more", objective="kl", **(shared | {"cached_logits": 17})))


def test_live_runs_of_earlier_versions_are_known_again(data, tmp_path):
    folder = run(config(data, tmp_path / "out", max_steps=1))
    assert not {"cached_logits", "cache", "cache_temperatures"} & read_json(folder / "run.json")["identity"].keys()


@pytest.mark.slow
def test_a_causal_run_from_the_cache_learns(data, tmp_path):
    teacher = run(config(data, tmp_path / "teacher", family="llama", max_steps=20, eval_limit=0))
    options = {"family": "llama", "teacher": str(teacher), "objective": "kl", "temperature": 2.0, "seed": 1}
    folder = run(config(data, tmp_path / "out", **options, cached_logits=128, max_steps=30, eval_limit=0))
    losses = [line["loss"] for line in metrics(folder) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert (folder / "teacher_cache").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "ce"}, "cached_logits 8 needs an objective of kl, rkl, jsd, got 'ce'"),
        ({"objective": "seqkd"}, "needs an objective of kl, rkl, jsd, got 'seqkd'"),
        ({"objective": "pcl"}, "needs an objective of kl, rkl, jsd, got 'pcl'"),
        ({"lmbda": 0.5}, "needs lmbda 0, got 0.5: what a student samples is in no cache"),
        ({"trainer": "trl"}, "needs --trainer wheels"),
        ({"temperature": 3.0}, "for the temperatures 1, 2, 5, 10, got 3; add it to --cache-temperatures"),
        ({"cached_logits": 0, "cache": "c"}, "cache 'c' needs --cached-logits K"),
    ],
)
def test_what_a_cache_cannot_serve_is_refused(options, message):
    with pytest.raises(WheelsError, match=message):
        PretrainConfig(**({"output": "o", "teacher": "t", "objective": "kl", "cached_logits": 8} | options))
