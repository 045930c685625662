"""CTranslate2 as a rival: tiny models of each family are converted for real, and must write what transformers does."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MarianConfig, MarianMTModel, PreTrainedModel, PreTrainedTokenizerFast

from tests.benchmarks.speed.test_config import SIZES
from tests.decoding.tiny import bart, make_pair
from tests.envs.tiny import EOS, SOURCES, WORDS, tokenizer_of
from tests.marks import slow
from wheels.benchmarks.speed import ct2_systems
from wheels.benchmarks.speed.config import CT2, SpeedConfig
from wheels.benchmarks.speed.ct2_systems import FAMILIES, converted, why_not
from wheels.benchmarks.speed.hf_systems import Prompts, Workload
from wheels.benchmarks.speed.run import run
from wheels.benchmarks.speed.systems import KNOWN
from wheels.errors import WheelsError
from wheels.models.pair import Pair

PAD = len(WORDS) + 3
"""Marian's padding is the last token of its vocabulary."""


@pytest.fixture
def engine() -> None:
    pytest.importorskip("ctranslate2")


def marian(width: int) -> PreTrainedModel:
    config = MarianConfig(
        vocab_size=PAD + 1, d_model=width, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, pad_token_id=PAD,
        eos_token_id=EOS, decoder_start_token_id=PAD, init_std=0.8, forced_eos_token_id=EOS,
    )  # fmt: skip
    model = MarianMTModel(config)
    model.generation_config.bad_words_ids, model.generation_config.forced_eos_token_id = [[PAD]], EOS
    return model


def marian_tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["?", "</s>", "<unk>", *WORDS, "<pad>"])}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=64, **special)


def tied(make: Callable[[int], PreTrainedModel], tokenizer: PreTrainedTokenizerFast) -> Pair:
    """BART and Marian tie their tables, and are saved without one that is not."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Pair.of(make(16).eval(), make(24).eval(), tokenizer)


def pair_of(family: str) -> Pair:
    if family in ("bart", "marian"):
        made = {"bart": (bart, tokenizer_of(ends_source=True)), "marian": (marian, marian_tokenizer())}
        return tied(*made[family])
    pair = make_pair(family)
    for model in (pair.student, pair.teacher):
        model.float()
    return pair


def inputs(pair: Pair, folder: Path, new_tokens: int = 12) -> Workload:
    return Workload(Prompts(pair, SOURCES, new_tokens), 0.3, None, 3, folder)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", *slow(*(family for family in FAMILIES if family not in ("t5", "qwen2")))])
def test_a_converted_model_writes_what_transformers_does(family: str, tmp_path: Path, engine: None) -> None:
    """Prompts of different lengths, among them one of a single token; some texts end, some reach their limit."""
    pair = pair_of(family)
    texts = {}
    for batch_size in (1, 4):
        given = inputs(pair, tmp_path)
        for model in ("teacher", "student"):
            theirs = KNOWN[f"ct2-{model}"].run(given, batch_size)
            texts[model] = theirs.outputs
            assert theirs.outputs == KNOWN[f"hf-{model}"].run(given, batch_size).outputs, (model, batch_size)
            assert theirs.teacher_tokens == (theirs.tokens if model == "teacher" else 0)
    assert texts["teacher"] != texts["student"]
    assert len({*texts["teacher"]}) > 2


def test_int8_is_another_model(tmp_path: Path, engine: None) -> None:
    given = inputs(pair_of("t5"), tmp_path)
    exact, small = (KNOWN[name].run(given, 4) for name in ("ct2-teacher", "ct2-teacher-int8"))
    assert exact.outputs != small.outputs and len(small.outputs) == len(SOURCES)


def test_a_model_is_converted_once(tmp_path: Path, engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_of("t5")
    folder = converted(pair, "teacher", tmp_path / "made")
    monkeypatch.setattr(Pair, "save_teacher", lambda *_: pytest.fail("a second time"))
    assert converted(pair, "teacher", tmp_path / "made") == folder == tmp_path / "made"
    assert (folder / "model.bin").is_file() and [each.name for each in tmp_path.iterdir()] == ["made"]


def test_the_engine_waits_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(ct2_systems, "import_module", lambda name: (name, os.environ.get("OMP_WAIT_POLICY")))
    assert ct2_systems._package.__wrapped__() == ("ctranslate2", None)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE", "ours goes on as the command line has it"


def test_what_the_converter_refuses_is_said(tmp_path: Path, engine: None) -> None:
    pair = pair_of("t5")
    pair.teacher.config.dense_act_fn = "tanh"
    with pytest.raises(WheelsError, match=r"CTranslate2 cannot convert the teacher: .*tanh.*; leave ct2- out of --m"):
        converted(pair, "teacher", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair("t5")
    monkeypatch.setattr(ct2_systems, "find_spec", lambda name: None)
    assert why_not(pair) == 'CTranslate2 is not installed; pip install "training-wheels[rivals]"'
    monkeypatch.setattr(ct2_systems, "find_spec", lambda name: name)
    assert why_not(pair) is None
    pair.teacher.config.model_type = "mamba"
    assert str(why_not(pair)).startswith("models of type mamba are not converted, only t5, bart")
    monkeypatch.setattr(Pair, "device", torch.device("meta"))
    assert why_not(make_pair("t5")) == "it is timed on the CPU alone, not on meta"


@pytest.mark.slow
def test_the_fastest_teacher_alone_may_be_a_rival(tmp_path: Path, engine: None) -> None:
    """End to end on random weights, whose end is suppressed: every text has the length that was asked for."""
    (tmp_path / "sizes.yaml").write_text(SIZES)
    config = SpeedConfig(random_weights=str(tmp_path / "sizes.yaml"), rows=4, batch_sizes=(3,), rounds=2)
    run(dataclasses.replace(config, output=str(tmp_path / "out"), methods=("teacher", "student", "deferral", *CT2)))
    content = json.loads((tmp_path / "out" / "speed.json").read_text())
    (batch,) = content["batches"]
    found = {each["name"]: each for each in batch["contestants"]}
    assert batch["reference"] in ("ct2-teacher", "ct2-teacher-int8") and "ctranslate2" in content["versions"]
    assert all(found[name]["tokens"] == 4 * 6 for name in CT2) and found["ct2-teacher"]["equal"] == 1.0
    for name in CT2:
        assert found[name]["scheduler_overhead"] is None and found[name]["passes_per_token"]["teacher"] is None
    assert {each.name for each in (tmp_path / "out" / "converted").iterdir()} == {"teacher", "student"}
