"""Weights that torchao and bitsandbytes round: at load, and in a checkpoint. Left out where these are missing."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tests.decoding.test_spread import SOURCES, written
from tests.decoding.tiny import save_artefact
from wheels.decoding.memory import weights_of
from wheels.decoding.models.registry import has_fast_path
from wheels.errors import WheelsError
from wheels.finite import not_finite
from wheels.models.artefact import Artefact
from wheels.models.loading import load_model, load_tokenizer, save_model
from wheels.models.pair import Pair
from wheels.models.quantization import PACKAGES

KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is missing"))
    for kind, name in PACKAGES.items()
]
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pair of Llama models; the teacher has rows of as many weights as have one scale."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = save_artefact(tmp_path_factory.mktemp("rounded"), "llama")
    config = LlamaConfig(**json.loads((folder / "teacher" / "config.json").read_text()) | WIDE | {"dtype": "float32"})
    torch.manual_seed(1)
    teacher = LlamaForCausalLM(config).eval()
    for weight in teacher.parameters():
        torch.nn.init.normal_(weight, std=0.4) if weight.dim() > 1 else None
    save_model(teacher, load_tokenizer(folder), folder / "teacher")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_rounded_teacher_writes_its_own_texts_in_any_batch(folder, kind):
    pair = Pair.load(folder, folder / "teacher", dtype="float32", teacher_quantization=kind)
    plain = Pair.load(folder, folder / "teacher", dtype="float32")
    assert not has_fast_path(pair.teacher) and has_fast_path(plain.teacher) and not_finite(pair.teacher) is None
    assert weights_of(pair.teacher) < 0.7 * sum(4 * weight.numel() for weight in plain.teacher.parameters())
    texts = written(pair)
    assert texts["drafts"] == texts["teacher"] and texts["teacher"] == [
        written(pair, [each])["teacher"][0] for each in SOURCES
    ]
    prompts = pair.encode(SOURCES)
    for prompt, text in zip(prompts, texts["teacher"], strict=True):
        own = pair.teacher.generate(input_ids=torch.tensor([prompt]), max_new_tokens=10, do_sample=False)
        assert tuple(own[0, len(prompt) :].tolist())[: len(text)] == text
    logits = [each.teacher(torch.tensor([prompts[1]])).logits for each in (pair, plain)]
    assert 1e-4 < float((logits[0] - logits[1]).abs().max() / logits[1].std()) < 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_stored_rounded_is_read_as_it_is(folder, kind, tmp_path):
    asked = {"teacher_quantization": kind}
    pair = Pair.load(folder, folder / "teacher", dtype="float32", **asked)
    pair.save_teacher(tmp_path / "rounded")  # before it writes: bitsandbytes packs its weights for the processor then
    found = Artefact.load(folder, teacher=str(tmp_path / "rounded"), dtype="float32")
    assert written(found.pair) == written(pair)
    assert found.digest != Artefact.load(folder, dtype="float32").digest
    with pytest.raises(WheelsError, match=r"is stored with rounded weights \(quantization_config\); leave"):
        Pair.load(folder, tmp_path / "rounded", **asked)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_rows_that_are_no_whole_blocks_are_refused(tmp_path, kind):
    folder = save_artefact(tmp_path, "llama")
    with pytest.raises(WheelsError, match=r"in int4: model.layers.0.self_attn.q_proj reads 24 numbers, and on a cpu"):
        load_model(folder / "teacher", dtype="float32", quantization=kind)


def test_what_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind, package in PACKAGES.items():
        with pytest.raises(WheelsError, match=rf"in {kind} needs {package}; run pip install 'training-wheels\[quant"):
            load_model(folder, quantization=kind)
    with pytest.raises(WheelsError, match="teacher_quantization must be one of int8, int4, got 'int2'"):
        load_model(folder, quantization="int2")


@pytest.mark.parametrize(
    ("config", "package"),
    [
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "aqlm"}, "aqlm"),
    ],
)
def test_a_checkpoint_of_a_library_that_is_missing_is_one_line(folder, tmp_path, config, package):
    model = save_model(load_model(folder / "teacher"), load_tokenizer(folder), tmp_path)
    told = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(told | {"quantization_config": config}))
    with pytest.raises(WheelsError, match=rf"(?i)^cannot load the teacher .*{package}") as refused:
        load_model(model, role="teacher")
    assert "\n" not in str(refused.value)
