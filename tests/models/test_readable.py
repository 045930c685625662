"""Rows that the models cannot read are found, counted and named before the work."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from wheels.data.rows import Row
from wheels.errors import WheelsError
from wheels.models.readable import readable_rows

ROWS = [Row(source, "x") for source in ("a b", "a b c d\ne f", "a b c", "a b c d")]


def pair(limit: int | None, is_seq2seq: bool) -> Any:
    """Return what is looked at of a pair whose tokens are words."""
    return SimpleNamespace(encode=lambda texts: [t.split() for t in texts], source_limit=limit, is_seq2seq=is_seq2seq)


def test_rows_that_fit_are_kept_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    assert readable_rows(pair(None, True), ROWS, "d", "stop") == ROWS
    assert readable_rows(pair(6, True), ROWS, "d", "stop") == ROWS
    assert readable_rows(pair(7, False), ROWS, "d", "stop") == ROWS
    assert not caplog.messages


def test_a_longer_row_stops_with_the_number_of_all_of_them() -> None:
    with pytest.raises(
        WheelsError, match=r"^d: train: row 2 \('a b c d e f'\.\.\.\) has 6 tokens, and .* at most 3 "
    ) as caught:
        readable_rows(pair(3, True), ROWS, "d: train", "stop")
    assert str(caught.value).endswith("(with 1 more of 4 rows); shorten it, or leave such rows out by --bad-rows skip")
    with pytest.raises(WheelsError, match="has 6 tokens, and the models read at most 6; shorten"):
        readable_rows(pair(6, False), ROWS, "d", "stop")  # the output has no room
    with pytest.raises(WheelsError, match=r"row 1 .* has 2 tokens, .* at most 1 \(with 3 more of 4 rows\)"):
        readable_rows(pair(1, True), ROWS, "d", "skip")


def test_longer_rows_are_skipped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="wheels"):
        assert readable_rows(pair(3, True), ROWS, "d", "skip") == [ROWS[0], ROWS[2]]
    (told,) = caplog.messages
    assert told.startswith(
        "d: 2 of 4 rows left out: longer than the models read, as row 2 ('a b c d e f'...) has 6 tokens"
    )
