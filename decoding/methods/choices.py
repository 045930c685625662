"""The words that decoding can be asked for by name. Imports nothing, so that `--help` is instant."""

from __future__ import annotations

MODES = ("average", "online", "strict")
"""How a budget is kept: on average over many sequences, by the calibrated threshold alone or by one that moves with
what was written (`wheels.decoding.methods.online`), or at every prefix of every sequence."""
MODE_HELP = (
    "how a budget is kept: over many texts by the calibrated threshold (average), over this run's texts by a threshold "
    "that moves with them, on any data (online; texts then depend on their order and the batch size), or at every "
    "prefix (strict)"
)
"""What `--help` says of them."""
INPUT_FORMATS = ("auto", "text", "jsonl")
"""What a line of the input is."""
FORMATS = ("text", "json", "html")
"""How `wheels generate` shows its traces."""
COLORS = ("auto", "always", "never")
"""Whether the teacher's tokens stand out in colour; `auto` asks whether the output is a terminal."""
DTYPES = ("float32", "bfloat16", "float16")
"""The number formats that models run in."""
CASCADES = ("chow", "diff", "opt", "token-v1", "token-v2", "token-v3")
"""The rules of speculative cascades."""
SCHEDULES = ("grouped", "lockstep")
"""When the teacher runs: for many rows that wait together, or in every step in which some row calls."""
METHODS = ("deferral", "speculative", "lookup", "bild", "cascade", "verified")
"""Ways of decoding; see `wheels.decoding.methods.method`."""
BUDGETED = ("deferral", "verified")
"""Those that a rule and its teacher budget drive; the others verify every token."""
ON_ERROR = ("stop", "skip")
"""What happens at an input that cannot be read: nothing is decoded, or all the others are."""
