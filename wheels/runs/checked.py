"""Records that carry a checksum: a JSON object with its CRC-32, so that one whose bytes have changed is seen.

    {"event": "settle", "item": "a", "answer": "x", "crc32": 2087453170}

The checksum is that of the values, however they are written down.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from wheels.errors import WheelsError
from wheels.json_text import parse_object

KEY = "crc32"


def checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its checksum."""
    return {**record, KEY: _crc32(json.loads(json.dumps(record)))}


def check(record: dict[str, Any], place: str, advice: str) -> dict[str, Any]:
    """Return a record without its checksum.

    Args:
        record: as it was read.
        place: its file, or file and line.
        advice: what to do where it is damaged; the error's end.

    Raises:
        WheelsError: for a record that is not as it was written.
    """
    found = record.pop(KEY, None)
    if found != _crc32(record):
        raise WheelsError(f"{place}: damaged: the checksum is not that of the content; {advice}")
    return record


def checked_object(text: bytes, place: str, advice: str) -> dict[str, Any]:
    """Return the record of a line of JSON, without its checksum; the other arguments are those of `check`.

    Raises:
        WheelsError: for a line that is none, or is not as it was written.
    """
    return check(parse_object(text, place), place, advice)


def _crc32(values: Any) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())
