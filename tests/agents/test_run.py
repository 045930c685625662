"""`wheels train`, whole: what it leaves, that it continues where it was killed, and that the student can be trained."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.decoding.tiny import make_pair, write
from wheels.agents import run as train
from wheels.agents.config import TrainConfig
from wheels.agents.plan import trained_rules
from wheels.agents.regression import trained_baselines
from wheels.agents.regression.warm_start import WarmStart
from wheels.agents.rl.agent import PCLAgent
from wheels.agents.run import Trainer, run
from wheels.decoding import teacher_forcing
from wheels.decoding.engine import Engine
from wheels.decoding.methods.calibrated import calibrated
from wheels.decoding.methods.rules import KNOWN_RATE, RULE_NAMES, TRAINED
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact

LETTERS = "abcdefghijk"


TWO_PROCESSES = """
import json, os, pathlib, sys
from wheels.agents.run import Trainer, run
from wheels.agents.config import TrainConfig
from wheels.agents.plan import trained_rules

train = Trainer.train
def noted(self, episodes):
    agent = train(self, episodes)
    end = b"".join(value.numpy().tobytes() for value in agent.head.state_dict().values())
    pathlib.Path(self.config.student).parent.joinpath("end-" + os.environ["RANK"]).write_bytes(end)
    return agent
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
        output=str(tmp_path / "model"), seeds=2, width=8, warm_epochs=1, iterations=4, prompts=8, updates=2,
        batch_size=4, checkpoint_every=2, max_new_tokens=8, budgets=(0.2, 0.5), calibrate=False, gamma=0.5,
        terminal=0.01,
    )  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("deferral/model.safetensors", "metrics.jsonl")}


