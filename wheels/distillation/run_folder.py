"""What stands in the folder of a training run beside the model: checkpoints, metrics, and the facts of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wheels.data.prompts import Prompt
from wheels.files import read_object

CHECKPOINTS = "checkpoints"
"""The trainer's checkpoints; removed when the run is finished."""
METRICS_LOG = "metrics.jsonl"
"""One JSON object a line: each log and each evaluation."""
FACTS = "finished.json"
"""What `run_facts` returns."""


def run_facts(folder: Path | str) -> dict[str, Any]:
    """Return the facts of the run that trained a model, such as its prompt; empty for any other model."""
    noted = Path(folder) / FACTS
    return read_object(noted) if noted.is_file() else {}


def noted_prompt(folder: Path | str) -> Prompt:
    """Return the prompt that a model was trained with by `wheels pretrain`; the source alone for any other model."""
    return Prompt.of(run_facts(folder).get("prompt", "{source}"))
