"""Pieces of text while tokens come: together the whole, no half character, no part of a stop text."""

import random

import pytest

from tests.decoding.serve.harness import TEXTS
from wheels.decoding.serve.spelling import OuterSpaces, Speller, StopTexts
from wheels.models.artefact import Artefact

ODD = [*TEXTS, "  Zwei  Räume ", "naïve 東京 🙂🙃 привет", "a\n\nb\tc", "👩‍👩‍👧 é"]


@pytest.mark.parametrize("text", ODD)
def test_pieces_are_the_whole_text(embedded: Artefact, text: str) -> None:
    tokenizer = embedded.pair.tokenizer
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    rng = random.Random(1)
    ids = tokenizer(text)["input_ids"]
    ids = [*ids, *(rng.randrange(embedded.pair.vocab_size) for _ in range(60))]
    one, several = Speller(decode), Speller(decode)
    pieces = [one.add([token]) for token in ids]
    assert "".join(pieces) + one.end() == decode(ids)
    parts, rest = [], list(ids)
    while rest:
        count = rng.randint(1, 5)
        parts.append(several.add(rest[:count]))
        del rest[:count]
    assert "".join(parts) + several.end() == decode(ids)
    shown = ""
    for count, piece in enumerate(pieces, 1):
        shown += piece
        assert decode(ids[:count]).startswith(shown), "nothing that was shown changes"


def test_half_a_character_waits_for_the_rest() -> None:
    """A tokenizer of bytes, as byte-level ones are."""
    speller = Speller(lambda ids: bytes(ids).decode("utf-8", errors="replace"))
    assert [speller.add([byte]) for byte in "aé🙂".encode()] == ["a", "", "é", "", "", "", "🙂"]
    assert speller.end() == ""
    assert speller.add([0xC3]) == "" and speller.end() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("stops", "shown", "found"),
    [
        ([], "one two three", False),
        (["two"], "one ", True),
        (["o x"], "one two three", False),
        (["ne two t", "two"], "one ", True),
        (["three", "e t"], "on", True),
        (["eee", "threes"], "one two three", False),
        (["one"], "", True),
        (["ree"], "one two th", True),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
def test_a_stop_text_is_found_however_the_text_is_cut(stops, shown, found, size) -> None:
    text, ends = "one two three", StopTexts(stops)
    told = ""
    for start in range(0, len(text), size):
        told += ends.add(text[start : start + size])
        if ends.found:
            break
        assert text.startswith(told)
    assert (told if ends.found else told + ends.end(), ends.found) == (shown, found)


@pytest.mark.parametrize("text", ["", " ", "a", "  a b  ", "\n a  b\n\nc \t"])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_outer_spaces_are_left_out(text: str, size: int) -> None:
    spaces = OuterSpaces()
    assert "".join(spaces.add(text[start : start + size]) for start in range(0, len(text), size)) == text.strip()
