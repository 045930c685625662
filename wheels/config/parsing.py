"""Configurations: flat frozen dataclasses, filled from YAML under `--config` with the command line's flags on top.

Nothing here imports torch: `wheels train --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import wheels
from wheels.config.fields import Field, check_fields, check_known, convert, fields_of
from wheels.config.flags import config_parser, flags_of, join_values, metavar, on_every_command
from wheels.config.paths import check_paths
from wheels.errors import WheelsError
from wheels.files import write_json

Config = TypeVar("Config")

MOST_YAML = 256 << 10
"""Bytes of a configuration file, and values that it unfolds to."""
DEEPEST_YAML = 20
"""Levels of brackets and indents in one."""

# The packages whose versions change results.
RECORDED = ("torch", "transformers", "tokenizers", "trl", "accelerate", "gymnasium", "datasets", "sacrebleu", "numpy")


def parse(config_class: type[Config], argv: Sequence[str], *, prog: str, description: str = "") -> Config:
    """Return the configuration that `argv` asks for: defaults, then the file of `--config`, then the flags.

    Args:
        config_class: a flat frozen dataclass; see `wheels.config.fields` for the types and the metadata.
        argv: the arguments after the command, such as `["--teacher-budget", "0.2"]`.
        prog: the command as the user writes it, such as `wheels generate`.
        description: one line on what the command does, for `--help`.

    Raises:
        WheelsError: for an unknown flag or key, a value that is not allowed, or a required one that is missing.
        SystemExit: after `--help` was printed.
    """
    fields = fields_of(config_class)
    parser = config_parser(fields, prog, description)
    namespace, unknown = parser.parse_known_args(join_values(argv, fields))
    flags = [*on_every_command(), *(flag for field in fields for flag in flags_of(field))]
    check_known([argument.split("=")[0] for argument in unknown if argument.startswith("-")], flags, "flag")
    if unknown:
        raise WheelsError(f"{prog} has no use for {unknown[0]!r}; put text that has spaces in quotes")
    given = vars(namespace)
    file = given.pop("config", None)
    values = read_yaml(file, fields) if file is not None else {}
    values |= {field.name: convert(field, given[field.name]) for field in fields if field.name in given}
    config = _construct(config_class, fields, values)
    if file is not None:  # what the fields alone can tell, their class has checked
        check_paths(fields, config, file)
    return config


def build(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Return the configuration that holds `values` (of JSON, YAML or Python), defaults elsewhere.

    Raises:
        WheelsError: for an unknown name, a value that is not allowed, or a required one that is missing.
    """
    fields = fields_of(config_class)
    check_known(list(values), [field.name for field in fields], "key")
    return _construct(
        config_class,
        fields,
        {field.name: convert(field, values[field.name]) for field in fields if field.name in values},
    )


def _construct(config_class: type[Config], fields: Sequence[Field], values: dict[str, Any]) -> Config:
    """Return the configuration with `values`, checked."""
    for field in fields:
        if field.required and field.name not in values:
            meaning = field.metadata.get("help", "")
            wanted = metavar(field) if field.positional else f"{field.flag} {metavar(field)}"
            raise WheelsError(f"{wanted} is missing{': ' if meaning else ''}{meaning}")
    config = config_class(**values)
    check_fields(config)
    return config


def read_yaml(path: Path | str, fields: Sequence[Field]) -> dict[str, Any]:
    """Return the values of a YAML file as the types of `fields`.

    A `resolved.json` or a `run.json` is one too: JSON is YAML, and its `config` holds the values.

    Raises:
        WheelsError: naming the file and the line, for what is not YAML, not a mapping of known keys, or not allowed.
    """
    found = read_mapping(path)
    kept, line = found.get("config", (None, 0))
    if isinstance(kept, dict):
        found = {name: (value, line) for name, value in kept.items()}
    return {name: _read_value(name, value, fields, f"{path}:{line}") for name, (value, line) in found.items()}


