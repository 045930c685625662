"""`wheels --print-completion SHELL`: a script that completes commands, flags, choices and paths, made by shtab.

The script is made once, from the configurations alone: a shell that has read it completes without starting Python.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from wheels.cli.commands import COMMANDS
from wheels.config.fields import Field, fields_of
from wheels.config.flags import LEVELS, add_flags
from wheels.errors import check_choice

SHELLS = ("bash", "zsh", "fish")
GROUP_HELP = "measure; --list shows benchmarks, recipes, rules and metrics"
"""What is said of `bench`, the only command of two words."""


def completion(shell: str) -> str:
    """Return the script for a shell: for bash, `eval "$(wheels --print-completion bash)"` in `~/.bashrc` reads it.

    Raises:
        WheelsError: for another shell.
    """
    import shtab

    check_choice("--print-completion", shell, SHELLS)
    return str(shtab.complete(command_parser(), shell=shell)).rstrip("\n")


def command_parser() -> argparse.ArgumentParser:
    """Return a parser that knows every command, flag, choice and path, for shtab to read."""
    parser = argparse.ArgumentParser(prog="wheels", add_help=False)
    parser.add_argument("--help", "-h", action="help", help="list the commands")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--print-completion", choices=SHELLS, help="print what completes commands and flags")
    commands = parser.add_subparsers()
    groups: dict[str, Any] = {}
    for name, command in COMMANDS.items():
        first, _, second = name.partition(" ")
        place = commands
        if second:
            if first not in groups:
                group = commands.add_parser(first, help=GROUP_HELP, add_help=False)
                group.add_argument("--list", action="store_true", help="list what can be measured")
                groups[first] = group.add_subparsers()
            place = groups[first]
        module, _, config = command.config.partition(":")
        fields = fields_of(getattr(importlib.import_module(module), config))
        _complete(place.add_parser(second or first, help=command.help, add_help=False), fields)
    return parser


def _complete(parser: argparse.ArgumentParser, fields: Sequence[Field]) -> None:
    """Add the flags of one command, with what shtab may offer as their values."""
    import shtab

    add_flags(parser, fields)
    known = {field.name: field for field in fields}
    for action in parser._actions:
        field = known.get(action.dest)
        if action.dest == "config" or (field is not None and {"reads", "writes"} & set(field.metadata)):
            folder = field is not None and action.metavar == "DIR"
            action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]
        elif action.dest == "log_level":
            action.choices = LEVELS
        elif field is not None and "choices" in field.metadata:
            action.choices = field.metadata["choices"]
