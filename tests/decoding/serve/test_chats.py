"""Chats on a causal pair: the tokenizer's own template, token for token, and what it refuses."""

from collections.abc import Iterator

import openai
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.decoding.serve.harness import Served, served
from tests.models.chat_tokenizers import chat_tokenizer
from wheels.decoding.methods.method import speculative
from wheels.decoding.params import DecodeParams
from wheels.decoding.streaming import decode
from wheels.models.artefact import Artefact
from wheels.models.pair import Pair
from wheels.policy.calibration import Calibration

MESSAGES = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "What is two?"},
    {"role": "assistant", "content": "Five is it!"},
    {"role": "user", "content": "What is three?"},
]


def pair_with(form: str) -> Pair:
    tokenizer, models = chat_tokenizer(form), []
    for width, seed in ((16, 1), (32, 2)):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=128, initializer_range=0.6, bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        models.append(LlamaForCausalLM(config).eval())
    return Pair.of(*models, tokenizer)


@pytest.fixture(scope="module")
def chats() -> Iterator[Served]:
    artefact = Artefact(pair_with("system"), {}, Calibration(), student_name="chatty")
    with served(artefact, method="speculative", batch_size=4, longest_output=64) as running:
        yield running


def test_the_prompt_is_the_templates(chats: Served) -> None:
    """And the text is the teacher's own, for speculation is lossless."""
    pair = chats.service.pair
    ids = pair.tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=False)
    answer = chats.client.chat.completions.create(
        model="chatty", messages=MESSAGES, max_tokens=8, extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].model_extra["prompt_token_ids"] == list(ids)
    by_ids = chats.client.completions.create(model="chatty", prompt=list(ids), max_tokens=8)
    assert by_ids.choices[0].text.strip() == answer.choices[0].message.content
    assert answer.usage.prompt_tokens == len(ids) and answer.usage.completion_tokens == by_ids.usage.completion_tokens


def test_a_completion_goes_on_where_the_prompt_ended(chats: Served) -> None:
    """With the spaces that the tokens have, so that prompt and text can be joined."""
    pair = chats.service.pair
    (trace,) = decode(pair, ["What is"], speculative(5), DecodeParams(max_new_tokens=12))
    answer = chats.client.completions.create(model="chatty", prompt="What is", max_tokens=12)
    assert answer.choices[0].text == pair.tokenizer.decode(trace.token_ids, skip_special_tokens=True)
    assert answer.choices[0].text.strip() == trace.text


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([*MESSAGES, MESSAGES[0]], "one system message, at the start"),
        (MESSAGES[:3], "ends with the assistant's message"),
        ([{"role": "user", "content": "What is two? " * 60}], "tokens, and at most 128 are read"),
    ],
)
def test_what_the_template_refuses_is_told(chats: Served, messages, message) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        chats.client.chat.completions.create(model="chatty", messages=messages)


def test_prompt_and_text_share_the_context(chats: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 8 can be written, got max_tokens 9"):
        chats.client.completions.create(model="chatty", prompt=[5] * 120, max_tokens=9)
    answer = chats.client.completions.create(model="chatty", prompt=[5] * 120)
    assert answer.usage.completion_tokens <= 8
