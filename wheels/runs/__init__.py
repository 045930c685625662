"""The one store for resumable work.

claim     a folder for one run, by one process; another run is refused by the first thing that differs
cached    an item that is made once and kept; chunks: a long job in numbered parts, resumed in the middle
seal      what a file or a folder was made from, and its digests: how every item is known to be whole
append    a line of a journal, on disk as a whole or not at all
"""

from wheels.runs.claim import ADVICE, LOCK, NOTE, Run, check_free, claim, find, locked, results_in
from wheels.runs.journal import append_line, keep_lines, mend, whole_lines
from wheels.runs.kept import JSON, LINES, Form, cached, chunks, is_whole, last_whole, number_of, seal

__all__ = [
    "ADVICE",
    "JSON",
    "LINES",
    "LOCK",
    "NOTE",
    "Form",
    "Run",
    "append_line",
    "cached",
    "check_free",
    "chunks",
    "claim",
    "find",
    "is_whole",
    "keep_lines",
    "last_whole",
    "locked",
    "mend",
    "number_of",
    "results_in",
    "seal",
    "whole_lines",
]
