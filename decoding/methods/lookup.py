"""Drafts that are copied: what followed the last tokens where they stood before, in the source or in the text.

Prompt lookup (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding). No student runs; the teacher
verifies. Strong where the output repeats its input, as in summarization.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_MATCH = 3
"""Tokens that are searched for at first; fewer where they never stood before."""


def copied_draft(source: Sequence[int], text: Sequence[int], length: int) -> list[int]:
    """Return up to `length` tokens that followed an earlier place with the ending that `text` has now.

    The longest ending that occurs (3, 2, then 1 tokens) counts, and of its places the last in the text, else the first
    in the source. Empty where the last token never stood anywhere before.

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
