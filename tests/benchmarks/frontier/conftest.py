"""Two tiny students of one teacher, one with trained heads and one plain, and rows for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.decoding.tiny import make_model, make_pair, save_artefact
from wheels.models.pair import Pair

SOURCES = ["a b c", "k j i h", "d", "e a e a", "c c", "h b k", "i", "a d g j", "b e h k", "f", "g g a", "j i h"]


def rows_file(path: Path, shift: int) -> None:
    rows = [{"source": source, "target": SOURCES[(place + shift) % 12]} for place, source in enumerate(SOURCES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def settings(tmp_path) -> dict[str, Any]:
    trained = save_artefact(tmp_path / "trained")
    pair = make_pair("t5")
    Pair.of(make_model("t5", 8, 5), pair.teacher, pair.tokenizer).save_student(tmp_path / "plain")
    (tmp_path / "data").mkdir()
    for shift, split in enumerate(("train", "validation", "test")):
        rows_file(tmp_path / "data" / f"{split}.jsonl", shift)
    return {
        "data": str(tmp_path / "data"), "students": (str(tmp_path / "plain"), str(trained)),
        "teacher": str(trained / "teacher"), "budgets": (0.3,), "metrics": ("chrf",), "max_new_tokens": 6,
        "resamples": 100, "time_rows": 2, "rounds": 2, "time_batches": (1, 2), "output": str(tmp_path / "out"),
    }  # fmt: skip
