"""In bfloat16 what is computed for a row depends on no other row, and on no number of positions read with it."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from tests.decoding.tiny import make_pair, restless, write
from tests.envs.tiny import EOS, PAD, WORDS
from wheels.decoding.methods.method import speculative, teacher_only
from wheels.decoding.methods.rules import RULES
from wheels.decoding.models.fixed_shape import KEYS, QUERIES, attention
from wheels.decoding.models.linear import BFloat16Linear, make_linear, multiplies_bfloat16
from wheels.models.pair import Pair

IS_KNOWN = multiplies_bfloat16() and not torch.cpu._is_amx_tile_supported()
pytestmark = pytest.mark.skipif(not IS_KNOWN, reason="found on processors with products in bfloat16 and without AMX")

SOURCES = [" ".join(WORDS[(start * 5 + step * 3) % len(WORDS)] for step in range(1 + start * 3)) for start in range(8)]
SIZE = len(WORDS) + 3


def model(family: str, layers: int, seed: int) -> PreTrainedModel:
    """A model whose heads and inner layers are as wide as those that are not the same alone."""
    torch.manual_seed(seed)
    ids = {"vocab_size": SIZE, "pad_token_id": PAD, "eos_token_id": EOS}
    if family == "t5":
        config = T5Config(
            d_model=128, d_kv=64, num_heads=2, d_ff=2048, num_layers=layers, decoder_start_token_id=PAD,
            initializer_factor=3.0, tie_word_embeddings=False, **ids,
        )  # fmt: skip
        return restless(T5ForConditionalGeneration(config)).bfloat16().eval()
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=128, intermediate_size=2048, num_hidden_layers=layers, num_attention_heads=2, head_dim=128,
            num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.1, bos_token_id=None, **ids,
        )
    ).bfloat16().eval()  # fmt: skip


@pytest.mark.parametrize("kind", ["stored", "weights"])
@pytest.mark.parametrize("width", [576, 1536, 4096])
def test_a_row_alone_is_what_it_is_among_others(kind, width):
    torch.manual_seed(width)
    weight_YX, values_NX = torch.randn(256, width) * 0.05, torch.randn(48, width)
    linear = BFloat16Linear.of(weight_YX)
    if kind == "stored":
        linear, values_NX = make_linear(weight_YX.bfloat16()), values_NX.bfloat16()
    together = linear(values_NX)
    for rows in (1, 2, 3, 5, 31, 33):
        assert torch.equal(torch.cat([linear(part) for part in values_NX.split(rows)]), together)


@pytest.mark.parametrize("size", [64, 80, 128])
def test_attention_depends_on_no_number_of_queries_and_on_no_hidden_keys_of_their_block(size):
    for seed in range(12):
        torch.manual_seed(seed)
        length = int(torch.randint(3, 300, (1,)))
        query, keys, values = (torch.randn(2, 3, count, size).bfloat16() for count in (1, 512, 512))
        plain = attention(query, keys[:, :, :length], values[:, :, :length], None, 0.1)
        exact = F.scaled_dot_product_attention(
            *(part.float() for part in (query, keys[:, :, :length], values[:, :, :length])), scale=0.1
        )
        torch.testing.assert_close(plain.float(), exact, rtol=0.02, atol=0.02)
        for count in (1, 2, 3, 5, 32, 33, 65):
            several = torch.randn(2, 3, count, size).bfloat16()
            several[:, :, -1:] = query
            for seen in {length, min(length + 3, -(-length // KEYS) * KEYS), -(-length // KEYS) * KEYS}:
                mask = torch.zeros(1, 1, count, seen).bfloat16()
                mask[..., length:] = -torch.inf
                found = attention(several, keys[:, :, :seen], values[:, :, :seen], mask, 0.1)
                assert torch.equal(found[:, :, -1:], plain) and found.shape[2] == count


def test_float32_is_left_as_it_is(monkeypatch):
    asked = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kwargs: asked.append(args))
    query, keys = torch.randn(1, 2, QUERIES + 1, 8), torch.randn(1, 2, KEYS + 1, 8)
    attention(query, keys, keys, None, 1.0)
    assert asked[0][0] is query and asked[0][1] is keys and asked[0][3] is None


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_texts_depend_on_no_batch_and_on_no_draft(family):
    pair = Pair.of(model(family, 1, 0), model(family, 2, 1), make_pair(family).tokenizer)
    ways: list[tuple[str, Any, dict[str, Any]]] = [
        ("teacher", teacher_only(), {"budget": 1.0}),
        ("margin", RULES["margin"].at(-0.05), {}),
        ("drafts", speculative(4), {}),
    ]
    found = {
        (name, size): [
            trace.token_ids for trace in write(pair, SOURCES, way, batch_size=size, **own, max_new_tokens=32)
        ]
        for name, way, own in ways
        for size in (1, 3, 8)
    }
    for name, *_ in ways:
        assert found[name, 1] == found[name, 3] == found[name, 8]
    assert found["drafts", 1] == found["teacher", 1]
    assert len({tokens for texts in found.values() for tokens in texts}) > len(SOURCES)
