"""A model alone: its prompt, its facts, and that the engine writes what the model itself does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.decoding.tiny import make_pair
from wheels.benchmarks.core.score import Alone, quality
from wheels.data.rows import Row
from wheels.distillation.generation import outputs_of
from wheels.files import write_json

ROWS = [Row("a b c", "b"), Row("k j", "c d"), Row("b b b b", "a")]


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_model_alone_writes_what_it_does_in_training(tmp_path: Path, family: str) -> None:
    pair = make_pair(family)
    folder = pair.save_student(tmp_path / "model")
    write_json(folder / "finished.json", {"prompt": "{source} =", "steps": 3})
    alone = Alone.load(folder, prompt="not this one: {source}")
    assert alone.pair.prompt.text == "{source} =" and alone.facts["finished"]["steps"] == 3
    assert alone.facts["parameters"] == sum(weights.numel() for weights in pair.student.parameters())
    sources = alone.pair.encode([row.source for row in ROWS])
    outputs = outputs_of(alone.pair, alone.pair.student, sources, max_new_tokens=6, batch_size=3)
    assert alone.write(ROWS, 6, 2) == [alone.pair.decode(output) for output in outputs]


def test_a_model_that_no_run_has_made_has_the_prompt_that_is_given(tmp_path: Path) -> None:
    alone = Alone.load(make_pair("llama").save_student(tmp_path / "model"), prompt="Q: {source}")
    assert alone.pair.prompt.text == "Q: {source}" and alone.facts["finished"] == {}


def test_rouge_is_also_given_on_whitespace_tokens() -> None:
    assert quality(["A b."], ["a b"], ["rouge1", "exact"]) == {"rouge1": 100.0, "exact": 0.0, "rouge1_plain": 0.0}
