"""One page per command, made from its configuration: what `--help` shows, as a page that cannot drift from the code."""

from __future__ import annotations

import html

from wheels.cli.commands import COMMANDS
from wheels.cli.main import _load
from wheels.config.fields import Field, fields_of, grouped
from wheels.config.flags import COMMON, EVERYWHERE, ON_EVERY_COMMAND, metavar, show

INTRODUCTION = """# Commands

Every flag is also a key of `--config FILE.yaml`, with underscores for dashes; flags win over the file. A run leaves
what it was told (`resolved.json`) beside its results, and `--config` reads that file back.

A long command begins with what it will do and ends with its score and the command to type next; `--quiet` leaves both
out. `wheels bench --list` names every benchmark, recipe, rule and metric.
`eval "$(wheels --print-completion bash)"` in `~/.bashrc` completes commands, flags, choices and paths; zsh and fish
have theirs.
"""


def command_pages() -> list[tuple[str, str, str]]:
    """Return path, title and Markdown of the list of commands and of each command's page."""
    pages = [(f"commands/{_file(name)}", name, _page(name)) for name in COMMANDS]
    return [("commands/index.md", "All commands", _index()), *pages]


def _file(name: str) -> str:
    return f"{name.replace(' ', '-')}.md"


def _index() -> str:
    """Return the tables of all commands, by what they are for."""
    lines = [INTRODUCTION]
    for section in dict.fromkeys(command.section for command in COMMANDS.values()):
        rows = [
            f"| [`wheels {name}`]({_file(name)}) | {command.help} |"
            for name, command in COMMANDS.items()
            if command.section == section
        ]
        lines += [f"## {section.capitalize()}", "", "| command | does |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _page(name: str) -> str:
    """Return the page of one command."""
    command = COMMANDS[name]
    fields = fields_of(_load(command.config))
    lines = [f"# wheels {name}", "", f"{command.help[0].upper()}{command.help[1:]}.", ""]
    if command.continues:
        lines += ["Interrupted, it continues when the same command is run again.", ""]
    needed = "".join(f" {field.flag} {metavar(field)}" for field in fields if field.required and not field.positional)
    words = "".join(f" [{metavar(field)}]" for field in fields if field.positional)
    lines += ["```text", f"wheels {name}{needed} [--flag value ...]{words}", "```", ""]
    for title, members in grouped(fields).items():
        lines += _table(title or COMMON, list(map(_row, members)))
    everywhere = [_line(f"{flag} {word or ''}".strip(), meaning, "") for flag, word, meaning in ON_EVERY_COMMAND]
    return "\n".join(lines + _table(EVERYWHERE, everywhere))


def _table(title: str, rows: list[str]) -> list[str]:
    return [f"## {title.capitalize()}", "", "| flag | meaning | default |", "|---|---|---|", *rows, ""]


def _row(field: Field) -> str:
    """Return the line of one flag: its meaning, what it may be, its default."""
    word = metavar(field)
    meaning = field.metadata.get("help", "")
    if "choices" in field.metadata and "|" not in word:
        meaning += "; one of " + ", ".join(map(str, field.metadata["choices"]))
    default = "" if field.default in (None, (), "") else show(field.default)
    if field.required:
        default = "required"
    flag = f"--[no-]{field.flag[2:]}" if field.kind is bool else f"{field.flag} {word}"
    return _line(word if field.positional else flag, meaning, default)


def _line(flag: str, meaning: str, default: str) -> str:
    cells = [f"`{flag}`", html.escape(meaning, quote=False).replace("|", "\\|"), default.replace(",", ", ")]
    return f"| {' | '.join(cells)} |"
