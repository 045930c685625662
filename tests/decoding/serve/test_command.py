"""The command itself: what it refuses, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.decoding.serve.harness import SECONDS, TEXTS, until
from wheels.cli.main import main
from wheels.config.parsing import parse
from wheels.decoding.serve import run as command
from wheels.decoding.serve.config import ServeConfig
from wheels.errors import WheelsError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "others reach host '0.0.0.0', so clients must send a key"),
        (["--host", "example.org"], "others reach host 'example.org'"),
        (["--student", "a"], "student a needs its teacher"),
        (["--model", "a", "--student", "b", "--teacher", "c"], "give --model or --student, not both"),
        (["--method", "speculative", "--teacher-budget", "0.5"], "keeps no teacher budget"),
        (["--api-key-env", "A", "--api-key-file", "b"], "by --api-key-env or --api-key-file, not by both"),
        (["--port", "70000"], "port must be at most 65535, got 70000"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(flags, message) -> None:
    with pytest.raises(WheelsError, match=message):
        parse(ServeConfig, flags, prog="wheels serve")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.9"])
def test_the_loopback_needs_no_key(host) -> None:
    assert not ServeConfig(host=host).has_key and ServeConfig(host="0.0.0.0", api_key_env="A").has_key


def test_a_key_is_read_from_a_variable_or_a_file_and_never_shown(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "key"
    file.write_text("sesame-0123\n")
    monkeypatch.setenv("SERVE_KEY", "sesame-4567")
    assert command.read_key(ServeConfig(api_key_file=str(file))).value == "sesame-0123"
    assert command.read_key(ServeConfig(api_key_env="SERVE_KEY")).value == "sesame-4567"
    assert command.read_key(ServeConfig()).value == ""
    for content in ("", "two words sesame", "sesame\n\nsesame"):
        file.write_text(content)
        assert main(["serve", "--api-key-file", str(file)]) == 2
    assert main(["serve", "--api-key-file", str(tmp_path / "none")]) == 2
    assert main(["serve", "--api-key-env", "sesame-89"]) == 2
    shown = capsys.readouterr().err
    assert "sesame" not in shown and shown.count("error: ") == 5


def test_an_address_that_is_taken_is_named_before_models_are_loaded(capsys) -> None:
    taken = command.listen(ServeConfig(port=0))
    with taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--model", "no such folder"]) == 2
        assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert "needs FastAPI and uvicorn: pip install 'training-wheels[serve]'" in capsys.readouterr().err


@contextmanager
def process(*flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen, str, list[str]]]:
    """A server of its own, its address, and what it has said since."""
    arguments = [sys.executable, "-m", "wheels", "serve", "--port", "0", "--batch-size", "2", *flags]
    running = subprocess.Popen(
        arguments, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert running.stderr is not None
    said: list[str] = []
    try:
        first = running.stderr.readline()
        if "serving" not in first:  # its end would never come
            running.kill()
        assert "serving" in first, first + running.stderr.read()
        reading = threading.Thread(target=lambda: said.extend(running.stderr or ()))
        reading.start()
        yield running, first.split(" at ")[1].split("/v1")[0], said
        running.wait(SECONDS)
        reading.join(SECONDS)
    finally:
        running.kill()
        running.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "signals"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 2)])
def test_a_signal_drains_and_a_second_one_aborts(number: int, signals: int) -> None:
    """Thirty texts, two at a time: they cannot be done before the second signal."""
    body = {"model": "embedded-translation", "prompt": TEXTS, "n": 10, "temperature": 1.5, "max_tokens": 250}
    with (
        process() as (running, url, said),
        httpx2.stream("POST", f"{url}/v1/completions", json=body | {"stream": True}, timeout=120) as answer,
    ):
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        running.send_signal(number)
        until(lambda: any("texts are finished first" in line for line in said))
        if signals == 2:
            running.send_signal(number)
        *parts, last = lines
    assert last == "data: [DONE]" and running.returncode == 0, said
    assert ("the server was stopped" in "".join(parts)) == (signals == 2)
    ends = [part for part in parts if '"finish_reason":"' in part]
    assert (len(ends) == 30) if signals == 1 else (len(ends) < 30)
    assert "the server has ended\n" in said
