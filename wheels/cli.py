"""The command line `wheels`: finds the command, fills its configuration, runs it, and turns errors into one line.

Nothing heavy is imported before a command really runs, so `--help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import wheels
from wheels.config import parse
from wheels.errors import WheelsError, did_you_mean, is_of_machine, machine_failure
from wheels.fields import check_known
from wheels.interrupts import end_at_once, raise_again
from wheels.streams import bars_on_terminals_only, log_to_stderr, open_missing, replace_what_cannot_be_shown, say

USAGE_ERROR = 2
"""The exit code for what the user can mend, as argparse and most shells have it."""
FAILURE = 1
"""The exit code for what the machine refused: a full disk, a file that may not be read."""
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells report it."""


@dataclass(frozen=True)
class Command:
    """One command: where its configuration and its work live, both imported only when they are needed."""

    config: str
    """`module:Class` of the configuration, in a module that does not import torch."""
    run: str
    """`module:function` that takes the configuration and prints its own output."""
    help: str
    """One line for `wheels --help`."""
    continues: bool = True
    """Whether the same command goes on with what it had done when it was interrupted."""


COMMANDS = {
    "generate": Command(
        "wheels.decoding.commands.generate_config:GenerateConfig",
        "wheels.decoding.commands.generate:run",
        "write text with the student, calling the teacher within a budget",
        continues=False,
    ),
    "pretrain": Command(
        "wheels.distillation.config:PretrainConfig",
        "wheels.distillation.run:run",
        "train a student by distillation, or a teacher from scratch",
    ),
    "annotate": Command(
        "wheels.annotation.config:AnnotateConfig",
        "wheels.annotation.run:run",
        "have a teacher label a file within a budget, with a teaching assistant in the loop",
    ),
    "rationales": Command(
        "wheels.rationales.config:RationalesConfig",
        "wheels.rationales.run:run",
        "mark the words of each source that a teacher's gradients point to",
    ),
    "train": Command(
        "wheels.agents.config:TrainConfig",
        "wheels.agents.run:run",
        "train the student to call the teacher where it is worth its price",
    ),
    "calibrate": Command(
        "wheels.decoding.commands.calibrate_config:CalibrateConfig",
        "wheels.decoding.commands.calibrate:run",
        "find each rule's threshold for each budget on validation data",
        continues=False,
    ),
    "bench curve": Command(
        "wheels.benchmarks.curve.config:CurveConfig",
        "wheels.benchmarks.curve.run:run",
        "measure quality against teacher use, and draw the curve",
    ),
    "bench speed": Command(
        "wheels.benchmarks.speed.config:SpeedConfig",
        "wheels.benchmarks.speed.run:run",
        "time every way of decoding beside transformers' own, and against what could be at best",
    ),
    "bench passes": Command(
        "wheels.benchmarks.passes.config:PassesConfig",
        "wheels.benchmarks.passes.run:run",
        "measure quality against teacher passes, deferral beside every way of verifying",
    ),
    "bench study": Command(
        "wheels.benchmarks.study.config:StudyConfig",
        "wheels.benchmarks.study.run:run",
        "run a recipe on a task: teacher, students by every objective, policy, curve, passes",
    ),
    "bench distillation": Command(
        "wheels.benchmarks.distillation.config:DistillationConfig",
        "wheels.benchmarks.distillation.run:run",
        "compare students by labels, temperature and size, and measure what caching their teacher saves",
    ),
    "bench annotation": Command(
        "wheels.benchmarks.annotation.config:AnnotationConfig",
        "wheels.benchmarks.annotation.run:run",
        "measure what a budget of annotations buys, by the way it is spent, with teachers that err",
    ),
    "bench rationales": Command(
        "wheels.benchmarks.rationales.config:BenchRationalesConfig",
        "wheels.benchmarks.rationales.run:run",
        "compare students that also learn a teacher's rationales with students that do not",
    ),
    "demo": Command(
        "wheels.benchmarks.demo.config:DemoConfig",
        "wheels.benchmarks.demo.run:run",
        "run everything on the embedded pair: distil, train, measure, report",
    ),
    "env": Command(
        "wheels.environment:EnvConfig",
        "wheels.environment:run",
        "print versions, processor, devices and memory: what a bug report needs",
        continues=False,
    ),
}

