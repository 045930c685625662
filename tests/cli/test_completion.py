import subprocess
import sys
from dataclasses import dataclass

import pytest

from wheels.cli import main as cli
from wheels.cli.commands import COMMANDS, Command
from wheels.cli.completion import SHELLS, completion
from wheels.config.fields import option

TRY = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p wheels | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" wheels "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "wheels.bash"
    path.write_text(completion("bash"), encoding="utf-8")
    return path


def offered(script, *words: str, cwd=None) -> list[str]:
    """Return what bash offers for the last of the words."""
    command = ["bash", "--norc", "-c", TRY, "bash", str(script), "wheels", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["gen"], ["generate"]),
        (["bench", "cu"], ["curve"]),
        (["--print-completion", ""], [*SHELLS]),
        (["generate", "--rule", "m"], ["maxprob", "margin"]),
        (["generate", "--teacher-b"], ["--teacher-budget"]),
        (["generate", "--adaptive-draft", "--teacher-b"], ["--teacher-budget"]),
        (["train", "--no-c"], ["--no-calibrate"]),
        (["train", "--agent", ""], ["lagrangian", "pcl"]),
        (["bench", "curve", "--quiet", "--log-level", "w"], ["warning"]),
    ],
)
def test_bash_completes(script, words, found):
    assert offered(script, *words) == found


def test_bash_completes_every_command(script):
    assert sorted(offered(script, "")) == sorted({name.split()[0] for name in COMMANDS})
    assert sorted(offered(script, "bench", "")) == sorted(n.split()[1] for n in COMMANDS if n.startswith("bench "))


def test_bash_completes_paths(script, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "rows.jsonl").touch()
    assert sorted(offered(script, "generate", "--input", "r", cwd=tmp_path)) == ["rows.jsonl", "runs"]
    assert offered(script, "generate", "--model", "r", cwd=tmp_path) == ["runs"]
    assert offered(script, "generate", "--config", "ro", cwd=tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_names_flags_and_their_help(capsys, shell):
    assert cli.main(["--print-completion", shell]) == 0
    assert "teacher-budget" in capsys.readouterr().out


@dataclass(frozen=True)
class Config:
    near: float = option(0.5, "whether it is 20% away")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_percent_sign_is_shown_as_one(monkeypatch, shell):
    monkeypatch.setitem(COMMANDS, "near", Command(f"{__name__}:Config", "", "look 20% away"))
    assert "whether it is 20% away" in completion(shell).replace("\\", "")


@pytest.mark.parametrize("words", [["--print-completion"], ["--print-completion=tcsh"], ["--print-completion", "csh"]])
def test_a_shell_that_is_not_known_is_refused(capsys, words):
    assert cli.main(words) == 2
    assert "--print-completion must be one of bash, zsh, fish, got" in capsys.readouterr().err


def test_completion_imports_nothing_heavy():
    code = "import sys; from wheels.cli.completion import completion; completion('bash'); "
    code += "sys.exit(repr(sorted({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules))))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == "[]"
