"""The command line `wheels`: finds the command, parses its configuration, runs it, and prints errors as one line.

Nothing heavy is imported before a command really runs, so `--help` answers at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import wheels
from wheels.cli.commands import COMMANDS, usage, usage_of
from wheels.cli.interrupts import end_at_once, raise_again
from wheels.config.fields import check_known
from wheels.config.parsing import parse
from wheels.errors import WheelsError, did_you_mean, is_of_machine, machine_failure
from wheels.output.streams import (
    bars_where_they_are_seen,
    log_to_stderr,
    open_missing,
    remark,
    replace_what_cannot_be_shown,
    say,
    take_level,
    take_time_limit,
)
from wheels.stop import Stopped, stopping
from wheels.threads import sleep_when_idle

USAGE_ERROR = 2
"""The exit code for what the user can mend, as argparse and most shells have it."""
FAILURE = 1
"""The exit code for what the machine refused: a full disk, a file that may not be read."""
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
STOPPED = 143
"""128 + SIGTERM; of a time limit too."""
BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells report it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of `argv` (default: of the process, whose streams it then sets up) and return the exit code."""
    open_missing()
    if sys.stdout is None:
        say("error: standard output is closed; send it to a file, or to /dev/null")
        return FAILURE
    replace_what_cannot_be_shown()
    if argv is None:
        sleep_when_idle()
    level = "info"
    try:
        level, arguments = take_level(sys.argv[1:] if argv is None else argv)
        limit, arguments = take_time_limit(arguments)
        if argv is None:
            bars_where_they_are_seen(level)
        with stopping(limit):
            code = _dispatch(arguments, level, own=argv is None)
        sys.stdout.flush()
    except WheelsError as error:
        code = _complain(error, USAGE_ERROR, level)
    except BrokenPipeError:
        # The reader has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except OSError as error:
        code = _complain(error, FAILURE, level)
    except (MemoryError, RuntimeError) as error:
        if not is_of_machine(error):
            raise
        code = _complain(RuntimeError(machine_failure(error)), FAILURE, level)
    except KeyboardInterrupt as stop:
        if argv is None:
            end_at_once()
        stopped = isinstance(stop, Stopped)
        if not stopped:
            print(file=sys.stderr)  # behind the terminal's ^C
        say(f"{'stopped' if stopped else 'interrupted'}{stop}")
        code = STOPPED if stopped else INTERRUPTED
    return code


def _complain(error: Exception, code: int, level: str) -> int:
    """Print `error` as one line on standard error, at level debug where it comes from too, and return `code`."""
    if level == "debug":
        traceback.print_exc()
    say(f"error: {str(error).strip() or type(error).__name__}")
    return code


def _dispatch(arguments: list[str], level: str, *, own: bool) -> int:
    """Print help, or find the command and run it; `own`: in a process that is there for it alone."""
    if not arguments:
        print(usage(), file=sys.stderr, end="")
        return USAGE_ERROR
    if arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if arguments == ["--version", "--verbose"]:
        return _run("env", [], level, own=own)
    if arguments[0] == "--version":
        check_known(arguments[1:], ["--verbose"], "flag")
        print(f"wheels {wheels.__version__}")
        return 0
    if arguments[0].split("=")[0] == "--print-completion":
        from wheels.cli.completion import completion

        print(completion(" ".join(arguments).removeprefix("--print-completion").lstrip(" =")))
        return 0
    if arguments == ["bench", "--list"]:
        from wheels.cli.listing import listing

        print(listing(), end="")
        return 0
    is_group = arguments[0] not in COMMANDS and any(name.startswith(arguments[0] + " ") for name in COMMANDS)
    if is_group and arguments[1:2] in ([], ["-h"], ["--help"]):
        print(usage_of(arguments[0]), end="", file=sys.stdout if arguments[1:] else sys.stderr)
        return 0 if arguments[1:] else USAGE_ERROR
    name, rest = _find(arguments)
    return _run(name, rest, level, own=own)


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


def _run(name: str, arguments: list[str], level: str, *, own: bool) -> int:
    """Fill the configuration of command `name` and run it."""
    command = COMMANDS[name]
    try:
        config = parse(_load(command.config), arguments, prog=f"wheels {name}", description=command.help)
    except SystemExit as stop:  # argparse has printed the help
        return int(stop.code or 0)
    log_to_stderr(level)
    with collecting_later() if own else nullcontext():
        run: Callable[[Any], None] = _load(command.run)
    raise_again()
    try:
        run(config)
    except KeyboardInterrupt as stop:
        anew = not command.continues or getattr(config, "resume", None) == "never"
        raise type(stop)("" if anew else "; run the same command again to continue") from None
    from wheels.cli.endings import ending

    for line in ending(name, config):
        remark(line)
    return 0


@contextmanager
def collecting_later() -> Iterator[None]:
    """Import without garbage collection, and leave out of later ones what was imported.

    Half a million objects come with torch and transformers, all of them to stay. To go through them while they are
    made, and again when the process ends, takes a quarter of the time that one sentence takes.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _load(place: str) -> Any:
    """Import `module:name`."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
