"""The one store for resumable work.

claim     a folder for one run, by one process; another run is refused by the first thing that differs
cached    an item that is made once and kept; chunks: a long job in numbered parts, resumed in the middle
seal      what a file or a folder was made from, and its digests: how every item is known to be whole
append    a line of a journal, on disk as a whole or not at all
checked   a record with its checksum
Lines     the lines of a result that grows, committed with the state to go on from
"""

from wheels.runs.checked import checked, checked_object
from wheels.runs.claim import (
    ADVICE,
    LOCK,
    NOTE,
    Held,
    Run,
    check_free,
    check_same_run,
    claim,
    find,
    locked,
    note_in,
    results_in,
)
from wheels.runs.journal import append_line, keep_lines, mend, put_line, whole_lines
from wheels.runs.kept import (
    JSON,
    LINES,
    Form,
    cached,
    chunks,
    digest_of,
    digests,
    is_whole,
    last_whole,
    number_of,
    seal,
)
from wheels.runs.lines import Lines

__all__ = [
    "ADVICE", "JSON", "LINES", "LOCK", "NOTE", "Form", "Held", "Lines", "Run", "append_line", "cached",
    "check_free", "check_same_run", "checked", "checked_object", "chunks", "claim", "digest_of", "digests", "find",
    "is_whole", "keep_lines", "last_whole", "locked", "mend", "note_in", "number_of", "put_line", "results_in", "seal",
    "whole_lines",
]  # fmt: skip
