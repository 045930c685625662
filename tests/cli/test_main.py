import dataclasses
import io
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from tqdm import tqdm

import wheels
from wheels.cli import commands as cli_commands
from wheels.cli import main as cli
from wheels.config.fields import option
from wheels.errors import WheelsError


@dataclass(frozen=True)
class EchoConfig:
    text: str | None = option(None, "what to print", positional=True)
    fail: str = option("", "what goes wrong")
    resume: str = option("auto", "whether to go on")


def run(config: EchoConfig) -> None:
    if config.fail == "user":
        raise WheelsError("text must be short,\n got long")
    if config.fail == "disk":
        raise OSError(28, "No space left on device")
    if config.fail == "interrupt":
        raise KeyboardInterrupt
    if config.fail == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    if config.fail == "slow":
        time.sleep(10)
    if config.fail == "terminal":
        raise WheelsError("\x1b[31m\x9b1m\u202eevil\r" + "x" * 10_000)
    if config.fail == "bar":
        bar = tqdm(total=3, file=sys.stderr)
        bar.update(1)
        logging.getLogger("wheels.x").warning("said \x1b[31m in between")
        raise WheelsError("behind a bar")
    if config.fail == "remark":
        logging.getLogger("wheels.x").info("a remark")
        logging.getLogger("wheels.x").warning("a warning")
        logging.getLogger("others").info("a library's")
    if config.fail.startswith("memory"):
        raise {"memory": MemoryError, "memory of a GPU": torch.OutOfMemoryError}[config.fail]("too\nmuch")
    if config.fail == "allocation":
        torch.empty(2**60)
    if config.fail == "meta":
        torch.empty(1, device="meta").cpu()
    if config.fail == "device":
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")
    if config.fail == "bug":
        raise RuntimeError("ours")
    print(config.text)


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    monkeypatch.setitem(
        cli.COMMANDS, "echo", cli_commands.Command(f"{__name__}:EchoConfig", f"{__name__}:run", "print the text")
    )
    monkeypatch.setitem(cli.COMMANDS, "bench echo", cli.COMMANDS["echo"])


def call(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("memory", "error: out of memory (too); use a smaller batch size, shorter outputs or a smaller model\n"),
        ("memory of a GPU", "error: out of memory (too); use a smaller batch size"),
        ("allocation", "error: out of memory ("),
        ("meta", "error: the device failed (Cannot copy out of meta tensor"),
        ("device", "error: the device failed (CUDA error: device-side assert triggered); try another one, or the"),
    ],
)
def test_what_the_machine_lacks_is_one_line(capsys, fail, message):
    code, out, err = call(capsys, "echo", "--fail", fail)
    assert (code, out) == (cli.FAILURE, "")
    assert err.startswith(message) and err.count("\n") == 1


def test_a_command_gets_its_configuration_and_prints(capsys):
    assert call(capsys, "echo", "hallo") == (0, "hallo\n", "")
    assert call(capsys, "bench", "echo", "hallo") == (0, "hallo\n", "")


@pytest.mark.parametrize(
    ("fail", "code", "line"),
    [
        ("user", 2, "error: text must be short, got long\n"),
        ("disk", 1, "error: [Errno 28] No space left on device\n"),
        ("interrupt", 130, "\ninterrupted; run the same command again to continue\n"),
        ("stop", 143, "stopped; run the same command again to continue\n"),
        ("terminal", 2, f"error: �[31m�1m�evil {'x' * 979} ... {'x' * 1000}\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, fail, code, line):
    assert call(capsys, "echo", "--fail", fail) == (code, "", line)


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="ours"):
        cli.main(["echo", "--fail", "bug"])


@pytest.mark.parametrize("name", ["serve", "env"])
def test_a_command_that_begins_anew_does_not_promise_to_continue(capsys, monkeypatch, name):
    assert not cli.COMMANDS[name].continues
    monkeypatch.setitem(cli.COMMANDS, "echo", dataclasses.replace(cli.COMMANDS["echo"], continues=False))
    assert call(capsys, "echo", "--fail", "interrupt") == (130, "", "\ninterrupted\n")


def test_a_time_limit_stops_a_command(capsys):
    stopped = (143, "", "stopped; run the same command again to continue\n")
    assert call(capsys, "echo", "--fail", "slow", "--time-limit", "0.1s") == stopped
    assert call(capsys, "echo", "--time-limit=0.1s", "--fail", "slow") == stopped
    code, _, err = call(capsys, "echo", "--time-limit", "soon")
    assert (code, err) == (2, "error: time_limit must be a time such as 90m, 3h30m or 3:30:00, got 'soon'\n")


def test_a_run_that_is_not_to_be_resumed_does_not_promise_to_continue(capsys, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "run", lambda config: (_ for _ in ()).throw(KeyboardInterrupt))
    assert call(capsys, "echo", "--resume", "never") == (130, "", "\ninterrupted\n")


def test_errors_and_logs_have_lines_of_their_own_behind_a_bar(capsys):
    code, out, err = call(capsys, "echo", "--fail", "bar")
    assert (code, out) == (2, "") and "1/3" in err
    assert re.search(r"(^|[\n\r])said �\[31m in between\n", err)
    assert err.endswith("\nerror: behind a bar\n")


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
            "error: rule must be one of learned, paired, regret, gate, router, reinforce, maxprob, entropy, margin, "
            "random, every-k, first-k, foresight, or a rule of your own (FILE.py:NAME or package.module:NAME), got "
            "'entrpy'; did you mean 'entropy'?\n",
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


def test_text_that_the_terminal_cannot_show_is_replaced(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert cli.main(["echo", "für 5 €"]) == 0
    assert narrow.buffer.getvalue() == b"f?r 5 ?\n"


def run_echo(argv: list[str]) -> None:
    """Run the command `echo` of this module, as the process's own."""
    cli.COMMANDS["echo"] = cli_commands.Command(f"{__name__}:EchoConfig", f"{__name__}:run", "print the text")
    sys.argv = ["wheels", *argv]
    sys.exit(cli.main())


def test_a_text_after_two_dashes_is_no_flag(capsys):
    assert call(capsys, "echo", "--", "--quiet") == (0, "--quiet\n", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quiet", "--log-level", "info"], "give --quiet or one --log-level, not both"),
        (["--log-level", "loud"], "log_level must be one of debug, info, warning, error, got 'loud'"),
        (["--log-level"], "log_level must be one of debug, info, warning, error, got ''"),
        (["--log-levl", "info"], "unknown flag '--log-levl'; did you mean '--log-level'?"),
        (["--quite"], "unknown flag '--quite'; did you mean '--quiet'?"),
    ],
)
def test_a_level_that_is_none_is_refused(capsys, flags, message):
    code, out, err = call(capsys, "echo", "hallo", *flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")


def test_level_debug_shows_where_an_error_comes_from(capsys):
    code, _, err = call(capsys, "echo", "--fail", "user", "--log-level", "debug")
    assert code == 2
    assert err.startswith("Traceback") and err.endswith("\nerror: text must be short, got long\n")
