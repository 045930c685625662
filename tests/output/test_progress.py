"""How far a job is: a bar on a terminal, a line a minute elsewhere."""

import io
import logging
import sys

from wheels.output import progress
from wheels.output.progress import Progress


def test_a_line_a_minute_says_the_rate_and_the_time_left(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "wheels")
    now = [0.0]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(2000, "text", done=500) as shown:
        for _ in range(300):
            now[0] += 0.5
            shown.advance()
    assert [record.message for record in caplog.records] == [
        "620 of 2,000 texts, 2 a second, 11 min 30 s left",
        "740 of 2,000 texts, 2 a second, 10 min 30 s left",
    ]