EXAMPLES = """examples:
  wheels generate --teacher-budget 0.2 "Am Mittwoch soll es in Jakarta bis zu 7,8 Grad Celsius warm werden."
  wheels demo
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of `argv` (default: of the process, whose streams it then sets up) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_missing()
    if sys.stdout is None:
        say("error: standard output is closed; send it to a file, or to /dev/null")
        return FAILURE
    replace_what_cannot_be_shown()
    if argv is None:
        bars_on_terminals_only()
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except WheelsError as error:
        code = _complain(error, USAGE_ERROR)
    except BrokenPipeError:
        # The reader has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except OSError as error:
        code = _complain(error, FAILURE)
    except (MemoryError, RuntimeError) as error:
        if not is_of_machine(error):
            raise
        code = _complain(RuntimeError(machine_failure(error)), FAILURE)
    except KeyboardInterrupt as stop:
        if argv is None:
            end_at_once()
        print(file=sys.stderr)  # behind the terminal's ^C
        say(f"interrupted{stop}")
        code = INTERRUPTED
    return code


def _complain(error: Exception, code: int) -> int:
    """Print `error` as one line on standard error and return `code`."""
    say(f"error: {str(error).strip() or type(error).__name__}")
    return code


def _dispatch(arguments: list[str]) -> int:
    """Print help, or find the command and run it."""
    if not arguments:
        print(usage(), file=sys.stderr, end="")
        return USAGE_ERROR
    if arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if arguments == ["--version", "--verbose"]:
        return _run("env", [])
    if arguments[0] == "--version":
        check_known(arguments[1:], ["--verbose"], "flag")
        print(f"wheels {wheels.__version__}")
        return 0
    group = {name: command for name, command in COMMANDS.items() if name.split()[0] == arguments[0]}
    if arguments[0] not in COMMANDS and group and arguments[1:2] in ([], ["-h"], ["--help"]):
        print(usage(group), end="", file=sys.stdout if arguments[1:] else sys.stderr)
        return 0 if arguments[1:] else USAGE_ERROR
    name, rest = _find(arguments)
    return _run(name, rest)


def _find(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the command that `arguments` begin with (of one word or two), and what follows it.

    Raises:
        WheelsError: where there is no such command, with the nearest one.
    """
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    first = arguments[0]
    if first.startswith("-"):
        raise WheelsError(f"the command comes before {first!r}; one of: {', '.join(COMMANDS)}")
    group = any(name.startswith(first + " ") for name in COMMANDS)
    name = " ".join(arguments[:2]) if group else first
    hint = did_you_mean(name, [*COMMANDS, *{command.split()[0] for command in COMMANDS}])
    raise WheelsError(f"unknown command {name!r}{hint or '; one of: ' + ', '.join(COMMANDS)}")


def _run(name: str, arguments: list[str]) -> int:
    """Fill the configuration of command `name` and run it."""
    command = COMMANDS[name]
    try:
        config = parse(_load(command.config), arguments, prog=f"wheels {name}", description=command.help)
    except SystemExit as stop:  # argparse has printed the help
        return int(stop.code or 0)
    log_to_stderr()
    run: Callable[[Any], None] = _load(command.run)
    raise_again()
    try:
        run(config)
    except KeyboardInterrupt:
        anew = not command.continues or getattr(config, "resume", None) == "never"
        raise KeyboardInterrupt("" if anew else "; run the same command again to continue") from None
    return 0


def _load(place: str) -> Any:
    """Import what `module:name` says."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def usage(commands: dict[str, Command] | None = None) -> str:
    """Return the text of `wheels --help`, or of `wheels bench --help` for the commands of one group."""
    shown = commands or COMMANDS
    width = max(map(len, shown)) + 2
    lines = ["usage: wheels COMMAND [--flag value ...] [--config FILE.yaml]", ""]
    if commands is None:
        lines += [*(wheels.__doc__ or "").strip().splitlines(), ""]
    lines += ["commands:", *(f"  {name:<{width}}{command.help}" for name, command in shown.items()), ""]
    lines += ["`wheels COMMAND --help` lists the flags of one command; `wheels --version` prints the version."]
    return "\n".join(lines) + "\n" + ("" if commands else "\n" + EXAMPLES)
