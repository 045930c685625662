"""A pretrained chat model on real questions: every batch size writes what its own `generate` does, in float32.

Left out where the model's file is missing; CONTRIBUTING says where it comes from.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import wheels
from wheels.data import Prompt, load_rows
from wheels.decoding.methods.method import speculative, teacher_only
from wheels.decoding.params import DecodeParams
from wheels.models.loading import quiet_loading
from wheels.models.pair import Pair

SHARED = Path(__file__).parents[3] / "shared"
FOLDER, FILE = SHARED / "models" / "smollm2-135m-instruct", "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = SHARED / "data" / "svamp" / "test.jsonl"
ROWS, TOKENS, LAYERS = 50, 12, 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ((FOLDER / FILE).is_file() and QUESTIONS.is_file()), reason="the model's file is missing"),
]


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The model as the teacher, and its first layers as the student, which write through the chat template."""
    pytest.importorskip("gguf")
    with quiet_loading():
        read = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILE, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(FOLDER, gguf_file=FILE)
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    models = []
    for layers in (LAYERS, read.config.num_hidden_layers):
        model = LlamaForCausalLM(LlamaConfig(**settings | {"num_hidden_layers": layers}))
        weights = {name: value for name, value in read.state_dict().items() if name in model.state_dict()}
        model.load_state_dict(weights)
        model.generation_config = copy.deepcopy(read.generation_config)
        models.append(model)
    return Pair.of(*models, tokenizer, prompt=Prompt(chat=True))


@pytest.fixture(scope="module")
def questions() -> list[str]:
    return [row.source for row in load_rows(QUESTIONS, limit=ROWS)]


@pytest.fixture(scope="module")
def own(pair: Pair, questions: list[str]) -> list[tuple[int, ...]]:
    """What the model's own `generate` writes, one prompt at a time."""
    found = []
    for question in questions:
        asked = [{"role": "user", "content": question}]
        read = pair.tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = pair.teacher.generate(**read, max_new_tokens=TOKENS, do_sample=False)
        found.append(tuple(ids[0, read["input_ids"].shape[1] :].tolist()))
    assert len(set(found)) > ROWS // 2
    return found


@pytest.mark.parametrize("batch_size", [1, 8, 50])
def test_a_batch_of_chat_prompts_is_the_models_own(pair, questions, own, batch_size):
    params = DecodeParams(max_new_tokens=TOKENS)
    traces = wheels.decode(pair, questions, teacher_only(), params, batch_size=batch_size)
    assert [trace.token_ids for trace in traces] == own


def test_drafts_of_the_first_layers_change_nothing(pair, questions, own):
    params = DecodeParams(max_new_tokens=TOKENS)
    traces = wheels.decode(pair, questions, speculative(3), params, batch_size=8)
    assert [trace.token_ids for trace in traces] == own
    assert sum(trace.accepted for trace in traces) > 0


def test_the_hook_of_transformers_writes_the_same(pair, questions, own):
    pair.tokenizer.padding_side = "left"
    for start in range(0, ROWS, 25):
        asked = [[{"role": "user", "content": question}] for question in questions[start : start + 25]]
        read = pair.tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        ids = pair.student.generate(
            **read,
            custom_generate=wheels.hf_generate,
            teacher=pair.teacher,
            method=speculative(3),
            max_new_tokens=TOKENS,
        )
        for row, expected in zip(ids[:, read["input_ids"].shape[1] :].tolist(), own[start : start + 25], strict=True):
            assert tuple(row[: len(expected)]) == expected
