"""Tiny pairs and a task that they can learn, for tests that run in milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from wheels.data.tasks import Row, Task
from wheels.files import write_text
from wheels.models.build import ModelSize
from wheels.models.pair import Pair

WORDS = (("rot", "red"), ("blau", "blue"), ("Hund", "dog"), ("Katze", "cat"), ("laeuft", "runs"), ("und", "and"))
TINY = ModelSize(width=16, layers=2, heads=2, ff=32)


def rows(count: int) -> list[Row]:
    """Sentences of two to five words, the target word for word."""
    picks = [[WORDS[(i * 7 + j * (i % 5 + 1)) % len(WORDS)] for j in range(2 + i % 4)] for i in range(count)]
    return [Row(" ".join(w[0] for w in pick), " ".join(w[1] for w in pick)) for pick in picks]


@pytest.fixture(scope="session")
def task() -> Task:
    every = rows(60)
    return Task("words", {"train": every[:48], "validation": every[48:], "test": every[48:]})


@pytest.fixture(scope="session")
def built(task: Task) -> Callable[[str], Pair]:
    """Return a function that builds the pair of a family once."""
    return cache(lambda family: Pair.build(task, family=family, student=TINY, teacher=TINY, vocab_size=300))


@pytest.fixture
def t5(built: Callable[[str], Pair]) -> Pair:
    return copy.deepcopy(built("t5"))


@pytest.fixture
def llama(built: Callable[[str], Pair]) -> Pair:
    return copy.deepcopy(built("llama"))


@pytest.fixture
def folders(t5: Pair, tmp_path: Path) -> tuple[str, str]:
    """The T5 pair on disk."""
    return str(t5.save_student(tmp_path / "student")), str(t5.save_teacher(tmp_path / "teacher"))


@pytest.fixture
def data(task: Task, tmp_path: Path) -> str:
    """The task on disk."""
    import json

    for split, lines in task.splits.items():
        text = "".join(json.dumps({"source": row.source, "target": row.target}) + "\n" for row in lines)
        write_text(tmp_path / "data" / f"{split}.jsonl", text)
    return str(tmp_path / "data")
