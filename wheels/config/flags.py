"""The flags of a command, made from the fields of its configuration: an argparse parser, and the text of `--help`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from wheels.config.fields import Field, grouped
from wheels.errors import WheelsError

LEVELS = ("debug", "info", "warning", "error")
"""What `--log-level` takes, the most talkative first."""
ON_EVERY_COMMAND = (
    ("--config", "FILE", "a YAML file of `key: value` lines; flags win over it"),
    ("--quiet", None, "print results, warnings and errors only: no bars, no remarks"),
    ("--log-level", "|".join(LEVELS), "debug adds tracebacks and what libraries log; default info"),
    ("--time-limit", "TIME", "such as 90m or 3h30m: stop then, keep what is done, and exit with 143"),
)
"""The flags that every command takes: name, word for the value, help."""
COMMON, EVERYWHERE = "common options", "on every command"
"""The titles of the first and of the last group of `--help`."""
LONGEST_CHOICES = 24
"""Characters of choices that are shown beside their flag, rather than in the help."""
LONGEST_DEFAULT = 60
"""Characters of a default that are shown."""


def on_every_command() -> list[str]:
    """Return the names of the flags that every command takes."""
    return ["--help", *(flag for flag, _, _ in ON_EVERY_COMMAND)]


class Parser(argparse.ArgumentParser):
    """An argument parser with our errors: one line without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise WheelsError(message.removeprefix("argument "))


class _Help(argparse.HelpFormatter):
    """Help with `--[no-]flag` for a switch, as wide as the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=_width())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return f"--[no-]{action.option_strings[0][2:]}"
        return super()._format_action_invocation(action)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def config_parser(fields: Sequence[Field], prog: str, description: str) -> Parser:
    """Return a parser that collects text; `wheels.config.fields.convert` gives it its types afterwards.

    Its help shows the common options first, then each group under its name, then the flags of every command.
    """
    parser = Parser(
        prog=prog,
        usage=_usage(fields, prog),
        description=description,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_Help,
    )
    add_flags(parser, fields)
    return parser


def add_flags(parser: argparse.ArgumentParser, fields: Sequence[Field]) -> None:
    """Add the flags of all fields to a parser, in their groups, and those of every command."""
    for title, members in grouped(fields).items():
        group = parser.add_argument_group(title or COMMON)
        for field in members:
            _add(group, field)
    everywhere = parser.add_argument_group(EVERYWHERE)
    for flag, word, meaning in ON_EVERY_COMMAND:
        if word is None:
            everywhere.add_argument(flag, action="store_true", help=meaning)
        else:
            everywhere.add_argument(flag, metavar=word, help=meaning)
    everywhere.add_argument("-h", "--help", action="help", help="show this message")


def _add(group: argparse._ArgumentGroup, field: Field) -> None:
    """Add the argument of one field."""
    assert field.flag not in on_every_command(), f"{field.flag} is a flag of every command"
    if field.positional:
        group.add_argument(field.name, nargs="?", metavar=metavar(field), help=_help(field))
    elif field.kind is bool:
        group.add_argument(field.flag, action=argparse.BooleanOptionalAction, dest=field.name, help=_help(field))
    else:
        group.add_argument(field.flag, dest=field.name, metavar=metavar(field), help=_help(field))


def _usage(fields: Sequence[Field], prog: str) -> str:
    """Return the first line of help: what must be given, and that there is more."""
    needed = [f"{field.flag} {metavar(field)}" for field in fields if field.required and not field.positional]
    words = [f"[{metavar(field)}]" for field in fields if field.positional]
    return " ".join([prog, *needed, "[--flag value ...]", *words]).replace("%", "%%")


def flags_of(field: Field) -> list[str]:
    """Return the flags that set `field`."""
    if field.positional:
        return []
    return [field.flag, f"--no-{field.flag[2:]}"] if field.kind is bool else [field.flag]


def _width() -> int:
    """Return the width of help: the terminal's, between 60 and 120 columns."""
    import shutil

    return max(60, min(120, shutil.get_terminal_size((100, 24)).columns))


def join_values(argv: Sequence[str], fields: Sequence[Field]) -> list[str]:
    """Write `--flag value` as `--flag=value`: argparse mistakes values such as `-1e-3` or `-inf` for flags."""
    valued = {field.flag for field in fields if field.kind is not bool and not field.positional}
    joined: list[str] = []
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*joined, argument, *rest]
        if argument in valued and rest and not rest[0].startswith("--"):
            argument = f"{argument}={rest.pop(0)}"
        joined.append(argument)
    return joined


def metavar(field: Field) -> str:
    """Return the placeholder for the value in help and errors."""
    if "metavar" in field.metadata:
        return str(field.metadata["metavar"])
    if field.positional:
        return field.name.upper()
    choices = "|".join(field.metadata.get("choices", ()))
    if choices and not field.many and len(choices) <= LONGEST_CHOICES:
        return choices
    word = {str: "TEXT", int: "N", float: "X", bool: ""}[field.kind]
    return f"{word},..." if field.many else word


def _help(field: Field) -> str:
    """Return the line of `--help`: the meaning, the choices that the metavar does not show, the default."""
    parts = [field.metadata.get("help", "")]
    if "choices" in field.metadata and "|" not in metavar(field):
        parts.append(f"one of {', '.join(map(str, field.metadata['choices']))}")
    if field.required:
        parts.append("required")
    elif field.default not in (None, (), "") and field.default is not False:
        parts.append(f"default {textwrap.shorten(show(field.default), LONGEST_DEFAULT, placeholder=' ...')}")
    return "; ".join(part for part in parts if part).replace("%", "%%")


def show(value: object) -> str:
    """Return a default as a user would write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(show, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