def load_yaml(path: Path | str) -> tuple[Any, Any]:
    """Return the value of a YAML file, and its node, which has the line numbers.

    Raises:
        WheelsError: naming the file and the line, for what cannot be read or is not YAML, and for what is larger or
            deeper than any configuration, aliases unfolded: with them a small file could fill the memory.
    """
    import yaml  # on demand: most commands run without a file

    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_YAML + 1)
        if len(content) > MOST_YAML:
            raise WheelsError(f"{path}: larger than {MOST_YAML >> 10} KiB; a configuration is a few lines")
        text, depth = content.decode("utf-8-sig"), 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_YAML:
                raise WheelsError(f"{path}:{event.start_mark.line + 1}: a configuration has no {depth} levels")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if _unfolded(root, {}) > MOST_YAML:
            raise WheelsError(f"{path}: its aliases unfold to more than {MOST_YAML:,} values; write it out")
        return yaml.safe_load(text), root
    except OSError as error:
        raise WheelsError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise WheelsError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise WheelsError(f"{place}: not YAML: {getattr(error, 'problem', None) or error}") from error
    except WheelsError:
        raise
    except RecursionError:
        raise WheelsError(f"{path}: its aliases are nested in themselves; write it out") from None
    except (ValueError, TypeError) as error:  # of PyYAML's own making: the 30th of February, a number of 5000 digits
        raise WheelsError(f"{path}: not YAML that can be read: {error}") from error


def _unfolded(node: Any, known: dict[int, int]) -> int:
    """Return the number of values in a YAML node with all aliases expanded; `known` caches shared nodes."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) not in known:
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(node)]


def read_mapping(path: Path | str) -> dict[str, tuple[Any, int]]:
    """Return the keys of a YAML file, each with its value and its line.

    Raises:
        WheelsError: naming the file and the line, for what is not YAML, not a mapping, or has a key twice.
    """
    content, root = load_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise WheelsError(f"{path}:1: must hold lines of `key: value`, got {type(content).__name__}")
    lines: dict[str, int] = {}
    for key, _ in root.value:
        if key.value in lines:
            raise WheelsError(f"{path}:{key.start_mark.line + 1}: {key.value!r} is given twice")
        lines[key.value] = key.start_mark.line + 1
    return {name: (value, lines.get(str(name), 1)) for name, value in content.items()}


def _read_value(name: str, value: Any, fields: Sequence[Field], place: str) -> Any:
    """Return one value of a file as its field's type; errors name file and line."""
    known = {field.name: field for field in fields}
    try:
        check_known([name], list(known), "key")
        return convert(known[name], value)
    except WheelsError as error:
        raise WheelsError(f"{place}: {error}") from None


def as_command(name: str, config: Any) -> str:
    """Return the command line that makes `config`: `name`, then a flag for every non-default value."""
    words, last = name.split(), []
    for field in fields_of(type(config)):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        text = ",".join(map(_exact, value)) if isinstance(value, tuple) else _exact(value)
        if field.positional:
            last += ["--", text]
        elif field.kind is bool:
            words.append(flags_of(field)[0 if value else 1])
        else:
            words += [f"{field.flag}={text}"] if text.startswith("-") else [field.flag, text]
    return shlex.join(words + last)


def _exact(value: Any) -> str:
    """Return a value as a command-line argument; numbers in their shortest exact form."""
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def to_dict(config: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of `config` as JSON values, `without` some; tuples become lists."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in without}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def versions() -> dict[str, str]:
    """Return the versions of `wheels` and of the installed packages of `RECORDED`, without importing them."""
    return {"wheels": wheels.__version__, **_installed()}


@cache
def _installed() -> dict[str, str]:
    from importlib import metadata  # on demand: half of the time that `--help` would take

    found = {}
    for name in RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_resolved(config: Any, folder: Path | str, extra: Mapping[str, Any] | None = None) -> Path:
    """Write `folder/resolved.json`: everything that made the result in the same folder.

    Args:
        config: the configuration that ran; its `seed`, if any, is repeated at the top level.
        folder: the folder of the result.
        extra: what only the run knows, such as `{"data_digest": task.digest}`.

    Raises:
        WheelsError: where the place cannot be written.
    """
    torch = sys.modules.get("torch")
    resolved: dict[str, Any] = {
        "config": to_dict(config),
        "seed": getattr(config, "seed", None),
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads() if torch is not None else os.cpu_count(),
        "argv": sys.argv,
    }
    return write_json(Path(folder) / "resolved.json", resolved | dict(extra or {}))
