"""`wheels train`, whole: what it leaves, that it continues where it was killed, and that the student can be trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.decoding.tiny import make_pair, write
from wheels.agents import trainer
from wheels.agents.config import BASELINES, TrainConfig
from wheels.agents.plan import trained_rules, workload
from wheels.agents.regression import trained_baselines
from wheels.agents.regression.warm_start import WarmStart
from wheels.agents.rl.agent import PCLAgent
from wheels.agents.run import run
from wheels.agents.trainer import Trainer
from wheels.data.tasks import load_task
from wheels.decoding import teacher_forcing
from wheels.decoding.engine import Engine
from wheels.decoding.memory import longest_of
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.rules import KNOWN_RATE, RULE_NAMES, TRAINED
from wheels.decoding.trace import teacher_use
from wheels.envs.episodes import EpisodeBatch
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact, read_spans
from wheels.models.pair import Pair

LETTERS = "abcdefghijk"
HEADS = ("learned", "regret", *BASELINES)


TWO_PROCESSES = """
import json, os, pathlib, sys
from wheels.agents.run import run
from wheels.agents.trainer import Trainer
from wheels.agents.config import TrainConfig
from wheels.agents.plan import trained_rules

train = Trainer.train
def noted(self):
    heads = train(self)
    end = b"".join(value.numpy().tobytes() for value in heads["learned"].state_dict().values())
    pathlib.Path(self.config.student).parent.joinpath("end-" + os.environ["RANK"]).write_bytes(end)
    return heads
