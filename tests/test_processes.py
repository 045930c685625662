"""What is said of the processes of a run."""

from __future__ import annotations

import pytest

from wheels.processes import OF_LAUNCH, SHARDED_BY, SIZES, say_what_was_not_done


def test_one_process_where_several_were_asked_for_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (*OF_LAUNCH, *SIZES, *SHARDED_BY):
        monkeypatch.delenv(name, raising=False)
    say_what_was_not_done("cpu")
    monkeypatch.setenv("MASTER_PORT", "29500")
    say_what_was_not_done("cpu")
    assert not caplog.text
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    say_what_was_not_done("cpu")
    assert caplog.messages == [
        "accelerate launch was asked for several processes and has started one; use torchrun instead"
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    say_what_was_not_done("cpu")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", SHARDED_BY)
def test_shards_that_a_cpu_does_not_make_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    for other in (*OF_LAUNCH, *SIZES, *SHARDED_BY):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "true")
    say_what_was_not_done("cuda")
    assert not caplog.text
    say_what_was_not_done("cpu")
    (message,) = caplog.messages
    assert (
        message == f"accelerate uses {SHARDED_BY[name]} on accelerators only: on a cpu each process holds whole models"
    )
