"""What is said of the processes of a run."""

from __future__ import annotations

import pytest

from wheels.processes import OF_LAUNCH, SIZES, say_if_alone


def test_one_process_where_several_were_asked_for_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (*OF_LAUNCH, *SIZES):
        monkeypatch.delenv(name, raising=False)
    say_if_alone()
    monkeypatch.setenv("MASTER_PORT", "29500")
    say_if_alone()
    assert not caplog.text
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    say_if_alone()
    assert caplog.messages == [
        "accelerate launch was asked for several processes and has started one; use torchrun instead"
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    say_if_alone()
    assert len(caplog.messages) == 1
