import pytest

from wheels.output import notices
from wheels.output.notices import Pace, in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (12.34, "12.3 s"),
        (60.0, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3723.0, "62 min 03 s"),
        (20160.0, "5.6 h"),
    ],
)
def test_seconds_in_words(seconds, words):
    assert in_words(seconds) == words


def said(caplog, pace: Pace, seconds: list[float]) -> list[str]:
    caplog.set_level("INFO", logger="wheels")
    for each in seconds:
        pace.add(each)
    return [record.getMessage() for record in caplog.records]


def test_the_first_parts_say_once_how_long_the_others_take(caplog):
    lines = said(caplog, Pace(20, "decodes"), [5.0, 6.0, 4.0, 50.0, 50.0])
    assert lines == ["the first 3 of 20 decodes took 15.0 s: about 1 min 25 s for the others at this pace"]


def test_one_part_in_twenty_is_measured(caplog):
    assert said(caplog, Pace(100, "steps"), [10.0] * 4) == []
    assert said(caplog, Pace(100, "steps"), [10.0] * 5)[0].startswith("the first 5 of 100 steps took 50.0 s: about 15 ")


@pytest.mark.parametrize(("parts", "seconds"), [(20, [1.0] * 20), (2, [100.0] * 2), (3, [100.0] * 3)])
def test_a_short_wait_and_the_last_part_need_no_word(caplog, parts, seconds):
    assert said(caplog, Pace(parts, "decodes"), seconds) == []


def test_a_part_is_timed(monkeypatch):
    clock = iter([1.0, 3.5])
    monkeypatch.setattr(notices.time, "perf_counter", lambda: next(clock))
    pace = Pace(9, "decodes")
    assert pace.timed(lambda: "made")() == "made"
    assert (pace.made, pace.seconds) == (1, 2.5)
