from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wheels.benchmarks.core.recipe import shipped_recipe
from wheels.benchmarks.speed.config import REFERENCE, SYSTEMS, WITH_RANDOM_WEIGHTS, SpeedConfig
from wheels.benchmarks.speed.random_pair import RandomPair
from wheels.benchmarks.speed.systems import KNOWN
from wheels.config.parsing import parse
from wheels.errors import WheelsError

SIZES = """family: llama
vocab_size: 40
student: {width: 8, layers: 1, heads: 2, ff: 8}
teacher: {width: 16, layers: 2, heads: 2, ff: 16}
prompt_tokens: 5
new_tokens: 6
"""


def test_the_command_line_of_the_issue_is_understood() -> None:
    line = "--model m --data d.jsonl --rows 3 --batch-sizes 8,1,8 --rounds 2 --teacher-budget 0.3 --draft-length 4"
    config = parse(SpeedConfig, [*line.split(), "--methods", "lookup,teacher"], prog="wheels bench speed")
    assert (config.model, config.data, config.rows, config.rounds) == ("m", "d.jsonl", 3, 2)
    assert (config.batch_sizes, config.teacher_budget, config.draft_length) == ((1, 8), 0.3, 4)
    assert config.methods == (REFERENCE, "teacher", "lookup")


def test_all_systems_are_known() -> None:
    assert tuple(KNOWN) == SYSTEMS
    assert all(system.same_as in (None, *SYSTEMS) for system in KNOWN.values())
    assert not {name for name in WITH_RANDOM_WEIGHTS if KNOWN[name].formula == "speculation"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_sizes": ()}, "batch_sizes must hold at least one value"),
        ({"batch_sizes": (0,)}, "batch_sizes must be at least 1, got 0"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"methods": ("specultive",)}, "did you mean 'speculative'"),
        ({"teacher_budget": 20.0}, "did you mean 0.2"),
        ({"teacher_budget": 1.0}, "must lie between 0 and 1, got 1: the ends are systems of their own"),
        ({"model": "m"}, "--data TEXT is missing"),
        ({"random_weights": "f", "model": "m"}, "--model and --random-weights do not go together"),
        ({"random_weights": "f", "data": "d"}, "--data and --random-weights do not go together"),
        ({"random_weights": "f", "methods": ("lookup",)}, "repeat one token and flatter it; possible: hf-teacher"),
    ],
)
def test_bad_values_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(WheelsError, match=words):
        SpeedConfig(**settings)  # type: ignore[arg-type]


def test_the_configuration_is_light() -> None:
    program = "import sys, wheels.benchmarks.speed.config; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_the_shipped_sizes_can_be_read() -> None:
    sizes = RandomPair.read(shipped_recipe("speed-random"))
    assert (sizes.family, sizes.vocab_size, sizes.prompt_tokens, sizes.new_tokens) == ("llama", 8000, 24, 64)
    assert (sizes.student.width, sizes.teacher.width, sizes.teacher.layers) == (256, 640, 6)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_random_texts_have_the_length_that_was_asked_for(tmp_path: Path, family: str) -> None:
    (tmp_path / "sizes.yaml").write_text(SIZES.replace("llama", family))
    sizes = RandomPair.read(tmp_path / "sizes.yaml")
    pair, sources = sizes.build(dtype="float32", device="cpu"), sizes.sources(4)
    assert {len(row) for row in pair.encode(sources)} == {5}
    assert len(set(sources)) == 4 and sources == sizes.sources(4)
    assert all(model.generation_config.suppress_tokens == [1] for model in (pair.student, pair.teacher))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("family: llama", "family: lama", "did you mean 'llama'"),
        ("vocab_size: 40", "vocab: 40", r"sizes.yaml:2: unknown key 'vocab'; did you mean 'vocab_size'"),
        ("vocab_size: 40", "vocab_size: many", r"sizes.yaml:2: vocab_size must be a whole number, got 'many'"),
        ("vocab_size: 40", "vocab_size: 3", "vocab_size must be at least 4, got 3"),
        ("new_tokens: 6\n", "", "new_tokens is missing; a pair of random weights needs family"),
        ("new_tokens: 6", "new_tokens: 600", "must be at most 512 together, got 605"),
        ("student: {width: 8,", "student: {", "sizes.yaml:3: student lacks width; it needs width, layers, heads, ff"),
        ("student: {width: 8,", "student: {width: 9,", "sizes.yaml:3: heads must divide width 9, got 2"),
        ("student: {width: 8,", "student: {width: 8, depth: 2,", "unknown key of student 'depth'"),
        ("student: {width: 8, layers: 1, heads: 2, ff: 8}", "student: 8", "student must hold width, layers, heads, ff"),
    ],
)
def test_bad_sizes_are_refused_with_their_line(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert before in SIZES
    (tmp_path / "sizes.yaml").write_text(SIZES.replace(before, after))
    with pytest.raises(WheelsError, match=words):
        RandomPair.read(tmp_path / "sizes.yaml")
