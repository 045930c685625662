"""The tokens of a text and the text of tokens, where the last word may be spelled anew."""

import pytest

from tests.decoding.across.two import STUDENTS, spelled
from wheels.decoding.across.spelling import Spelling, shared_prefix

TOKENIZER = spelled(STUDENTS, ends_source=False)
ALONE, AFTER = Spelling(TOKENIZER, after_prompt=False), Spelling(TOKENIZER, after_prompt=True)


def ids(*pieces: str) -> list[int]:
    return list(TOKENIZER.convert_tokens_to_ids(list(pieces)))


@pytest.mark.parametrize(
    ("spelling", "prompt", "text", "tokens"),
    [
        (ALONE, (), "ba du", ("▁ba", "▁", "du")),
        (AFTER, ("▁", "du"), " ba du", ("▁ba", "▁", "du")),
        (AFTER, ("▁", "du"), "la", ("la",)),
        (ALONE, (), "", ()),
    ],
)
def test_a_text_is_spelled_as_it_goes_on_after_its_prompt(spelling, prompt, text, tokens):
    assert spelling.tokens(ids(*prompt), text) == ids(*tokens)
    assert spelling.text(ids(*prompt), ids(*tokens)) == text


def test_special_tokens_are_no_text():
    assert ALONE.text([], [*ids("▁ba"), 1]) == "ba"


@pytest.mark.parametrize(
    ("text", "following", "stable"),
    [
        ("ba", " du", True),
        ("ba", "du", True),  # "badu" is a piece, but not at the start of a word
        ("la d", "u", False),
        ("la du", "b", True),
        ("la b\N{REPLACEMENT CHARACTER}", "u", False),
    ],
)
def test_a_boundary_is_safe_where_what_follows_changes_no_token(text, following, stable):
    assert ALONE.is_stable([], text, following) is stable


@pytest.mark.parametrize(
    ("tokens", "added", "same", "tail"),
    [
        (("▁ba",), " du", 1, ("▁", "du")),
        (("▁", "b", "a"), " du", 3, ("▁", "du")),  # the student's own spelling stands
        (("▁", "d"), "ula", 1, ("du", "la")),  # its last token does not
    ],
)
def test_a_text_goes_on_after_its_tokens(tokens, added, same, tail):
    text = ALONE.text([], ids(*tokens))
    assert ALONE.continued([], ids(*tokens), text, added) == (same, ids(*tail))


def test_a_token_that_is_spelled_anew_is_of_whom_wrote_its_last_character():
    old, new = ids("▁", "b", "a", "d"), ids("▁ba", "du", "la")
    assert ALONE.authors([], old, [False, True, False, False], new) == [False, True, True]
    assert ALONE.authors([], old, [False, True, True, False], new) == [True, True, True]


def test_what_two_lists_begin_with():
    assert [shared_prefix([1, 2], other) for other in ([], [1], [1, 2, 3], [2, 2], [1, 3])] == [0, 1, 2, 0, 1]
