"""Lines that a long job writes one after the other: what is committed stays, with the state to go on from.

Beside the file of the lines stands its note, which is written last:

    {"lines": 4096, "bytes": 81920, "of_lines": 123456, "state": ..., "crc32": 654321}

Its checksums are those of the lines and of itself (`wheels.runs.checked`).
A kill loses what came after the last note. Lines that are not as the note says are all written again.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path
from typing import Any

from wheels.errors import WheelsError
from wheels.files import read_object, write_json
from wheels.runs.checked import check, checked

log = logging.getLogger("wheels")

READ = 1 << 20
"""Bytes that are checked at once."""


class Lines:
    """The lines of one job, which goes on after the last commit.

    Args:
        path: of their file; one process writes it at a time (`wheels.runs.claim`).
    """

    def __init__(self, path: Path) -> None:
        self.path, self.note = path, Lines.note_of(path)
        self.count, self.state = 0, dict[str, Any]()
        """Lines that are written, those that wait for a commit among them; and what the last commit kept."""
        self._bytes = self._crc = 0
        self._waiting: list[str] = []
        if self.note.is_file():
            self._go_on()

    @staticmethod
    def note_of(path: Path) -> Path:
        """Return the file that says how many lines stand; where there is none, none do."""
        return path.with_name(f"{path.name}.json")

    def append(self, line: str) -> None:
        """Add a line, with the line feed at its end."""
        self._waiting.append(line)
        self.count += 1

    def commit(self, state: dict[str, Any]) -> None:
        """Have all lines on disk, and the state that belongs to them.

        Raises:
            WheelsError: where the disk has no room for them; those of earlier commits stand.
        """
        content = "".join(self._waiting).encode("utf-8")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self._bytes else "wb") as file:
                file.truncate(self._bytes)
                file.seek(self._bytes)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WheelsError(
                f"cannot write {self.path}: {error.strerror or error}; make room, and run it again"
            ) from error
        size, crc = self._bytes + len(content), zlib.crc32(content, self._crc)
        write_json(self.note, checked({"lines": self.count, "bytes": size, "of_lines": crc, "state": state}))
        self._bytes, self._crc, self.state = size, crc, state
        self._waiting.clear()

    def remove(self) -> None:
        """Delete the lines: their result is elsewhere."""
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        """Take over what is committed, where it is whole."""
        try:
            found = read_object(self.note, "lines", "bytes", "of_lines", "state", finite=False)
            whole = check(found, str(self.note), "")["of_lines"] == _crc32(self.path, found["bytes"])
        except (WheelsError, OSError, TypeError, ValueError):
            whole = False
        if not whole:
            log.warning("%s is damaged; it is made again", self.path)
            return
        self.count, self.state = found["lines"], found["state"]
        self._bytes, self._crc = found["bytes"], found["of_lines"]


def _crc32(path: Path, size: int) -> int | None:
    """Return the CRC-32 of the first bytes of a file; None where it has fewer."""
    crc = 0
    with path.open("rb") as file:
        while size > 0:
            if not (part := file.read(min(size, READ))):
                return None
            crc, size = zlib.crc32(part, crc), size - len(part)
    return crc
