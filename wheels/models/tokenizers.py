"""Whether two models have one tokenizer, and which of the two reads where their special tokens differ."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from wheels.errors import WheelsError
from wheels.models.loading import Tokenizer

log = logging.getLogger("wheels")

# Two tokenizers with one vocabulary still differ where they cut text differently.
PROBES = (
    'Zwei Männer stehen am 3. Mai 2024 vor dem Café, für 1.234,56 € ("ja").',
    "  Two\twords\n\nand   spaces, don't you think? HELLO hello",
    "naïve 東京 привет \u0065\u0301 🙂",
)


class DifferentTokenizers(WheelsError):
    """Two models that no tokenizer can be the one of.

    Args:
        difference: Which models, and how their tokenizers differ.
    """

    def __init__(self, difference: str) -> None:
        super().__init__(
            f"{difference}; this needs one tokenizer (pretrain, train, calibrate, generate and bench curve take two)"
        )
        self.difference = difference


def shared_tokenizer(student: Tokenizer, teacher: Tokenizer, student_name: str, teacher_name: str) -> Tokenizer:
    """Return the tokenizer that a pair reads with, and say so where the special tokens of the two differ.

    That is the teacher's, so that it reads what it was trained on; the student's where it alone has a chat template.

    Raises:
        DifferentTokenizers: as `check_same_tokenizer`.
    """
    check_same_tokenizer(student, teacher, student_name, teacher_name)
    differences = "; ".join(special_differences(student, teacher))
    if not differences:
        return student
    by_teacher = bool(teacher.chat_template or not student.chat_template)
    log.info(
        "student %r and teacher %r have one vocabulary and other special tokens: %s; both read by the %s's tokenizer, "
        "and a text ends at the end token of either",
        student_name,
        teacher_name,
        differences,
        "teacher" if by_teacher else "student",
    )
    return teacher if by_teacher else student


def check_same_tokenizer(student: Tokenizer, teacher: Tokenizer, student_name: str, teacher_name: str) -> None:
    """Compare two tokenizers by content: every piece and its id, but added tokens of one alone, and how they split.

    Raises:
        DifferentTokenizers: naming both models and the first difference.
    """
    difference = tokenizer_difference(student, teacher)
    if difference:
        raise DifferentTokenizers(
            f"student {student_name!r} and teacher {teacher_name!r} have different tokenizers: {difference}"
        )


def tokenizer_difference(student: Tokenizer, teacher: Tokenizer) -> str | None:
    """Return how two tokenizers differ in ordinary text (student first), or None if they are one."""
    q_vocabulary, p_vocabulary = student.get_vocab(), teacher.get_vocab()
    own = only_in(student, p_vocabulary) | only_in(teacher, q_vocabulary)
    pieces = set(q_vocabulary.items()) ^ set(p_vocabulary.items())
    if pieces := {(piece, number) for piece, number in pieces if piece not in own}:
        return vocabulary_difference(q_vocabulary, p_vocabulary, pieces)
    for probe in PROBES:
        q_ids, p_ids = (_split(tokenizer, probe) for tokenizer in (student, teacher))
        if q_ids != p_ids:
            return f"one vocabulary, but {probe[:20]!r}... becomes {len(q_ids)} and {len(p_ids)} other tokens"
    return None


def only_in(tokenizer: Tokenizer, other: Mapping[str, int]) -> set[str]:
    """Return the added tokens of a tokenizer that another vocabulary lacks."""
    return {token.content for token in tokenizer.added_tokens_decoder.values()} - other.keys()


def special_differences(student: Tokenizer, teacher: Tokenizer) -> Iterator[str]:
    """Yield how the special tokens of two tokenizers differ, in words, the student's first."""
    for name in ("begin", "end"):
        q_token, p_token = (getattr(tokenizer, f"{name[0]}os_token") for tokenizer in (student, teacher))
        if q_token != p_token:
            yield f"{name} token {q_token or 'none'} and {p_token or 'none'}"
    q_added, p_added = (
        [token for token in tokenizer(PROBES[0])["input_ids"] if token not in _split(tokenizer, PROBES[0])]
        for tokenizer in (student, teacher)
    )
    if q_added != p_added:
        added = [tokenizer.convert_ids_to_tokens(ids) for tokenizer, ids in ((student, q_added), (teacher, p_added))]
        yield " and ".join(" ".join(tokens) or "nothing" for tokens in added) + " put around a text"
    for role, mine, other in (("student", student, teacher), ("teacher", teacher, student)):
        if own := sorted(only_in(mine, other.get_vocab())):
            more = f" and {len(own) - 1} more" if len(own) > 1 else ""
            yield f"added by the {role}: {own[0]}{more}"
    if student.chat_template != teacher.chat_template:
        q_template, p_template = ("a" if tokenizer.chat_template else "no" for tokenizer in (student, teacher))
        yield "two chat templates" if q_template == p_template else f"{q_template} and {p_template} chat template"


def _split(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the tokens of a text alone."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def vocabulary_difference(student: Mapping[str, int], teacher: Mapping[str, int], pieces: set[tuple[str, int]]) -> str:
    """Return the sizes of two vocabularies, and the first of the pieces that they do not share."""
    piece = min(pieces, key=lambda item: (item[1], item[0]))[0]
    ids = " and ".join(
        f"id {vocabulary[piece]}" if piece in vocabulary else "absent" for vocabulary in (student, teacher)
    )
    return f"{len(student)} and {len(teacher)} pieces, {len(pieces)} differ, first {piece!r} ({ids})"
