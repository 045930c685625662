"""A command as a process: its streams, Ctrl-C, a reader that goes away, and what another process may ask of it."""

import gc
import os
import subprocess
import sys

import pytest

import wheels
from tests.marks import slow
from wheels.cli import main as cli


def python(code: str, *arguments: str, shell: str = '"$@"') -> subprocess.CompletedProcess:
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


MAIN = "import sys; from wheels.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("shell", "code", "out", "err"),
    [
        ('"$@" >&-', 1, "", "error: standard output is closed; send it to a file, or to /dev/null\n"),
        ('"$@" 2>&-', 0, f"wheels {wheels.__version__}\n", ""),
        ('"$@" <&-', 0, f"wheels {wheels.__version__}\n", ""),
        ('"$@" <&- 2>&-', 0, f"wheels {wheels.__version__}\n", ""),
        ('"$@" >&- 2>&-', 1, "", ""),
    ],
)
def test_streams_that_are_closed(shell, code, out, err):
    done = python(MAIN, "--version", shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_an_error_without_standard_error_is_not_printed_elsewhere():
    done = python(MAIN, "trian", shell='"$@" 2>&-')
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_no_file_gets_the_number_of_a_stream_that_was_closed():
    code = "import os, wheels.output.streams as s; s.open_missing(); print(os.open('/dev/null', 0) > 2)"
    assert python(code, shell='"$@" <&- 2>&-').stdout == "True\n"


@pytest.mark.slow
def test_closed_standard_input_holds_no_text():
    done = python(MAIN, "generate", shell='"$@" <&-')
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: standard input: nothing in it; it must hold rows, or one text a line\n"


INTERRUPTED_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(name, *rest):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
from wheels.__main__ import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("wheels.cli.main", "argparse", "wheels.decoding.commands.generate_config"),
        *slow("torch", "numpy.linalg", "transformers"),
    ],
)
def test_ctrl_c_within_an_import_ends_without_a_traceback(name):
    done = python(INTERRUPTED_IMPORT.format(name=name), "generate", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\ninterrupted\n")


def test_an_interrupt_that_the_caller_ignores_stays_ignored():
    done = python(INTERRUPTED_IMPORT.format(name="argparse"), "--version", shell="trap '' INT; \"$@\"")
    assert (done.returncode, done.stdout) == (0, f"wheels {wheels.__version__}\n")


def test_ctrl_c_raises_again_once_a_command_works():
    code = """
import os, signal, sys
from wheels.cli import main as cli
from wheels.cli import commands as cli_commands
from wheels.cli import interrupts
from wheels import __main__
interrupts.leave_at_once()
class Config: pass
cli.COMMANDS["x"] = cli_commands.Command("m:C", "m:r", "", continues=False)
cli._load = lambda place: (lambda config: os.kill(os.getpid(), signal.SIGINT)) if place == "m:r" else Config
cli.parse = lambda *args, **more: Config()
sys.exit(cli.main(["x"]))
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


@pytest.mark.parametrize("argv", ["None", "[]"])
def test_bars_are_drawn_on_terminals_only(argv):
    code = f"import sys; sys.argv = ['wheels']; from wheels.cli.main import main; main({argv}); "
    code += "from tqdm.auto import tqdm; list(tqdm([1]))"
    assert ("1/1" in python(code).stderr) is (argv == "[]"), "a program that calls `main` keeps its own bars"


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ([], "a remark\na warning\n"),
        (["--log-level", "info"], "a remark\na warning\n"),
        (["--quiet"], "a warning\n"),
        (["--log-level=warning"], "a warning\n"),
        (["--quiet", "--log-level", "warning"], "a warning\n"),
        (["--log-level", "error"], ""),
        (["--log-level", "debug"], "a remark\na warning\nINFO:others:a library's\n"),
    ],
)
@pytest.mark.parametrize("behind", [True, False])
def test_how_much_is_said(flags, shown, behind):
    words = ["echo", "--fail", "remark", "hallo"]
    argv = [*words, *flags] if behind else [*flags, *words]
    code = f"from tests.cli import test_main; test_main.run_echo({argv!r})"
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hallo\n", shown)


@pytest.mark.parametrize(("flags", "bars"), [([], True), (["--quiet"], False), (["--log-level", "debug"], True)])
def test_quiet_draws_no_bar_even_on_a_terminal(flags, bars):
    code = "import sys; sys.stderr.isatty = lambda: True; from wheels.cli.main import main\n"
    code += f"sys.argv = ['wheels', '--version', *{flags!r}]; main(); from tqdm.auto import tqdm; list(tqdm([1]))"
    assert ("1/1" in python(code).stderr) is bars


@pytest.mark.parametrize("own", [True, False])
def test_only_a_process_of_its_own_imports_without_collecting_garbage(own, monkeypatch, capsys):
    seen, load = {}, cli._load
    monkeypatch.setattr(cli, "_load", lambda place: seen.update({place: gc.isenabled()}) or load(place))
    monkeypatch.setattr(gc, "freeze", lambda: seen.update(frozen=True))
    assert cli._run("env", [], "info", own=own) == 0
    assert seen.pop("frozen", False) is own
    assert seen == {"wheels.cli.env:EnvConfig": True, "wheels.cli.env:run": not own}
    assert gc.isenabled() and "torch" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("argv", "frozen"), [("", "True"), ("['env']", "False")])
def test_arguments_that_are_given_come_from_another_process(argv, frozen):
    code = "import gc, sys; from wheels.cli.main import main; sys.argv = ['wheels', 'env']; "
    code += f"main({argv}); print(gc.get_freeze_count() > 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == frozen
