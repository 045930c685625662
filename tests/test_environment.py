import json
import sys
from importlib import metadata

import pytest
import torch

import wheels
from wheels import environment
from wheels.cli import main as cli
from wheels.decoding.models import kernel_times

LINES = ("wheels", "python", "platform", "packages", "processor", "threads", "devices", "memory_gib", "variables")


def shown(capsys, *argv: str) -> str:
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_report_says_what_a_result_depends_on(capsys, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("WHEELS_TEACHER_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    out = shown(capsys, "env")
    for name in LINES:
        assert any(line.startswith(f"{name}:") for line in out.splitlines()), name
    assert f"wheels: {wheels.__version__}" in out and f"  torch: {metadata.version('torch')}" in out
    assert f"  transformers: {metadata.version('transformers')}" in out
    assert f"  kernels: {torch.backends.cpu.get_cpu_capability()}" in out
    assert "  ATEN_CPU_CAPABILITY: default" in out
    assert "secret" not in out
    assert shown(capsys, "--version", "--verbose").splitlines()[0] == out.splitlines()[0]


def test_a_report_as_json_is_the_same_facts(capsys):
    found = json.loads(shown(capsys, "env", "--json"))
    assert set(LINES) <= set(found)
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert found["devices"][0] == "cpu"
    assert set(found["packages"]) >= {"torch", "transformers", "trl", "numpy"}


def test_a_report_of_a_broken_installation_says_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(environment, "_version", lambda name: "missing")
    out = shown(capsys, "env")
    assert "torch: cannot be imported: import of torch halted" in out and "  numpy: missing" in out


def test_version_takes_no_other_word(capsys):
    assert cli.main(["--version", "--verbos"]) == 2
    assert "--verbose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("max\n", "5\n", {"total": 2.0, "available": 1.5}),
        ("1073741824\n", "", {"total": 2.0, "available": 1.5, "limit": 1.0}),
        ("1073741824\n", "805306368\n", {"total": 2.0, "available": 0.5, "limit": 1.0}),
    ],
)
def test_memory_knows_what_the_group_has_left(monkeypatch, limit, used, expected):
    """Of three quarters of a GiB in use one quarter is of files, and can be dropped."""
    files = {
        "/proc/meminfo": "MemTotal: 2097152 kB\nMemAvailable: 1572864 kB\n",
        "/sys/fs/cgroup/memory.max": limit,
        "/sys/fs/cgroup/memory.current": used,
        "/sys/fs/cgroup/memory.stat": "anon 7\ninactive_file 268435456\nactive_file 9\n",
    }
    monkeypatch.setattr(environment, "_read", files.__getitem__)
    assert environment.memory() == expected


def test_engines_are_named_where_they_are_installed(monkeypatch):
    there = {"ctranslate2": "4.8.5"}
    monkeypatch.setattr(environment, "_version", lambda name: there.get(name, "missing"))
    assert environment.engines() == there
    assert "engines:\n  ctranslate2: 4.8.5\n" in environment.as_text(environment.environment())


def test_what_was_measured_to_run_models_is_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert json.loads(shown(capsys, "env", "--json"))["passes"] == {}
    place = tmp_path / "wheels" / "kernel-times.json"
    place.parent.mkdir()
    times = {"passes of T5, batch size 8": {"torch float32": 0.0031, "onnx int8": 0.0015}, "[8, 16]": {"plain": 1.0}}
    place.write_text(json.dumps({kernel_times._machine(): times, "another": times}))
    assert "passes:\n  T5, batch size 8: onnx int8 1.5 ms, torch float32 3.1 ms" in shown(capsys, "env")
    place.write_text("{not json")
    assert json.loads(shown(capsys, "env", "--json"))["passes"] == {}
