"""GGUF files of small models, written as llama.cpp's converter does."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import Qwen2ForCausalLM

from wheels.models.build import train_tokenizer
from wheels.models.loading import Tokenizer

END = "<|endoftext|>"
"""Which the library's tokenizers of this family have."""
VOCABULARY = 263
"""Tokens of the file, the last among them."""
NORMAL, CONTROL = 1, 3


def word_tokenizer() -> Tokenizer:
    """The tokenizer of the files."""
    return train_tokenizer(["a b c d"] * 3, vocab_size=262, ends_source=False)


def gguf_of(model: Qwen2ForCausalLM, file: Path) -> None:
    """Write a model as llama.cpp's converter does."""
    from gguf import GGUFWriter

    config, tokenizer = model.config, word_tokenizer()
    raw = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer = GGUFWriter(file, "qwen2")
    writer.add_file_type(0)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(raw["vocab"], key=raw["vocab"].get), END])
    writer.add_token_types([NORMAL] * len(raw["vocab"]) + [CONTROL])
    writer.add_token_merges([" ".join(pair) for pair in raw["merges"]])
    writer.add_eos_token_id(len(raw["vocab"]))
    writer.add_pad_token_id(0)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    layer = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for number in range(config.num_hidden_layers):
        names |= {f"model.layers.{number}.{ours}": f"blk.{number}.{theirs}" for ours, theirs in layer.items()}
    for name, weight in model.state_dict().items():
        stem, _, end = name.rpartition(".")
        writer.add_tensor(f"{names[stem]}.{end}", weight.numpy())
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
