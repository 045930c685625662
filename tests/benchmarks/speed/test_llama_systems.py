"""llama.cpp as a rival: tiny models of each family are converted for real, and must write what transformers does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.speed.test_ct2_systems import inputs, pair_of
from wheels.benchmarks.speed import llama_systems
from wheels.benchmarks.speed.llama_systems import FAMILIES, why_not
from wheels.benchmarks.speed.systems import KNOWN


@pytest.fixture
def engine() -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_model_writes_what_transformers_does(family: str, tmp_path: Path, engine: None) -> None:
    """Prompts of different lengths, in batches of one and of four; some texts end, some reach their limit."""
    pair = pair_of(family)
    assert why_not(pair) is None
    for batch_size in (1, 4):
        given = inputs(pair, tmp_path)
        for model in ("teacher", "student"):
            theirs = KNOWN[f"llama-{model}"].run(given, batch_size)
            assert theirs.outputs == KNOWN[f"hf-{model}"].run(given, batch_size).outputs, (model, batch_size)
            assert theirs.teacher_tokens == (theirs.tokens if model == "teacher" else 0)
    assert len({*theirs.outputs}) > 2


def test_tokens_that_are_forbidden_or_forced_are(tmp_path: Path, engine: None) -> None:
    pair = pair_of("llama")
    free = KNOWN["llama-teacher"].run(inputs(pair, tmp_path), 4).outputs
    pair.teacher.generation_config.suppress_tokens = [free[0][1]]
    pair.teacher.generation_config.forced_eos_token_id = pair.eos_ids[0]
    given = inputs(pair, tmp_path)
    assert free != KNOWN["llama-teacher"].run(given, 4).outputs == KNOWN["hf-teacher"].run(given, 4).outputs


def test_long_prompts_are_read_in_several_passes(tmp_path: Path, engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_systems, "CHUNK", 5)
    given = inputs(pair_of("llama"), tmp_path)
    assert KNOWN["llama-teacher"].run(given, 4).outputs == KNOWN["hf-teacher"].run(given, 4).outputs


def test_what_it_cannot_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_systems, "find_spec", lambda name: None)
    assert why_not(pair_of("llama")) == 'llama.cpp is not installed; pip install "training-wheels[llama]"'
    monkeypatch.setattr(llama_systems, "find_spec", lambda name: name)
    assert why_not(pair_of("t5")) == "models of type t5 are not converted, only llama, qwen3"
    pair = pair_of("llama")
    pair.student.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert why_not(pair) == "rotary positions that are scaled are not converted"
