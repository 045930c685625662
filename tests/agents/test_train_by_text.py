"""`wheels train` with a teacher that has a tokenizer of its own: what it leaves works in every command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import wheels
from tests.decoding.across.two import SOURCES, text_pair
from wheels.agents.config import TrainConfig
from wheels.agents.plan import check_by_text
from wheels.agents.rl.agent import price_for, share_of_states, starting_prices
from wheels.agents.run import run
from wheels.cli.main import main
from wheels.decoding.across.pair import TextPair
from wheels.errors import WheelsError
from wheels.models.artefact import Artefact
from wheels.models.loading import save_model
from wheels.policy.head import DeferralHead, HeadConfig

QUICK = {
    "width": 8, "warm_epochs": 1, "rounds": 1, "texts": 12, "forks": 3, "pseudo_references": 1, "states": 200,
    "batch_size": 4, "max_new_tokens": 10, "budgets": (0.2, 0.5), "epochs": 1, "seeds": 1,
    "calibration_budgets": (0.3,), "threads": 1,
}  # fmt: skip


def on_disk(pair: TextPair, folder: Path) -> TrainConfig:
    """Save a pair and a task, and return the settings of a run that takes seconds."""
    save_model(pair.student, pair.tokenizer, folder / "student")
    save_model(pair.writer, pair.teacher_tokenizer, folder / "teacher")
    for split, count in (("train", 15), ("validation", 10), ("test", 5)):
        rows = [{"source": SOURCES[place % 5], "target": SOURCES[place % 4]} for place in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = {"student": "student", "teacher": "teacher", "output": "model"}
    return TrainConfig(data=str(folder), **{name: str(folder / place) for name, place in places.items()}, **QUICK)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A model of two tokenizers and two families, with its thresholds."""
    folder = tmp_path_factory.mktemp("two")
    config = replace(on_disk(text_pair("t5", "llama"), folder), span="tokens:2", baselines=("gate",))
    run(config)
    return config


def test_a_trained_model_has_a_head_and_thresholds_of_its_calls(trained: TrainConfig) -> None:
    found = Artefact.load(
        trained.output, load_pair=lambda *given, **named: TextPair.load(*given, span="tokens:2", **named)
    )
    assert set(found.heads) == {"learned", "regret", "gate"} and isinstance(found.pair, TextPair)
    assert {point.rule for point in found.calibration.points} >= {"learned", "margin"}
    lines = [json.loads(line) for line in (Path(trained.output) / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if "forks" in line] == [0]
    assert sum(line.get("teacher_tokens", 0) for line in lines) > 0


def test_generate_and_curve_go_on_from_it(
    trained: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--model", trained.output, "--span", "tokens:2", "--max-new-tokens", "10", "--threads", "1"]
    assert main(["generate", *settings, "--teacher-budget", "0.3", "--format", "json", SOURCES[0]]) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "learned"
    curve = ["bench", "curve", *settings, "--data", trained.data, "--rules", "learned,margin", "--budgets", "0,0.3,1"]
    assert main([*curve, "--metrics", "chrf", "--output", str(tmp_path / "curve"), "--seeds", "1"]) == 0
    assert (tmp_path / "curve" / "curve.json").exists()
    capsys.readouterr()
    refused = [*curve[: curve.index("--rules") + 1], "learned,random", *curve[curve.index("--rules") + 2 :]]
    assert main([*refused, "--output", str(tmp_path / "other"), "--seeds", "1"]) == 2
    assert "rule 'random' keeps its budget by calls of one token" in capsys.readouterr().err
    assert not (tmp_path / "other").exists(), "before the work"


def test_python_reads_it_with_the_span_of_its_thresholds(trained: TrainConfig) -> None:
    model = wheels.Model.load(trained.output, span="tokens:2")
    assert model.generate(SOURCES[:2], teacher_budget=0.3, max_new_tokens=10)
    with pytest.raises(WheelsError, match="span"):
        wheels.Model.load(trained.output).generate(SOURCES[:2], teacher_budget=0.3, max_new_tokens=10)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_head(
    trained: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(trained, output=str(tmp_path / "again"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr("wheels.agents.trainer.Trainer._settle", killed)
        with pytest.raises(KeyboardInterrupt):
            run(again)
    run(again)
    digests = {
        Artefact.load(each.output, load_pair=TextPair.load).head_digest("learned", 0) for each in (trained, again)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train": "student"}, "train 'student' compares"),
        ({"spans": (2,)}, "spans are counted"),
        ({"baselines": ("gate", "paired")}, "baseline 'paired'"),
    ],
)
def test_what_needs_one_tokenizer_is_refused_at_once(changed: dict[str, object], said: str) -> None:
    config = TrainConfig("s", "t", "d", "o")
    with pytest.raises(WheelsError, match=said):
        check_by_text(replace(config, **changed), text_pair("t5", "t5"))  # type: ignore[arg-type]
    check_by_text(config, text_pair("t5", "t5"))


def test_a_span_is_refused_for_an_address() -> None:
    with pytest.raises(WheelsError, match="--spans says what longer ones gain"):
        TrainConfig("s", "http://127.0.0.1:9/v1", "d", "o", teacher_model="m", span="tokens:2")


@pytest.mark.parametrize(
    ("budget", "per_call", "share"), [(0.2, 1.0, 0.2), (0.5, 4.0, 0.2), (0.0, 3.0, 0.0), (1.0, 3.0, 1.0)]
)
def test_of_calls_that_buy_several_tokens_fewer_states_call(budget: float, per_call: float, share: float) -> None:
    assert share_of_states(budget, per_call) == pytest.approx(share)
    calls, writes = share * per_call, 1 - share
    assert calls / (calls + writes) == pytest.approx(budget), "the share of tokens"


def test_starting_prices_count_what_a_call_buys() -> None:
    torch.manual_seed(0)
    head, states_NF = DeferralHead(HeadConfig(features=6, width=4)), torch.randn(500, 6)
    table = starting_prices(head, (0.5,), 0.5, states_NF, 4.0)
    gain_N = head.gain(states_NF, torch.full((500,), 0.5))
    assert table.prices[0] == pytest.approx(price_for(gain_N, 0.2, 0.5, 20.0))
