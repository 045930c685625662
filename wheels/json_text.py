"""JSON that may be foreign or damaged: parsed completely, or refused in one line."""

from __future__ import annotations

import json
import math
import re
import typing
from typing import Any, NoReturn, TypeVar

from wheels.errors import WheelsError

Kind = TypeVar("Kind")

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes, place: str, *, finite: bool = True, lines: bool = False) -> Any:
    """Return the value of a JSON text; a byte order mark before it is dropped.

    Args:
        text: characters, or bytes in UTF-8.
        place: the file, or the file and the line, for errors.
        finite: whether NaN and Infinity are refused, which are no JSON though Python writes them, and 1e999 too.
        lines: whether the line of a mistake is added to `place`.

    Raises:
        WheelsError: naming the place, for bytes that are not UTF-8, for what is not JSON or nested too deeply, and for
            text that no file can hold (half a surrogate pair).
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        strict: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
        value = json.loads(text, **strict)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise WheelsError(f"{place}: not UTF-8: byte 0x{byte:02x} at offset {error.start}") from None
    except UnicodeEncodeError as error:
        raise WheelsError(f"{place}: half a surrogate pair, {error.object[error.start]!r}, is no text") from None
    except json.JSONDecodeError as error:
        where = f"{place}:{error.lineno}" if lines else place
        raise WheelsError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise WheelsError(f"{place}: not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise WheelsError(f"{place}: not JSON that can be read: {error}") from None
    return value


def parse_object(
    text: str | bytes, place: str, *needed: str, finite: bool = True, lines: bool = False
) -> dict[str, Any]:
    """Return the JSON object of a text, which must have every key of `needed`; see `parse_json`.

    Raises:
        WheelsError: for another kind of value, or a key that is missing.
    """
    value = parse_json(text, place, finite=finite, lines=lines)
    if not isinstance(value, dict):
        raise WheelsError(f"{place}: must be a JSON object with named fields, got {kind_of_value(value)}")
    missing = [name for name in needed if name not in value]
    if missing:
        raise WheelsError(f"{place}: lacks {missing[0]!r}; it is damaged, or of another version")
    return value


def record_of(kind: type[Kind], value: Any, place: str) -> Kind:
    """Return a dataclass of `kind` from the fields in a JSON object.

    Raises:
        WheelsError: where it is no object, lacks a field, has another one, or one holds another type or NaN.
    """
    if not isinstance(value, dict):
        raise WheelsError(f"{place}: must hold {kind.__name__}s, got {kind_of_value(value)}; it is damaged")
    hints = typing.get_type_hints(kind)
    for name in [*value, *hints]:
        if name not in hints or (name in value and not _fits(value[name], hints[name])):
            raise WheelsError(f"{place}: {name!r} is not as this version writes it; it is damaged")
    try:
        return kind(**value)
    except (TypeError, WheelsError) as error:
        raise WheelsError(f"{place}: {error}; it is damaged") from None


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has one of the plain types; NaN is not a number."""
    if options := typing.get_args(hint):
        return any(_fits(value, option) for option in options)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return isinstance(value, hint) and (hint is not int or not isinstance(value, bool))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


def json_digest(value: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a JSON value with sorted keys."""
    import hashlib  # on demand: `--help` runs without

    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def kind_of_value(value: Any) -> str:
    """Return what a JSON value is, in words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list", str: "a string"}
    return names.get(type(value), "an object")
