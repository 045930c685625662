"""What is known of an episode once it has ended, with the rewards that were not computed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from wheels.decoding.passes import Passes
from wheels.envs.rewards import needs_teacher, token_reward
from wheels.envs.settings import Settings

LOGITS_AT_A_TIME = 2**26
"""Logits that a pass over whole texts holds at once: 256 MiB in float32."""


@dataclass(frozen=True, eq=False)
class EpisodeRecord:
    """A finished episode of T tokens."""

    token_T: np.ndarray
    """The tokens, int64."""
    call_T: np.ndarray
    """Whether the teacher wrote them, bool."""
    reward_T: np.ndarray
    """What each step earned, nats, float32: all parts of the reward, as step by step (`reward_mode="step"`)."""
    begin: int
    """The step that the episode began at: above 0 where it went on from a state, whose own steps come before."""
    text: str
    score: float | None
    """Its metric, 0 to 100, where the reward has a terminal part."""

    @property
    def calls(self) -> int:
        """Tokens that the teacher wrote."""
        return int(self.call_T.sum())


def token_rewards(passes: Passes, settings: Settings, rows: list[int]) -> list[torch.Tensor]:
    """Compute what each token of finished texts earned by itself, float32 `[T]` each: in one pass of the teacher.

    There are more passes where the logits of one would need too much memory.
    """
    texts = [passes.texts.sequence(row) for row in rows]
    found = [torch.zeros(len(text.tokens)) for text in texts]
    if not needs_teacher(settings.parts):
        return found
    for chosen in _batches([len(text.tokens) for text in texts], passes.vocab_size):
        slots_R = torch.tensor([rows[each] for each in chosen], device=passes.texts.length_Q.device)
        for each, logits_WV in zip(chosen, passes.read_whole(slots_R), strict=True):
            token_T = torch.tensor(texts[each].tokens, device=slots_R.device)
            call_T = torch.tensor(texts[each].by_teacher, device=slots_R.device)
            log_p_TV = logits_WV[: len(token_T)].log_softmax(-1)
            found[each] = token_reward(settings.parts, log_p_TV, token_T, call_T).cpu()
    return found


def _batches(lengths: list[int], vocab_size: int) -> Iterator[list[int]]:
    """Yield indices of texts that are read in one pass."""
    most = max(1, LOGITS_AT_A_TIME // (vocab_size * max(lengths)))
    for first in range(0, len(lengths), most):
        yield list(range(first, min(first + most, len(lengths))))
