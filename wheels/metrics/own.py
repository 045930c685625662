"""Metrics of the user's own: a function that scores each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wheels.errors import WheelsError, did_you_mean
from wheels.metrics.names import METRICS
from wheels.own_code import FORMS, is_place, read_own, whole_place

OwnFunction = Callable[[list[str], list[str], list[str]], Sequence[float]]
"""`function(hypotheses, references, sources)` returns the score of each row; a corpus has their mean.

Its attributes are looked at where it has them: `higher_is_better` (default True; where False, scores are negated, so
that more is better everywhere), and `signature`, a text that says which settings and versions gave the number.
"""


@dataclass(frozen=True)
class OwnMetric:
    """A metric of the user's own."""

    place: str
    """Where it stands: `FILE.py:NAME` or `package.module:NAME`."""
    function: OwnFunction
    code: str
    """16 hexadecimal digits of the SHA-256 of its file."""

    @property
    def name(self) -> str:
        """What it is called in results: NAME."""
        return self.place.rpartition(":")[2]

    @property
    def negated(self) -> bool:
        """Whether less is better in the function's own scores."""
        return not getattr(self.function, "higher_is_better", True)

    @property
    def signature(self) -> str:
        """What reproduces its numbers."""
        said = getattr(self.function, "signature", None)
        return f"{said or 'own:' + self.name}|code:{self.code}{'|negated:lower-is-better' if self.negated else ''}"

    def scores(
        self, hypotheses: Sequence[str], references: Sequence[str], sources: Sequence[str] | None
    ) -> list[float]:
        """Return the score of each row; more is better.

        Raises:
            WheelsError: without sources; where the function fails, or returns anything but a number for each row.
        """
        if sources is None:
            raise WheelsError(f"metric {self.place!r} reads the sources too; give them as sources=")
        try:
            found = [float(value) for value in self.function(list(hypotheses), list(references), list(sources))]
        except Exception as error:  # whatever a function of the user's does
            reason = " ".join(str(error).split())[:300]
            raise WheelsError(f"metric {self.place!r} failed: {type(error).__name__}: {reason}") from error
        if len(found) != len(hypotheses):
            raise WheelsError(f"metric {self.place!r} returned {len(found)} scores for {len(hypotheses)} rows")
        for number, value in enumerate(found, 1):
            if not math.isfinite(value):
                raise WheelsError(f"metric {self.place!r} returned {value} for row {number} of {len(found)}")
        return [-value for value in found] if self.negated else found


OWN: dict[str, OwnMetric] = {}
"""The metrics that `find_metric` has read, by their names."""


def find_metric(given: Any) -> str:
    """Return the name of a metric that is given by its name or, one of the user's own, by where it stands.

    Args:
        given: a name of `METRICS`, or `FILE.py:NAME` or `package.module:NAME`; its name is known from then on.

    Raises:
        WheelsError: for an unknown name, a file that cannot be read, what is no function, or a name that is taken.
    """
    if given in METRICS or given in OWN:
        return str(given)
    if not isinstance(given, str) or not is_place(given):
        known = f"one of {', '.join(METRICS)}, or a function of your own ({FORMS})"
        raise WheelsError(f"metric must be {known}, got {given!r}{did_you_mean(str(given), METRICS)}")
    place = whole_place(given)
    name = place.rpartition(":")[2]
    if name in METRICS or (name in OWN and OWN[name].place != place):
        other = "one of the package's" if name in METRICS else OWN[name].place
        raise WheelsError(f"{given} is named {name!r}, as {other} is; give it another name")
    if name not in OWN:
        function, code = read_own(place, "a metric")
        if not callable(function):
            file, form = given.rpartition(":")[0], f"def {name}(hypotheses, references, sources)"
            raise WheelsError(f"{file} has no function named {name}; write {form}")
        OWN[name] = OwnMetric(place, function, code)
    return name


def code_of_metric(given: str | None) -> dict[str, str]:
    """Return the digest of the file of a metric of the user's own, for a run's identity; nothing for another."""
    own = OWN.get(find_metric(given)) if given is not None else None
    return {"metric_code": own.code} if own is not None else {}
