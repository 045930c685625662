"""Prompt lookup: drafts copied from where the text's last tokens occurred before, in its source or in itself.

Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding. No student runs; the teacher verifies. Strong where
the output repeats its input, as in summarization.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_MATCH = 3
"""Tokens that are searched for at first; fewer where they never occurred before."""


def copied_draft(source: Sequence[int], text: Sequence[int], length: int) -> list[int]:
    """Return up to `length` tokens that followed an earlier occurrence of the text's last tokens.

    The longest ending that occurs counts (3, 2, then 1 tokens): its last occurrence in the text, else its first in the
    source. Empty where the last token never occurred before.

    Args:
        source: Tokens of the source or prompt.
        text: Tokens written so far.
        length: The most tokens of the draft.
    """
    whole = [*source, *text]
    for size in range(min(LONGEST_MATCH, len(text)), 0, -1):
        ending = list(text[-size:])
        places = [
            *range(len(whole) - size - 1, len(source) - 1, -1),
            *range(min(len(source), len(whole) - size)),
        ]
        for place in places:
            if whole[place : place + size] == ending:
                return whole[place + size : place + size + length]
    return []
