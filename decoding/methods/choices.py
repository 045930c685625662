"""The words that decoding can be asked for by name. Imports nothing, so that `--help` is instant."""

from __future__ import annotations

MODES = ("average", "online", "strict")
"""How a budget is kept: on average over many sequences, by the calibrated threshold alone or by one that moves with
what was written (`wheels.decoding.methods.online`), or at every prefix of every sequence."""
PACED = "dollars"
"""How a budget of dollars is kept in place of a share: by a threshold that moves with what was paid
(`wheels.decoding.remote.pacer`)."""
MODE_HELP = (
    "average: the budget is kept over many texts, by a calibrated threshold; online: over this run's, by one that "
    "moves (outputs then depend on their order and the batch size); strict: at every prefix"
)
"""What `--help` says of them."""
INPUT_FORMATS = ("auto", "text", "json", "csv", "tsv")
"""What an input is; Parquet and Arrow files are known by what they hold."""
FORMATS = ("text", "json", "parquet", "html")
"""How `wheels generate` shows its traces; `json`: one object a line."""
COLORS = ("auto", "always", "never")
"""Whether the teacher's tokens stand out in colour; `auto` asks whether the output is a terminal."""
CASCADES = ("chow", "diff", "opt", "token-v1", "token-v2", "token-v3")
"""The rules of speculative cascades."""
SCHEDULES = ("grouped", "lockstep")
"""When the teacher runs: for many rows that wait together, or in every step in which some row calls."""
METHODS = ("deferral", "speculative", "lookup", "bild", "cascade", "verified", "priced", "take-back")
"""Ways of decoding; see `wheels.decoding.methods.method`."""
BUDGETED = ("deferral", "verified", "priced")
"""Those that a rule and its teacher budget drive; the others verify every token."""
DRAFT_LENGTHS = {"speculative": 5, "lookup": 5, "bild": 10, "cascade": 5, "take-back": 16}
"""Student tokens between two passes of the teacher where none are given; the other methods have no limit."""
TOLERANCES = {"speculative": 0.0, "lookup": 0.0, "bild": 3.0, "cascade": 0.3, "verified": 2.0, "priced": 1.0}
TOLERANCES["take-back"] = 2.0
"""How much worse than the teacher's a draft token may be, where that is not given; see `wheels generate --help`."""
ENGINES = ("local", "ray")
"""Where the rows of a file are written: by this process, or by actors of Ray."""
ON_ERROR = ("stop", "skip")
"""What happens at an input that cannot be read: nothing is decoded, or all the others are."""
ON_TEACHER_ERROR = ("continue", "stop")
"""What a call does that gets no answer from a remote teacher: the student writes in its place, or all ends."""
