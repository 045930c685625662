"""What a stage of training is given, in tests of single stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tests.decoding.commands.test_calibrate import LIMIT
from wheels.agents.config import TrainConfig
from wheels.agents.runlog import Metrics
from wheels.agents.seed_run import SeedRun
from wheels.data.tasks import Row
from wheels.models.pair import Pair


def seed_run(pair: Pair, rows: Sequence[Row], output: Path, **settings: Any) -> SeedRun:
    config = TrainConfig(student="s", teacher="t", data="d", output=str(output), max_new_tokens=LIMIT, **settings)
    return SeedRun(config, pair, rows, "chrf", 0, Accelerator(cpu=True), Metrics(output / "metrics.jsonl", 0))
