"""Tokens that a model's own generation settings forbid or force, so that budget 0 and 1 equal its own `generate`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from wheels.output.notices import warn_once

UNSUPPORTED = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
    "sequence_bias",
    "guidance_scale",
    "min_length",
    "min_new_tokens",
    "begin_suppress_tokens",
    "exponential_decay_length_penalty",
)
"""Settings that depend on the text so far: not applied here, and warned about."""


@dataclass(frozen=True)
class Constraints:
    """Forced and suppressed tokens of one model."""

    forced_first: int | None = None
    """The token that must come first (`forced_bos_token_id`)."""
    forced_last: tuple[int, ...] = ()
    """The tokens, all equally likely, that must come last at the length limit (`forced_eos_token_id`)."""
    suppressed: tuple[int, ...] = ()
    """Tokens that are never written (`suppress_tokens`, one-token `bad_words_ids`)."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> Constraints:
        """Read the settings of `model`; warn of those that are not applied."""
        settings = model.generation_config
        if settings is None:
            return cls()
        ignored = [name for name in UNSUPPORTED if getattr(settings, name, None) not in (None, 0, 0.0, 1, 1.0)]
        words, ends = getattr(settings, "bad_words_ids", None) or [], getattr(settings, "eos_token_id", None)
        if any(len(word) > 1 for word in words):
            ignored.append("bad_words_ids of several tokens")
        if ignored:
            warn_once(f"{', '.join(ignored)} of {model.config.name_or_path or 'the model'} is not applied")
        last = getattr(settings, "forced_eos_token_id", None)
        # As in transformers, the end of a text is never a bad word.
        allowed = ends if isinstance(ends, list) else [ends]
        bad = [word[0] for word in words if len(word) == 1 and word[0] not in allowed]
        suppressed = [*(getattr(settings, "suppress_tokens", None) or []), *bad]
        forced_last = () if last is None else tuple(last) if isinstance(last, list) else (last,)
        # A causal model's `generate` forces a first token only after a prompt of one token.
        first = getattr(settings, "forced_bos_token_id", None) if model.config.is_encoder_decoder else None
        return cls(first, forced_last, tuple(suppressed))

    def apply(self, scores_BV: torch.Tensor, position_B: torch.Tensor, limit_B: torch.Tensor) -> torch.Tensor:
        """Return the logits with forbidden tokens at minus infinity.

        Args:
            scores_BV: Scores of the next token.
            position_B: Tokens written so far.
            limit_B: Tokens that may be written in all.
        """
        if self.suppressed:
            known = [token for token in self.suppressed if token < scores_BV.shape[1]]
            scores_BV = scores_BV.index_fill(1, torch.tensor(known, device=scores_BV.device), -torch.inf)
        if self.forced_first is not None:
            scores_BV = _forced(scores_BV, (self.forced_first,), position_B == 0)
        if self.forced_last:
            scores_BV = _forced(scores_BV, self.forced_last, position_B == limit_B - 1)
        return scores_BV


def _forced(scores_BV: torch.Tensor, tokens: tuple[int, ...], rows_B: torch.Tensor) -> torch.Tensor:
    """Return the logits with only `tokens` allowed in the given rows."""
    forced_V = torch.full_like(scores_BV[0], -torch.inf)
    forced_V[list(tokens)] = 0.0
    return torch.where(rows_B[:, None], forced_V, scores_BV)
