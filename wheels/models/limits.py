"""Context limits, and the room they leave for an output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from wheels.models.loading import Tokenizer

# A tokenizer without a limit says a number of this size.
NO_LIMIT = 10**9
T5_FAMILY = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers"})
"""These count positions relative to each other: `n_positions` in their configuration is no limit.

They leave `1 / sqrt(d_kv)` out of their attention; the queries' initial weights have it instead.
"""


def context_limit(model: PreTrainedModel, tokenizer: Tokenizer) -> int | None:
    """The longest sequence a model and its tokenizer are made for, or None where neither says.

    Where rotary angles change beyond some length of a pass, for all of its rows, that length is the longest: up to
    so outputs there are batch-invariant.
    """
    limits = [int(tokenizer.model_max_length)]
    if model.config.model_type not in T5_FAMILY:
        limits += [
            int(getattr(model.config, name, None) or NO_LIMIT) for name in ("max_position_embeddings", "n_positions")
        ]
    limits += angle_limits(model.config.get_text_config(decoder=True))
    least = min(limits)
    return least if least < NO_LIMIT else None


def angle_limits(config: PreTrainedConfig) -> list[int]:
    """Return the lengths beyond which rotary angles depend on the longest text of a pass (`longrope`, `dynamic`).

    Llama 3's, YaRN's and linear angles do not.
    """
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in given.values() if isinstance(kind, Mapping)] if "rope_type" not in given else [given]
    moving = [kind for kind in kinds if kind["rope_type"] == "longrope" or "dynamic" in kind["rope_type"]]
    whole = int(getattr(config, "max_position_embeddings", None) or NO_LIMIT)
    return [int(kind.get("original_max_position_embeddings") or whole) for kind in moving]


def room(source: int, max_new_tokens: int, limit: int | None, *, is_seq2seq: bool) -> int:
    """Return the largest output length within the context; 0 where the source leaves no room.

    Args:
        source: tokens of the source, or of the prompt.
        max_new_tokens: the most that is wanted.
        limit: the longest sequence that is read (`Pair.source_limit`); None: no limit is known.
        is_seq2seq: whether the source has a context of its own, where the output shares its with a start token.
    """
    if limit is None:
        return max_new_tokens
    return 0 if source > limit else max(0, min(max_new_tokens, limit - (1 if is_seq2seq else source)))
