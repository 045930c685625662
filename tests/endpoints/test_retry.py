from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from wheels.endpoints.retry import Patience, backoff, retry_after, wait_of

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        (" 3 ", 3.0),
        ('"3"', 3.0),
        ("0", 0.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e1", 10.0),
        ("-2", 0.0),
        ("30s", 30.0),
        ("30 seconds", 30.0),
        ("500ms", 0.5),
        ("1.5 min", 90.0),
        ("2h", 7200.0),
        ("3 fortnights", None),
        ("99999999999999999999", pytest.approx(1e20)),
        ("9" * 400, None),
        ("1e400", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("1_0", None),
        ("\uff13", None),
        ("0x10", None),
        ("soon", None),
        ("1, 2", None),
        (str(int(NOW.timestamp()) + 7), 7.0),
        (format_datetime(datetime(2026, 1, 1, 12, 0, 7, tzinfo=UTC), usegmt=True), 7.0),
        ("Thu, 01 Jan 2026 11:59:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 12:00:07 -0000", 7.0),
        ("Thu, 01 Jan 2026 13:00:07 +0100", 7.0),
        ("Thursday, 01-Jan-26 12:00:07 GMT", 7.0),
        ("Thu Jan  1 12:00:07 2026", 7.0),
        ("2026-01-01T12:00:07Z", 7.0),
        ("2026-01-01 12:00:07", 7.0),
        ("Thu, 32 Foo 2026", None),
        ("Thu, 01 Jan 99999 00:00:00 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
    ],
)
def test_what_a_server_asks_to_wait(value, seconds):
    assert retry_after(value, NOW) == seconds


def test_milliseconds_stand_in_a_header_of_their_own():
    assert wait_of({"retry-after-ms": "250", "Retry-After": "9"}, NOW) == 0.25
    assert wait_of({"retry-after-ms": "soon", "Retry-After": "9"}, NOW) == 9.0
    assert wait_of({}, NOW) is None


def test_backoff_doubles_up_to_its_cap_and_is_jittered_in_full():
    patience = Patience(base=0.5, cap=3.0)
    assert [backoff(attempt, patience, 1.0) for attempt in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff(9999, patience, 0.5) == 1.5
    assert backoff(2, patience, 0.0) == 0.0
