"""Which rows the models can read."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wheels.data.rows import Row
from wheels.errors import WheelsError
from wheels.models.limits import room
from wheels.models.pair import Pair

log = logging.getLogger("wheels")


def readable_rows(pair: Pair, rows: Sequence[Row], name: str, bad_rows: str) -> list[Row]:
    """Return the rows whose sources the models can read, so that those they cannot are known before the work.

    Args:
        pair: both models.
        rows: of one split.
        name: of the split, for messages.
        bad_rows: `stop` where a source is too long, or `skip` such rows, and say how many there are.

    Raises:
        WheelsError: naming the first row that is too long, its length and the number of such rows, where none may be
            skipped or none is left.
    """
    if pair.source_limit is None:
        return list(rows)
    lengths = list(map(len, pair.encode([row.source for row in rows])))
    limit, kind = pair.source_limit, pair.is_seq2seq
    fits = [room(length, 1, limit, is_seq2seq=kind) > 0 for length in lengths]
    if all(fits):
        return list(rows)
    count, first = fits.count(False), fits.index(False)
    start = " ".join(rows[first].source[:40].split())
    told = f"row {first + 1} ({start!r}...) has {lengths[first]} tokens, and the models read at most {limit}"
    if bad_rows == "stop" or count == len(rows):
        others = f" (with {count - 1:,} more of {len(rows):,} rows)" if count > 1 else ""
        raise WheelsError(f"{name}: {told}{others}; shorten it, or leave such rows out by --bad-rows skip")
    log.warning("%s: %d of %d rows left out: longer than the models read, as %s", name, count, len(rows), told)
    return [row for row, good in zip(rows, fits, strict=True) if good]
