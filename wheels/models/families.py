"""What a configuration says about its family: windows of attention, and what cannot be decoded at ragged lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from wheels.errors import WheelsError

FULL = ("full_attention", "full", "original_full", "attention", "local")
"""Kinds of attention that see a row's whole past; the window of LongT5's encoder (`local`) depends on the row alone."""
WINDOW = "sliding_attention"
"""The kind of a layer whose attention sees a window of a row's past."""
RECURRENT = ("linear_attention", "mamba", "mamba2", "recurrent", "conv", "hybrid", "hybrid_mamba", "gated_deltanet")
"""Kinds of layers whose state is of all that was read, and not of each position."""
MECHANISMS = (
    "alibi",
    "attention_types",
    "attention_chunk_size",
    "attention_type",
    "encoder_attention_type",
    "local_attention",
    "moe_eval_capacity_token_fraction",
    "index_topk",
)
"""Configuration keys of attention chunks and biases, and of experts that many tokens compete for."""
WITHOUT_POSITIONS = {
    "prophetnet": "its decoder predicts several tokens at once",
    "fsmt": "its decoder counts positions from its own input",
    "xglm": "it takes no mask for each row",
    "openai-gpt": "it has no cache",
    "gpt_neo": "its attention counts positions from the end of the cache",
}
"""Model types that cannot be told each row's positions, with the reason."""
ADVICE = (
    "T5, Marian, BART, NLLB, Llama, Qwen, Mistral, Gemma and GPT-2 models can, and all that "
    "`wheels models --check all` lists as exact"
)


def layer_windows(config: PreTrainedConfig) -> list[int | None]:
    """Return how many positions each decoder layer sees, its own included; None: all.

    A window as long as the context is none.
    """
    text = config.get_text_config(decoder=True)
    size, longest = getattr(text, "sliding_window", None), getattr(text, "max_position_embeddings", None)
    if not size or (longest is not None and size >= longest) or getattr(text, "use_sliding_window", True) is False:
        size = None
    return [size if kind == WINDOW else None for kind in layer_kinds(text)]


def layer_kinds(config: PreTrainedConfig) -> Sequence[str]:
    """Return the kind of each decoder layer; without `layer_types`, all have a window where there is one."""
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None)
    if kinds is not None:
        return [str(kind) for kind in kinds]
    has_window = getattr(text, "sliding_window", None) is not None
    return [WINDOW if has_window else "full_attention"] * int(getattr(text, "num_hidden_layers", 1))


def refusal(config: PreTrainedConfig) -> str | None:
    """Return why models of this configuration cannot be decoded at ragged lengths, naming the setting; None: they can.

    What only a model in memory shows is not seen here (`wheels.decoding.models.positions`).
    """
    text, kinds = config.get_text_config(decoder=True), layer_kinds(config)
    recurrent = next((kind for kind in kinds if kind in RECURRENT), None)
    if recurrent is None and _is_recurrent(config):
        recurrent = config.model_type
    if recurrent is not None:
        return f"its layers of {recurrent} keep one state of all they read, which cannot be taken back to a position"
    if (other := next((kind for kind in kinds if kind not in (*FULL, WINDOW)), None)) is not None:
        return f"a layer of {other} makes a row depend on more than its own past"
    for name in MECHANISMS:
        value = getattr(text, name, None)
        if value and value not in FULL:
            return f"{name}={value!r} makes a row depend on more than its own past"
    return WITHOUT_POSITIONS.get(config.model_type)


def _is_recurrent(config: PreTrainedConfig) -> bool:
    """Tell whether transformers calls the model of this configuration stateful: no cache of it can be cut."""
    kinds: Mapping[type, object] = MODEL_FOR_CAUSAL_LM_MAPPING
    return type(config) in kinds and bool(getattr(kinds[type(config)], "_is_stateful", False))


class FamilyRefused(WheelsError):
    """A model that cannot be decoded: names it, the reason, and what can be.

    Args:
        config: of the model.
        reason: why, naming the setting where there is one.
    """

    def __init__(self, config: PreTrainedConfig, reason: str) -> None:
        self.reason = reason
        name = config.name_or_path or "in memory"
        super().__init__(f"models of type {config.model_type!r} ({name}) cannot be decoded: {reason}; {ADVICE}")


def check_family(config: PreTrainedConfig) -> None:
    """Raise a `WheelsError` where no command that decodes could read a model of this configuration."""
    if (reason := refusal(config)) is not None:
        raise FamilyRefused(config, reason)
