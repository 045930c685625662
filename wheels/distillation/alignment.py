"""Distillation across tokenizers: where two spellings of a text meet, both models say what comes next.

A target has two spellings, one by each tokenizer. At every place where both have a token's border the two models have
read the same text, so their distributions speak of the same thing. They are compared over M, the tokens that stand for
the same bytes in both vocabularies, and the end:

    L_n = p_T(M) * D(p_T(. | M), q_T(. | M))

The student's tokens that the teacher lacks are not judged: cross-entropy on the target, of weight 1 - w, teaches these.
GOLD (TRL's `GOLDTrainer`) aligns in the same way. It compares the unnormalised probabilities of M (for the forward
divergence that is `p_T(M) log(p_T(M) / q_T(M))` more), adds the distance of the sorted probabilities of all others, and
merges the tokens between two borders, which are left out here.

Axes: N places, V the student's vocabulary, U the teacher's, M tokens that both have, B rows, A places of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from wheels.distillation.losses import divergence, precise
from wheels.models.loading import Tokenizer

SPACE = "▁"
"""How SentencePiece writes one."""
BYTE = "<0x%02X>"
"""How it writes a byte that is no piece."""
NOWHERE = -1
"""The place of a row that has fewer than others."""


@dataclass(frozen=True)
class SharedTokens:
    """M: the tokens that both vocabularies have."""

    student_M: torch.Tensor
    """Their ids in the student's."""
    teacher_M: torch.Tensor
    """Their ids in the teacher's."""


def bytes_of_tokens(tokenizer: Tokenizer) -> list[bytes]:
    """Return the text that each token stands for, as bytes; none for special tokens."""
    tokens = tokenizer.convert_ids_to_tokens([*range(max(tokenizer.get_vocab().values()) + 1)])
    special = {*tokenizer.all_special_tokens, *(token.content for token in tokenizer.added_tokens_decoder.values())}
    spelled = {BYTE % number: bytes([number]) for number in range(256)}
    by_bytes = {character: number for number, character in bytes_to_unicode().items()}
    is_byte_level = "Ã" in "".join(
        tokenizer.convert_ids_to_tokens(tokenizer("é", add_special_tokens=False)["input_ids"])
    )

    def of(token: str | None) -> bytes:
        if token is None or token in special:
            return b""
        if is_byte_level and all(character in by_bytes for character in token):
            return bytes(by_bytes[character] for character in token)
        return spelled.get(token, token.replace(SPACE, " ").encode())

    return [of(token) for token in tokens]


def shared_tokens(student: Sequence[bytes], teacher: Sequence[bytes], ends: tuple[int, int]) -> SharedTokens:
    """Return the tokens that stand for the same bytes, the first of several; and the two ends, which mean one thing.

    Args:
        student: What each of the student's tokens stands for.
        teacher: What each of the teacher's does.
        ends: The tokens that end a text, the student's first.
    """
    mine, theirs = ({spelled: token for token, spelled in reversed([*enumerate(each)])} for each in (student, teacher))
    pairs = [ends, *((mine[spelled], theirs[spelled]) for spelled in mine if spelled and spelled in theirs)]
    return SharedTokens(*torch.tensor(pairs, dtype=torch.long).unbind(1))


def common_places(
    student: Sequence[int], teacher: Sequence[int], spelled: tuple[Sequence[bytes], Sequence[bytes]]
) -> list[tuple[int, int]]:
    """Return where two spellings of a text meet: the number of the token that comes next in each.

    Where a tokenizer has changed the text, by its normal form or for want of a piece, they meet before that alone.

    Args:
        student: The text's tokens, the end token among them.
        teacher: The same in the teacher's.
        spelled: What each token of either vocabulary stands for.
    """
    (q_text, q_starts), (p_text, p_starts) = _starts(student, spelled[0]), _starts(teacher, spelled[1])
    known = next((at for at, (q, p) in enumerate(zip(q_text, p_text, strict=False)) if q != p), len(q_text))
    ends = set() if q_text == p_text else {len(q_text), len(p_text)}
    return [
        (q_starts[at], p_starts[at])
        for at in sorted(q_starts.keys() & p_starts.keys())
        if at <= known and at not in ends
    ]


def _starts(tokens: Sequence[int], spelled: Sequence[bytes]) -> tuple[bytes, dict[int, int]]:
    """Return a text without the spaces that it begins with, and the last token that begins at each of its bytes."""
    parts = [spelled[token] if token < len(spelled) else b"" for token in tokens]
    whole = b"".join(parts)
    text = whole.lstrip(b" ")
    begins = accumulate(map(len, parts[:-1]), initial=len(text) - len(whole))
    return text, {max(0, at): number for number, at in enumerate(begins)}


def at_places(logits_NV: torch.Tensor, target_BT: torch.Tensor, place_BA: torch.Tensor) -> torch.Tensor:
    """Return the logits at the places of all rows: those that predict the target token of that number.

    Args:
        logits_NV: The logits that predict the N targets, row by row.
        target_BT: Which states of a row they are of.
        place_BA: Numbers of target tokens, `NOWHERE` where a row has no more.
    """
    count_B = target_BT.sum(1)
    first_B1 = (count_B.cumsum(0) - count_B)[:, None]
    return logits_NV[(first_B1 + place_BA)[place_BA != NOWHERE]]


def shared_divergence(
    objective: str,
    student_logits_NV: torch.Tensor,
    teacher_logits_NU: torch.Tensor,
    shared: SharedTokens,
    temperature: float = 1.0,
    beta: float = 0.5,
) -> torch.Tensor:
    """Return L_n at the top of this file, `[N]`, in nats. No factor T^2.

    Args:
        objective: `kl`, `rkl` or `jsd`.
        student_logits_NV: Logits of q at the places.
        teacher_logits_NU: Logits of p at the same places.
        shared: M.
        temperature: Of both.
        beta: Of `jsd`.
    """
    p_NU = precise(teacher_logits_NU)
    p_NM, q_NM = p_NU[:, shared.teacher_M], precise(student_logits_NV)[:, shared.student_M]
    mass_N = ((p_NM / temperature).logsumexp(-1) - (p_NU / temperature).logsumexp(-1)).exp()
    return mass_N * divergence(objective, q_NM, p_NM, temperature, beta)