Trainer.train = noted
run(TrainConfig(**json.loads(sys.argv[1])))
"""


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A tiny pair and a tiny task on disk, and settings that take a second."""
    pair = make_pair("t5")
    pair.save_student(tmp_path / "student")
    pair.save_teacher(tmp_path / "teacher")
    for split, count in (("train", 24), ("validation", 12)):
        rows = [
            {"source": " ".join(LETTERS[(n * 3 + k) % 11] for k in range(1 + n % 5)), "target": f"a {LETTERS[n % 11]}"}
            for n in range(count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainConfig(
        student=str(tmp_path / "student"), teacher=str(tmp_path / "teacher"), data=str(tmp_path),
        output=str(tmp_path / "model"), seeds=2, width=8, warm_epochs=1, rounds=2, texts=8, pseudo_references=1,
        student_texts=8, batch_size=4, max_new_tokens=8, budgets=(0.2, 0.5), calibrate=False, baselines=BASELINES,
        pairs=16, reinforce_texts=256,
    )  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("deferral/model.safetensors", "metrics.jsonl")}


@pytest.mark.slow
def test_what_training_leaves_can_be_decoded_with(
    config: TrainConfig, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(replace(config, calibrate=True, calibration_budgets=(0.5,)))
    artefact = Artefact.load(config.output)
    assert {name: len(heads) for name, heads in artefact.heads.items()} == dict.fromkeys(trained_rules(config), 2)
    kept = {(point.rule, point.seed) for point in artefact.calibration.points}
    assert kept == {(rule, seed) for rule in trained_rules(config) for seed in (0, 1)} | {
        (rule, 0) for rule in RULE_NAMES if rule not in (*TRAINED, *KNOWN_RATE)
    }
    rule = calibrated(artefact, "learned", 0.5, seed=1)
    assert write(artefact.pair, ["a b c"], rule, budget=0.5, max_new_tokens=8)[0].rule == "learned"
    lines = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if "residual" in line] == [0, 1] * 2
    first = next(line for line in lines if "round" in line)
    assert set(first["use_by_budget"]) == {"0.2", "0.5"}
    assert all(sum(rule in line for line in lines) == 2 for rule in BASELINES)
    assert not (Path(config.output) / ".training").exists()
    told = capsys.readouterr().out
    with caplog.at_level("INFO"):
        run(replace(config, calibrate=True, calibration_budgets=(0.5,)))
    assert capsys.readouterr().out == told.splitlines(keepends=True)[-1] and "is done already" in caplog.text


@pytest.mark.slow
def test_seeds_differ_and_so_do_the_rules(config: TrainConfig) -> None:
    run(config)
    artefact = Artefact.load(config.output)
    # Pairs that tell nothing leave the regression as it was.
    rules = set(HEADS) - {"paired"}
    assert len({artefact.head_digest(rule, seed) for rule in rules for seed in (0, 1)}) == 10


@pytest.mark.slow
def test_what_the_agent_learns_moves_the_texts(config: TrainConfig) -> None:
    """From its warm start, which is the rule regret, to its end, at one budget."""
    run(replace(config, seeds=1, baselines=(), calibrate=True, calibration_budgets=(0.2,), texts=40))
    artefact = Artefact.load(config.output)
    rows = [row.source for row in load_task(config.data).train]
    learned, start = (
        [trace.token_ids for trace in write(artefact.pair, rows, calibrated(artefact, rule, 0.2), max_new_tokens=8)]
        for rule in ("learned", "regret")
    )
    assert learned != start


@pytest.mark.slow
def test_without_a_calibration_the_price_is_the_threshold(config: TrainConfig) -> None:
    run(replace(config, seeds=1, baselines=(), texts=60, agent="lagrangian"))
    artefact = Artefact.load(config.output)
    prices = artefact.config["trained"]["prices"][0]
    for budget, price in ((0.2, prices[0]), (0.5, prices[1]), (0.35, sum(prices) / 2)):
        rule = calibrated(artefact, "learned", budget)
        assert (rule.threshold, rule.budget) == (pytest.approx(price), budget)
    rows = [row.source for row in load_task(config.data).train]
    traces = write(artefact.pair, rows, calibrated(artefact, "learned", 0.5), max_new_tokens=8)
    assert teacher_use(traces) == pytest.approx(0.5, abs=0.1)
    for rule, budget in (("learned", 0.1), ("learned", 0.6), ("regret", 0.2)):
        with pytest.raises(WheelsError, match="not calibrated"):
            calibrated(artefact, rule, budget)


FLAGS = {
    "limit": 12, "seed": 1, "budgets": (0.3, 0.5), "width": 12, "regret_clip": 0.5, "states": 20, "warm_epochs": 2,
    "warm_learning_rate": 1e-2, "agent": "pcl", "rounds": 1, "texts": 12, "forks": 2, "pseudo_references": 0,
    "metric": "rougeL", "alpha": 1.0, "epochs": 2, "learning_rate": 1e-2, "weight_decay": 0.0, "max_new_tokens": 5,
    "baselines": ("gate",), "router_rows": 5, "reinforce_texts": 512, "teacher": "student", "price": 0.5,
    "train": "student", "turns": 1, "student_texts": 12, "student_objective": "rkl", "student_epochs": 1,
    "student_learning_rate": 1e-2, "cached_logits": 2,
}  # fmt: skip
"""Another value of every setting that the default recipe documents."""
OF_STUDENT = ("turns", "student_texts", "student_objective", "student_epochs", "student_learning_rate", "cached_logits")
ELSEWHERE = {
    "student", "data", "output", "source", "target", "prompt", "seeds", "batch_size", "report_to", "dtype", "device",
    "threads", "calibrate", "calibration_limit", "calibration_rules", "calibration_budgets", "pairs", "references",
    "bad_rows", "system_prompt", "chat_template", "template_args", "attn_implementation", "trust_remote_code",
    "teacher_model", "teacher_key", "max_tokens_in_flight", "teacher_device", "teacher_quantization", "spans", "span",
}  # fmt: skip
"""Inputs, what the machine needs, the calibration and the pairs of a baseline, which have tests of their own."""


def test_every_setting_is_among_them() -> None:
    assert set(FLAGS) | ELSEWHERE == {field.name for field in fields(TrainConfig)}


def made(config: TrainConfig) -> tuple[bytes, list[list[float]]]:
    run(config)
    trained = json.loads((Path(config.output) / "deferral" / "config.json").read_text())["trained"]
    return (Path(config.output) / "deferral" / "model.safetensors").read_bytes(), trained["prices"]


@pytest.mark.slow
def test_spans_are_learned_beside_the_heads_and_change_nothing_of_them(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, seeds=1)
    without = made(config)
    assert not (Path(config.output) / "deferral" / "spans.safetensors").exists()
    spans = replace(config, spans=(3, 2), output=str(tmp_path / "spans"))
    assert made(spans) == without
    (head,) = read_spans(Path(spans.output) / "deferral" / "spans.safetensors", torch.device("cpu"))
    assert head.spans_K.tolist() == [2, 3]
    told = [json.loads(line) for line in (Path(spans.output) / "metrics.jsonl").read_text().splitlines()]
    (figures,) = [line["spans"] for line in told if "spans" in line]
    assert set(figures) == {"held_out_r2_2", "held_out_r2_3", "more_2", "more_3"}


@pytest.mark.slow
def test_every_setting_changes_what_is_made(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, seeds=1, router_rows=10)
    first = made(config)
    fixed = made(replace(config, agent="pcl", output=str(tmp_path / "pcl")))
    taught = made(replace(config, train="student", output=str(tmp_path / "taught")))
    bases = {"price": ({"agent": "pcl"}, fixed)} | dict.fromkeys(OF_STUDENT, ({"train": "student"}, taught))
    for name, value in FLAGS.items():
        value = str(tmp_path / "student") if name == "teacher" else value
        other, base = bases.get(name, ({}, first))
        changed = made(replace(config, output=str(tmp_path / f"run-{name}"), **other, **{name: value}))
        assert changed != base, f"{name} changes nothing"


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["rows", "tokens"])
def test_no_more_rows_are_in_flight_than_their_bound_says(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    flying, read = [], []
    begin, once, opened = Engine.__init__, teacher_forcing.read_texts, EpisodeBatch.__init__

    def counted(self: Engine, *more: Any, **named: Any) -> None:
        begin(self, *more, **named)
        flying.append((named["batch_size"], len(self.texts.sequences)))

    def played(self: EpisodeBatch, *more: Any) -> None:
        opened(self, *more)
        flying.append((more[-1], len(self.texts.sequences)))

    def noted(pair: Any, model: Any, sources: Any, texts: list[Any]) -> Any:
        read.append(len(texts))
        return once(pair, model, sources, texts)

    monkeypatch.setattr(Engine, "__init__", counted)
    monkeypatch.setattr(EpisodeBatch, "__init__", played)
    monkeypatch.setattr(teacher_forcing, "read_texts", noted)
    if bound == "rows":
        config = replace(config, calibrate=True, calibration_budgets=(0.5,), batch_size=3)
    else:
        sources = [row.source for row in load_task(config.data).train[: config.limit]]
        longest = longest_of(Pair.load(config.student, config.teacher), sources, config.max_new_tokens).text
        config = replace(config, batch_size=64, max_tokens_in_flight=5 * longest * (1 + config.forks))
    run(replace(config, seeds=1))
    assert {size for size, _ in flying} == {3}
    assert max(rows for _, rows in flying) <= 6
    assert max(read) == 3


def only_seed_1(fit: Callable[..., Any]) -> Callable[..., Any]:
    def fit_once(features_NF: torch.Tensor, target_N: torch.Tensor, settings: WarmStart, *more: Any) -> Any:
        assert settings.seed == 1, "what was fitted is fitted again"
        return fit(features_NF, target_N, settings, *more)

    return fit_once


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bytes(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(config, output=str(tmp_path / "whole"))
    run(whole)
    once = PCLAgent.learn
    learned = []

    def killed(self: PCLAgent, *more: Any) -> dict[str, float]:
        learned.append(self)
        if len(learned) == 4:
            raise KeyboardInterrupt
        return once(self, *more)

    monkeypatch.setattr(PCLAgent, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(PCLAgent, "learn", once)
    monkeypatch.setattr(trainer, "fit_regret", only_seed_1(trainer.fit_regret))
    for name in ("fit_gate", "fit_router"):
        monkeypatch.setattr(trained_baselines, name, only_seed_1(getattr(trained_baselines, name)))
    run(config)
    assert files_of(Path(config.output)) == files_of(Path(whole.output))


@pytest.mark.slow
def test_two_processes_train_one_agent(config: TrainConfig, tmp_path: Path) -> None:
    """Under `torchrun`: each writes its share of the texts, and both fit the same weights."""
    script = tmp_path / "go.py"
    script.write_text(TWO_PROCESSES)
    values = json.dumps({**vars(config), "budgets": list(config.budgets), "seeds": 1, "threads": 1})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, str(script), values], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written to") == 1
    ends = [(tmp_path / f"end-{rank}").read_bytes() for rank in (0, 1)]
    assert ends[0] == ends[1]
    artefact = Artefact.load(config.output)
    assert len(artefact.heads["learned"]) == 1
    lines = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
    once = [line for line in lines if not {"settled", "rounds"} & set(line)]
    assert len(once) == 1 + config.rounds + len(BASELINES), "warm start, rounds, baselines"
    alone = replace(config, seeds=1, output=str(tmp_path / "alone"))
    run(alone)
    assert Artefact.load(alone.output).head_digest("learned", 0) == artefact.head_digest("learned", 0)


def test_what_is_going_to_be_done_is_said_first(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the rows that the limits leave; on as many threads as are asked for."""
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)

    def stopped(self: Trainer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", stopped)
    config = replace(config, pseudo_references=0, limit=7, calibrate=True, calibration_limit=5, threads=3)
    with caplog.at_level("INFO", "wheels"), pytest.raises(KeyboardInterrupt):
        run(config)
    lines = workload(config, 7, 5)
    assert len(lines) == 2 and [record.message for record in caplog.records][:2] == lines
    assert threads == [3]
