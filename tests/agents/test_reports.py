"""What `wheels train` logs reaches a service: a recorded one, and TensorBoard's own files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agents.test_run import config
from wheels.agents import reports
from wheels.agents.config import TrainConfig
from wheels.agents.reports import Reports, reporting
from wheels.agents.run import run

__all__ = ["config"]


class Recorder:
    """A service that keeps what it is told."""

    calls: list

    def on_train_begin(self, arguments, state, control) -> None:
        self.calls.append(("begin", arguments.run_name, arguments.to_dict()["seeds"]))

    def on_log(self, arguments, state, control, logs) -> None:
        self.calls.append((state.global_step, logs))

    def on_train_end(self, arguments, state, control) -> None:
        self.calls.append(("end",))


@pytest.fixture
def calls(monkeypatch) -> list:
    kept: list = []
    kind = type("Kept", (Recorder,), {"calls": kept})
    monkeypatch.setattr(reports, "get_reporting_integration_callbacks", lambda names: [kind for _ in names])
    return kept


def test_numbers_are_sent_under_their_names_at_their_round(config: TrainConfig, calls: list) -> None:
    with reporting(replace(config, report_to=("wandb",))) as service:
        assert calls == []
        service.log(1, {"round": 3, "loss": 0.5, "prices": {"0.2": 2}, "name": "x", "right": True, "share": None})
    assert calls == [("begin", "model", 2), (3, {"seed_1/loss": 0.5, "seed_1/prices/0.2": 2.0}), ("end",)]


def test_a_run_that_fails_ends_its_services(config: TrainConfig, calls: list) -> None:
    with pytest.raises(KeyboardInterrupt), reporting(replace(config, report_to=("wandb",))) as service:
        service.log(0, {"loss": 1.0})
        raise KeyboardInterrupt
    assert calls[-1] == ("end",)


def test_no_service_is_told_nothing(config: TrainConfig, calls: list) -> None:
    service = Reports(config)
    service.log(0, {"loss": 1.0})
    service.close()
    assert calls == []


@pytest.mark.slow
def test_tensorboard_shows_what_metrics_hold(config: TrainConfig) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(replace(config, report_to=("tensorboard",), seeds=1))
    output = Path(config.output)
    events = EventAccumulator(str(output / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if "residual" in line]
    for name in ("residual", "use"):
        shown = [(event.step, event.value) for event in events.Scalars(f"train/seed_0/{name}")]
        assert shown == [(line["round"], pytest.approx(line[name], rel=1e-6)) for line in rounds]
    assert '"seeds": 1' in events.Tensors("args/text_summary")[0].tensor_proto.string_val[0].decode()


TRACKIO = """
import json, pathlib
__version__ = "0.0.0"
kept, config = [], {}
class context_vars:
    class current_space_id:
        get = staticmethod(lambda: None)
def init(**settings): kept.append(["init", settings["name"]])
def log(numbers): kept.append(numbers)
def finish(): pathlib.Path("kept.json").write_text(json.dumps([kept, config["seeds"]]))
"""


@pytest.mark.slow
def test_trackio_reads_no_setting_that_is_not_there(config: TrainConfig, tmp_path: Path) -> None:
    """A stand-in for the package, which needs a server: transformers' own callback talks to it."""
    (tmp_path / "trackio.py").write_text(TRACKIO)
    about = tmp_path / "trackio-9.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: trackio\nVersion: 9.0\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from wheels.agents.config import TrainConfig
from wheels.agents.reports import reporting
with reporting(TrainConfig(student="s", teacher="t", data="d", output="o", report_to=("trackio",))) as service:
    service.log(0, {{"round": 4, "loss": 0.5}})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, seeds = json.loads((tmp_path / "kept.json").read_text())
    assert kept == [["init", "o"], {"train/seed_0/loss": 0.5, "train/global_step": 4}]
    assert seeds == 1
