"""What is read off a configuration: windows, and why a family cannot be decoded."""

import pytest
from transformers import (
    AutoConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    RwkvConfig,
    T5Config,
)

from wheels.errors import WheelsError
from wheels.models.families import check_family, layer_windows, refusal

TWO = {"num_hidden_layers": 2}
KINDS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (LlamaConfig(**TWO), [None, None]),
        (MistralConfig(**TWO, sliding_window=5, max_position_embeddings=6), [5, 5]),
        (MistralConfig(**TWO, sliding_window=6, max_position_embeddings=6), [None, None]),
        (MistralConfig(**TWO, sliding_window=None), [None, None]),
        (Phi3Config(**TWO, sliding_window=5), [5, 5]),
        (Gemma3TextConfig(**TWO, sliding_window=5, layer_types=KINDS), [5, None]),
        (Qwen2Config(**TWO, sliding_window=5, use_sliding_window=True, layer_types=KINDS), [5, None]),
        (Qwen2Config(**TWO, sliding_window=5, use_sliding_window=False), [None, None]),
    ],
)
def test_the_window_of_each_layer(config, windows):
    assert layer_windows(config) == windows


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LlamaConfig(), None),
        (T5Config(), None),
        (MistralConfig(sliding_window=5), None),
        (MambaConfig(), "layers of linear_attention keep one state of all they read"),
        (RwkvConfig(), "layers of rwkv keep one state"),
        (AutoConfig.for_model("falcon", alibi=True), "alibi=True makes a row depend"),
        (AutoConfig.for_model("lfm2", **TWO, layer_types=["conv", "full_attention"]), "layers of conv keep one state"),
        (LlamaConfig(**TWO, layer_types=["full_attention", "chunked_attention"]), "a layer of chunked_attention"),
    ],
)
def test_a_refusal_names_the_setting(config: PreTrainedConfig, reason: str | None):
    found = refusal(config)
    assert found is None if reason is None else found is not None and reason in found


def test_the_error_names_the_model_the_reason_and_what_works():
    with pytest.raises(WheelsError, match=r"'mamba' \(in memory\) cannot be decoded: its layers .*; T5, .*--check all"):
        check_family(MambaConfig())
