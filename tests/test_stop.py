"""A stop that was asked for: by SIGTERM, or by a time limit."""

from __future__ import annotations

import os
import signal
import time

import pytest

from wheels import stop
from wheels.errors import WheelsError
from wheels.stop import Stopped, deferred_stop, seconds_of, stopping


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_raised_where_the_work_is_and_left_as_it_was_afterwards() -> None:
    with pytest.raises(Stopped), stopping():
        ask()
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_end_of_a_time_limit_is_such_a_stop() -> None:
    with pytest.raises(Stopped), stopping(0.01):
        time.sleep(5)
        pytest.fail("went on")
    with stopping(0.05):
        pass
    time.sleep(0.1)


def test_a_deferred_stop_is_raised_at_the_end() -> None:
    told = []
    with pytest.raises(Stopped), stopping(), deferred_stop() as asked:
        told.append(asked())
        ask()
        told.append(asked())
    assert told == [False, True]
    with deferred_stop() as asked:
        assert not asked(), "that was another run"


def test_a_stop_is_deferred_once_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped), stopping(), deferred_stop():
        ask()
        ask()
        pytest.fail("went on")
    monkeypatch.setattr(stop, "GRACE", 0.01)
    with pytest.raises(Stopped), stopping(), deferred_stop():
        ask()
        time.sleep(5)
        pytest.fail("went on")


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90m", 5400), ("3h30m", 12600), ("1d", 86400), ("1.5h", 5400), ("3:30:00", 12600), ("20s", 20)],
)
def test_times(limit: str, seconds: float) -> None:
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize("limit", ["", "90", "0s", "h", "3:30", "-1h", "9999d", "1w"])
def test_what_is_no_time_is_refused(limit: str) -> None:
    with pytest.raises(WheelsError, match="time_limit must be a time such as 90m, 3h30m or 3:30:00, got"):
        seconds_of(limit)
