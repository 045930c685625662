import io
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

import wheels
from wheels import cli
from wheels.errors import WheelsError
from wheels.fields import option


@dataclass(frozen=True)
class EchoConfig:
    text: str | None = option(None, "what to print", positional=True)
    fail: str = option("", "what goes wrong")


def run(config: EchoConfig) -> None:
    if config.fail == "user":
        raise WheelsError("text must be short,\n got long")
    if config.fail == "disk":
        raise OSError(28, "No space left on device")
    if config.fail == "interrupt":
        raise KeyboardInterrupt
    if config.fail == "bug":
        raise RuntimeError("ours")
    print(config.text)


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    monkeypatch.setitem(
        cli.COMMANDS, "echo", cli.Command(f"{__name__}:EchoConfig", f"{__name__}:run", "print the text")
    )
    monkeypatch.setitem(cli.COMMANDS, "bench echo", cli.COMMANDS["echo"])


def call(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_command_gets_its_configuration_and_prints(capsys):
    assert call(capsys, "echo", "hallo") == (0, "hallo\n", "")
    assert call(capsys, "bench", "echo", "hallo") == (0, "hallo\n", "")


@pytest.mark.parametrize(
    ("fail", "code", "line"),
    [
        ("user", 2, "error: text must be short, got long\n"),
        ("disk", 1, "error: [Errno 28] No space left on device\n"),
        ("interrupt", 130, "\ninterrupted; run the same command again to continue\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, fail, code, line):
    assert call(capsys, "echo", "--fail", fail) == (code, "", line)


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="ours"):
        cli.main(["echo", "--fail", "bug"])


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["ecko"], "error: unknown command 'ecko'; did you mean 'echo'?\n"),
        (["trian"], "error: unknown command 'trian'; did you mean 'train'?\n"),
        (["bench", "crve"], "error: unknown command 'bench crve'; did you mean 'bench curve'?\n"),
        (["benhc", "curve"], "error: unknown command 'benhc'; did you mean 'bench'?\n"),
        (["echo", "--fial", "x"], "error: unknown flag '--fial'; did you mean '--fail'?\n"),
        (
            ["generate", "--teacher-budget", "20"],
            "error: teacher_budget must be in [0, 1], got 20; did you mean 0.2?\n",
        ),
        (["generate", "--teacher-budget", "a"], "error: teacher_budget must be a number in [0, 1], got 'a'\n"),
        (
            ["generate", "--rule", "entrpy"],
            "error: rule must be one of learned, regret, gate, router, maxprob, entropy, margin, random, every-k, "
            "first-k, oracle, got 'entrpy'; did you mean 'entropy'?\n",
        ),
        (
            ["generate", "x", "--input", "f"],
            "error: give the text or --input, not both: got 'x' and --input f\n",
        ),
        (
            ["generate", "--top-k", "5"],
            "error: top_k 5 has no effect at temperature 0; set a temperature above 0 to sample\n",
        ),
    ],
)
def test_what_is_unknown_or_out_of_range_is_refused_with_a_suggestion(capsys, argv, line):
    assert call(capsys, *argv) == (2, "", line)


def test_words_that_are_near_nothing_get_the_whole_list(capsys):
    code, out, err = call(capsys, "xyzzy")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown command 'xyzzy'; one of: generate, ")
    code, _, err = call(capsys, "--teacher-budget", "0.2")
    assert code == 2
    assert err.startswith("error: the command comes before '--teacher-budget'; one of: generate, ")


def test_help_lists_every_command(capsys):
    code, out, err = call(capsys, "--help")
    assert (code, err) == (0, "")
    for name, command in cli.COMMANDS.items():
        assert any(line.split(command.help)[0].strip() == name for line in out.splitlines() if command.help in line)
    assert call(capsys) == (2, "", out)
    assert call(capsys, "--version") == (0, f"wheels {wheels.__version__}\n", "")


def test_help_of_a_group_lists_its_commands_only(capsys):
    code, out, _ = call(capsys, "bench", "--help")
    assert code == 0
    assert "bench curve" in out
    assert "generate" not in out
    assert call(capsys, "bench") == (2, "", out)


def test_help_of_a_command_lists_its_flags(capsys):
    code, out, _ = call(capsys, "echo", "--help")
    assert code == 0
    assert out.startswith("usage: wheels echo")
    assert "--fail" in out


def test_a_reader_that_goes_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "wheels", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_one_line():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wheels", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_text_that_the_terminal_cannot_show_is_replaced(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert cli.main(["echo", "für 5 €"]) == 0
    assert narrow.buffer.getvalue() == b"f?r 5 ?\n"