@pytest.mark.slow
def test_what_training_leaves_can_be_decoded_with(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert [line["round"] for line in lines if "round" in line] == [0, 1, 2, 3] * 2
    first = next(line for line in lines if "round" in line)
    assert set(first["use_by_budget"]) == {"0.2", "0.5"}
    assert sum("pairs" in line for line in lines) == 2
    assert not (Path(config.output) / ".training").exists()
    run(replace(config, calibrate=True, calibration_budgets=(0.5,)))
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.slow
def test_seeds_differ_and_the_agent_left_its_warm_start(config: TrainConfig) -> None:
    run(replace(config, learning_rate=1e-2, iterations=6))
    artefact = Artefact.load(config.output)
    digests = {(rule, seed): artefact.head_digest(rule, seed) for rule in trained_rules(config) for seed in (0, 1)}
    assert len(set(digests.values())) == 8


@pytest.mark.slow
@pytest.mark.parametrize("part", ["head", "student"])
def test_no_more_rows_are_in_flight_than_batch_size_says(
    part: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    flying, read = [], []
    begin, once = Engine.__init__, teacher_forcing.read_texts

    def counted(self: Engine, *more: Any, **named: Any) -> None:
        begin(self, *more, **named)
        flying.append((named["batch_size"], len(self.texts.sequences)))

    def noted(pair: Any, model: Any, sources: Any, texts: list[Any]) -> Any:
        read.append(len(texts))
        return once(pair, model, sources, texts)

    monkeypatch.setattr(Engine, "__init__", counted)
    monkeypatch.setattr(teacher_forcing, "read_texts", noted)
    run(replace(config, train=part, calibrate=True, calibration_budgets=(0.5,), batch_size=3, seeds=1))
    assert {size for size, _ in flying} == {3}
    assert max(rows for _, rows in flying) <= 6
    assert max(read) == 3


def only_seed_1(fit: Callable[..., Any]) -> Callable[..., Any]:
    def fit_once(features_NF: torch.Tensor, target_N: torch.Tensor, settings: WarmStart) -> Any:
        assert settings.seed == 1, "what was fitted is fitted again"
        return fit(features_NF, target_N, settings)

    return fit_once


@pytest.mark.slow
@pytest.mark.parametrize("part", ["head", "student"])
def test_a_killed_run_ends_in_the_same_bytes(
    part: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, train=part, seeds=1 if part == "student" else 2, student_learning_rate=1e-3)
    whole = replace(config, output=str(tmp_path / "whole"))
    run(whole)
    once = Trainer._round

    def killed(self: Trainer, agent: Any, number: int) -> dict[str, Any]:
        if number == 3 and self.seed == config.seeds - 1:
            raise KeyboardInterrupt
        return once(self, agent, number)

    monkeypatch.setattr(Trainer, "_round", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(Trainer, "_round", once)
    if part == "head":
        monkeypatch.setattr(train, "fit_regret", lambda *_: pytest.fail("the warm start ran again"))
        monkeypatch.setattr(trained_baselines, "text_gains", lambda *_: pytest.fail("whole texts were written again"))
        for name in ("fit_gate", "fit_router"):
            monkeypatch.setattr(trained_baselines, name, only_seed_1(getattr(trained_baselines, name)))
    run(config)
    assert files_of(Path(config.output)) == files_of(Path(whole.output))
    weights = [(Path(folder) / "model.safetensors").read_bytes() for folder in (config.output, whole.output)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_training_the_student_moves_it_and_the_head_alone_does_not(config: TrainConfig, tmp_path: Path) -> None:
    run(config)
    moved = replace(
        config, train="student", seeds=1, student_learning_rate=1e-3, output=str(tmp_path / "moved"), iterations=6
    )
    run(moved)
    start = make_pair("t5").student
    for folder, same in ((config.output, True), (moved.output, False)):
        student = Artefact.load(folder, dtype="float32").pair.student
        pairs = zip(start.float().parameters(), student.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) is same
    assert set(Artefact.load(moved.output).heads) == {"learned", "regret"}, "the others are of a frozen student"


@pytest.mark.slow
def test_a_run_is_known_by_what_its_folders_hold(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever they lie; a student that was trained on since is another one."""
    run(config)
    shutil.copytree(tmp_path / "student", tmp_path / "elsewhere" / "student")
    for split in ("train", "validation"):
        shutil.copy(tmp_path / f"{split}.jsonl", tmp_path / "elsewhere")
    moved = replace(config, student=str(tmp_path / "elsewhere" / "student"), data=str(tmp_path / "elsewhere"))
    run(moved)
    assert "nothing to do" in capsys.readouterr().out
    make_pair("t5").save_teacher(tmp_path / "elsewhere" / "student")
    with pytest.raises(WheelsError, match=r"holds a run with student_digest '\w{16}', not '\w{16}'; give another"):
        run(moved)
    with (tmp_path / "train.jsonl").open("a") as rows:
        rows.write('{"source": "a", "target": "b"}\n')
    with pytest.raises(WheelsError, match="holds a run with data_digest"):
        run(config)


@pytest.mark.slow
def test_an_unfinished_run_is_not_continued_with_other_settings(config: TrainConfig) -> None:
    run(config)
    with pytest.raises(WheelsError, match=r"holds a run with gamma 0\.5, not 0\.9; give another --output"):
        run(replace(config, gamma=0.9))


def test_the_student_is_trained_one_seed_at_a_time(config: TrainConfig) -> None:
    with pytest.raises(WheelsError, match="gives one student"):
        replace(config, train="student")


@pytest.mark.slow
def test_two_processes_train_one_agent(config: TrainConfig, tmp_path: Path) -> None:
    """Under `torchrun`: both end with the same weights, for the gradients are averaged."""
    script = tmp_path / "go.py"
    script.write_text(TWO_PROCESSES)
    values = json.dumps({**vars(config), "budgets": list(config.budgets), "seeds": 1, "threads": 1})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, str(script), values], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written to") == 1
    ends = [(tmp_path / f"end-{rank}").read_bytes() for rank in (0, 1)]
    assert ends[0] == ends[1]
    artefact = Artefact.load(config.output)
    lines = (Path(config.output) / "metrics.jsonl").read_text().splitlines()
    assert len(artefact.heads["learned"]) == 1
    assert len(lines) == 1 + config.iterations + 3, "warm start, pairs, rounds, gate and router"


def test_a_metric_that_there_is_not_is_refused(config: TrainConfig) -> None:
    with pytest.raises(WheelsError, match=r"metric must be one of .*did you mean 'rougeL'"):
        run(replace(config, metric="rougel"))


@pytest.mark.slow
def test_the_metric_of_single_texts_gives_the_credit(config: TrainConfig) -> None:
    run(replace(config, metric="rougeL", seeds=1, iterations=0))
    lines = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
    other = replace(config, output=config.output + "-chrf", seeds=1, iterations=0)
    run(other)
    others = [json.loads(line) for line in (Path(other.output) / "metrics.jsonl").read_text().splitlines()]
    found, chrf = (next(line["pairs"] for line in each if "pairs" in line) for each in (lines, others))
    assert found["points_per_nat"] != chrf["points_per_nat"]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "agent"), [("head", "lagrangian"), ("head", "pcl"), ("student", "lagrangian")])
def test_train_stops_at_the_loss_of_an_update(
    part: str, agent: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, calls = PCLAgent.loss, iter(range(99))

    def loss(self: PCLAgent, *args: Any, **kwargs: Any) -> Any:
        found, figures = once(self, *args, **kwargs)
        return (found * math.nan, figures | {"loss": math.nan}) if next(calls) == 3 else (found, figures)

    monkeypatch.setattr(PCLAgent, "loss", loss)
    with pytest.raises(WheelsError, match=r"^seed 0, round 2, update 2: the loss is nan, "):
        run(replace(config, train=part, agent=agent, seeds=1))
    output = Path(config.output)
    assert not (output / "config.json").exists() and not (output / "deferral").exists()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (output / "metrics.jsonl").open()]
    assert sum("round" in line for line in lines) == 1


@pytest.mark.slow
def test_train_stops_at_a_price_and_at_heads(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PCLAgent, "price", lambda self, budget_B: torch.full_like(budget_B, math.inf))
        with pytest.raises(WheelsError, match=r"^seed 0, round 1"):
            run(replace(config, agent="pcl"))
    with monkeypatch.context() as patch:
        once = Trainer.train

        def broken(self: Trainer, episodes: Any) -> PCLAgent:
            agent = once(self, episodes)
            with torch.no_grad():
                next(iter(agent.head.parameters())).fill_(math.nan)
            return agent

        patch.setattr(Trainer, "train", broken)
        with pytest.raises(WheelsError, match=r"^end of seed 0, rule learned: the weight"):
            run(replace(config, output=f"{config.output}-2"))
    assert not (Path(f"{config.output}-2") / "config.json").exists()


@pytest.mark.slow
def test_a_start_that_failed_holds_nothing(config: TrainConfig, tmp_path: Path) -> None:
    """A teacher that cannot be loaded does not take the output from the one that can."""
    wrong = shutil.copytree(tmp_path / "teacher", tmp_path / "wrong")
    (wrong / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WheelsError, match="cannot load the teacher"):
        run(replace(config, teacher=str(wrong)))
    assert not Path(config.output).exists()
    run(replace(config, iterations=0, seeds=1))
    assert (Path(config.output) / "deferral" / "config.json").is_file()


def test_what_is_needed_at_the_end_is_looked_for_first(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").unlink()
    with pytest.raises(WheelsError, match="has no validation split"):
        run(replace(config, calibrate=True, calibration_budgets=(0.5,)))
    assert not Path(config.output).exists()


def test_a_folder_of_something_else_is_left_alone(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(WheelsError, match=r"holds something else \(thesis.tex\)"):
        run(replace(config, output=str(tmp_path / "mine")))


@pytest.mark.slow
def test_a_kept_state_that_is_damaged_is_made_again(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    once = Trainer._round

    def killed(self: Trainer, agent: Any, number: int) -> dict[str, Any]:
        if number == 1 and self.seed == 1:  # before its first checkpoint: all that is kept is read again
            raise KeyboardInterrupt
        return once(self, agent, number)

    monkeypatch.setattr(Trainer, "_round", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    kept = sorted((Path(config.output) / ".training").rglob("*.pt"))
    names = {file.name for file in kept}
    assert names >= {"states-00000.pt", "gains-00000.pt", "pairs-00000.pt", "gate-0-00000.pt", "process-0.pt"}
    contents = {file: file.read_bytes() for file in kept if file.parent.name != "checkpoint-2"}
    for file, whole in contents.items():
        for content in (whole[: len(whole) // 2], packed({"x": 1})):
            file.write_bytes(content)
            caplog.clear()
            with pytest.raises(KeyboardInterrupt):
                run(config)
            damaged = file.parent if file.name == "process-0.pt" else file
            assert f"{damaged} is damaged; it is made again" in caplog.text
            # Pairs are of the first seed's head, and were lost here when the second had begun.
            same = [file for file in contents if not file.name.startswith("pairs-")]
            assert [file.read_bytes() for file in same] == [contents[file] for file in same]


def packed(content: Any) -> bytes:
    """A file of torch that holds something else."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
