"""The standard streams of a command: always open, one message a line, progress bars on terminals only."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from wheels.config.flags import LEVELS
from wheels.errors import WheelsError, check_choice
from wheels.output.visible import one_line, visible
from wheels.stop import seconds_of

LONGEST = 2000
"""Characters of an error: what was given may be a file."""


def open_missing() -> None:
    """Open standard input and standard error where they are closed (`<&-`, `2>&-`), on nothing.

    Otherwise the next file that is opened would get their number, and with it whatever a library prints there.
    """
    for name, mode in (("stdin", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace"))


def take_level(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return how much is to be said, one of `LEVELS`, and the arguments without `--quiet` and `--log-level`.

    Both may stand anywhere before a `--`. `--quiet` is level warning.

    Raises:
        WheelsError: for a level that is none, or both flags at once.
    """
    levels, rest = _take(argv, "--log-level")
    given = {check_choice("log_level", level, LEVELS) for level in levels}
    for _ in range(rest[: _end(rest)].count("--quiet")):
        rest.remove("--quiet")
        given.add("warning")
    if len(given) > 1:
        raise WheelsError("give --quiet or one --log-level, not both: --quiet is --log-level warning without bars")
    return next(iter(given), "info"), rest


def take_time_limit(argv: Sequence[str]) -> tuple[float | None, list[str]]:
    """Return the seconds that a command may take, None for any, and the arguments without `--time-limit`.

    Raises:
        WheelsError: for what is no time.
    """
    limits, rest = _take(argv, "--time-limit")
    return next(map(seconds_of, limits), None), rest


def _take(argv: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """Return the values of a flag that stands before a `--`, and the other arguments."""
    rest, values = list(argv), list[str]()
    for place in range(_end(rest) - 1, -1, -1):
        name, equals, value = rest[place].partition("=")
        if name == flag:
            values.insert(0, value if equals else "".join(rest[place + 1 : place + 2]))
            del rest[place : place + 1 + (not equals)]
    return values, rest


def _end(arguments: Sequence[str]) -> int:
    """Return the place of the `--` that ends the flags."""
    return list(arguments).index("--") if "--" in arguments else len(arguments)


def bars_where_they_are_seen(level: str) -> None:
    """Let tqdm draw nothing below level info or where standard error is no terminal, in libraries and children too.

    tqdm reads the variable when it is first imported (https://tqdm.github.io/docs/tqdm/#environment-variables).
    """
    if LEVELS.index(level) > LEVELS.index("info"):
        os.environ["TQDM_DISABLE"] = "1"
    elif not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def replace_what_cannot_be_shown() -> None:
    """Show `?` for characters that a terminal cannot encode, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def say(line: str) -> None:
    """Print one line of bounded length on standard error, after ending any progress bar."""
    _end_bars()
    shown = one_line(line)
    if len(shown) > LONGEST:
        shown = f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
    with suppress(OSError):  # nobody reads standard error any more
        print(shown, file=sys.stderr, flush=True)


def remark(line: str) -> None:
    """Log one line for the reader, which `--quiet` leaves out."""
    import logging  # on demand, as below

    logging.getLogger("wheels").info(line)


def _end_bars() -> None:
    """End the lines of progress bars that an error left open."""
    if (tqdm := sys.modules.get("tqdm")) is not None:
        for bar in list(getattr(tqdm.tqdm, "_instances", ())):
            bar.close()


def log_to_stderr(level: str = "info") -> None:
    """Log `wheels` as plain lines on standard error; standard output stays clean.

    Args:
        level: the least that is shown; debug shows what libraries log too, from info on.
    """
    import logging  # on demand: `--help` has nothing to log

    class Lines(logging.Handler):
        """Shows each record on lines of its own, above the bars."""

        def emit(self, record: logging.LogRecord) -> None:
            """Print one record."""
            try:
                shown = visible(self.format(record))
                if (tqdm := sys.modules.get("tqdm")) is not None:
                    tqdm.tqdm.write(shown, file=sys.stderr)
                else:
                    print(shown, file=sys.stderr)
            except Exception:
                self.handleError(record)

    logger = logging.getLogger("wheels")
    if not logger.handlers:
        logger.addHandler(Lines())
    logger.setLevel(level.upper())
    logger.propagate = level != "debug"
    if level == "debug":
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info")  # its logger does not reach the root's
        logging.basicConfig(level=logging.INFO, handlers=[Lines()])
