"""The text of tokens and the tokens of a text, for two models that share no tokenizer.

A text goes on after its prompt, and is spelled as it would be there: many tokenizers cut the first word of a text
otherwise, or lose the space before it. So a few tokens of the prompt are always read with it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wheels.models.encoding import ids_after
from wheels.models.loading import Tokenizer
from wheels.policy.features import LOG_FLOOR

ANCHOR = 16
"""Tokens of a prompt that are read with what is written after it."""
UNFINISHED = "�"
"""What a tokenizer shows of a character that lacks bytes."""


MIDST = "a"
"""A text after which tokens are spelled as in the midst of one."""


@dataclass(frozen=True)
class Spelling:
    """How one model spells its outputs."""

    tokenizer: Tokenizer
    after_prompt: bool
    """Whether outputs go on after their prompt, as those of causal models do."""

    def text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Return the text of an output's tokens, its outer spaces kept, special tokens skipped."""
        before = list(prompt[-ANCHOR:]) if self.after_prompt else []
        start, whole = self._decoded(before), self._decoded([*before, *tokens])
        return whole[len(start) :] if whole.startswith(start) else self._decoded(list(tokens))

    def tokens(self, prompt: Sequence[int], text: str) -> list[int]:
        """Return the tokens of an output's text."""
        return ids_after(self.tokenizer, self._before(prompt), text) if text else []

    def is_stable(self, prompt: Sequence[int], text: str, following: str) -> bool:
        """Whether the tokens of a text stay what they are when the following text is written after it."""
        if text.endswith(UNFINISHED):
            return False
        own = self.tokens(prompt, text)
        return self.tokens(prompt, text + following)[: len(own)] == own

    def continued(self, prompt: Sequence[int], tokens: list[int], text: str, added: str) -> tuple[int, list[int]]:
        """Return how many of an output's tokens stand, and those after them, so that they spell `text + added`.

        Args:
            prompt: What was read before the output.
            tokens: The output so far.
            text: What these spell.
            added: What is written after it.
        """
        whole = self.tokens(prompt, text + added)
        if whole[: len(tokens)] == tokens:
            return len(tokens), whole[len(tokens) :]
        alone = ids_after(self.tokenizer, self._before(prompt) + text, added)
        if self.text(prompt, [*tokens, *alone]) == text + added:
            return len(tokens), alone
        same = shared_prefix(whole, tokens)  # the last word, and what was added to it, are spelled anew
        return same, whole[same:]

    def standing(self, prompt: Sequence[int], tokens: Sequence[int], settled: int, added: str) -> int:
        """Return how many of an output's tokens stand: the first `settled`, and those that `added` begins with.

        Args:
            prompt: What was read before the output.
            tokens: The output.
            settled: Tokens of it that stand in any case.
            added: The text that comes after these.
        """
        before, standing = len(self.text(prompt, tokens[:settled])), settled
        for count in range(settled + 1, len(tokens) + 1):
            text = self.text(prompt, tokens[:count])[before:]
            if not added.startswith(text.rstrip(UNFINISHED)):
                break
            standing = standing if text.endswith(UNFINISHED) else count
        return standing

    def authors(self, prompt: Sequence[int], old: Sequence[int], by: Sequence[bool], new: Sequence[int]) -> list[bool]:
        """Return who wrote each token of a text that is spelled anew: who wrote its last character.

        Args:
            prompt: What was read before the output.
            old: Its tokens before.
            by: Whether the teacher wrote each of these; what comes after them it did.
            new: Its tokens now.
        """
        ends = [len(self.text(prompt, old[: count + 1])) for count in range(len(old))]
        places = (bisect_left(ends, len(self.text(prompt, new[: count + 1]))) for count in range(len(new)))
        return [by[place] if place < len(by) else True for place in places]

    def _before(self, prompt: Sequence[int]) -> str:
        """Return what an output's text follows, special tokens included."""
        if not self.after_prompt:
            return ""
        return str(self.tokenizer.decode(list(prompt[-ANCHOR:]), clean_up_tokenization_spaces=False))

    def _decoded(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Pieces:
    """What a vocabulary's tokens say in the midst of a text, and at its beginning, where a space before is lost."""

    def __init__(self, tokenizer: Tokenizer, count: int) -> None:
        before = tokenizer.encode(MIDST, add_special_tokens=False)
        many = tokenizer.batch_decode(
            [before, *([*before, token] for token in range(count))],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        start, wholes = many[0], many[1:]
        self.texts = [whole[len(start) :] if whole.startswith(start) else "" for whole in wholes]
        self._orders = [self._ordered(self.texts), self._ordered([text.lstrip() for text in self.texts])]

    def log_agreeing(self, log_p_V: torch.Tensor, text: str, *, first: bool) -> float:
        """Compute `log sum p` of the tokens whose text begins with this one, or that begins with theirs, nats.

        Args:
            log_p_V: Log-probabilities of the tokens.
            text: Not empty.
            first: Whether nothing was written before.
        """
        order_V, texts = self._orders[first]
        total_V = torch.nn.functional.pad(log_p_V.double().exp()[order_V].cumsum(0), (1, 0))
        spans = [(bisect_left(texts, text), bisect_left(texts, text + chr(0x10FFFF)))]
        starts = (text[:count] for count in range(1, len(text)))
        spans += [(bisect_left(texts, start), bisect_right(texts, start)) for start in starts]
        found = float(sum(total_V[end] - total_V[begin] for begin, end in spans))
        return max(float(torch.tensor(found).clamp(min=0).log()), LOG_FLOOR)

    @staticmethod
    def _ordered(texts: list[str]) -> tuple[torch.Tensor, list[str]]:
        """Return the places of texts in their order, and the texts in it, without the rest of a cut character."""
        whole = [text.rstrip(UNFINISHED) for text in texts]
        order = sorted(range(len(whole)), key=whole.__getitem__)
        return torch.tensor(order), [whole[place] for place in order]


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two lists begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(first), len(second)))
