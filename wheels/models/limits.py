"""Context limits, and the room they leave for an output."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wheels.errors import WheelsError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from wheels.data.rows import Row
    from wheels.models.loading import Tokenizer
    from wheels.models.pair import Pair

log = logging.getLogger("wheels")

# A tokenizer without a limit says a number of this size.
NO_LIMIT = 10**9
# These count positions relative to each other: `n_positions` in their configuration is no limit.
RELATIVE_POSITIONS = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers"})


def context_limit(model: PreTrainedModel, tokenizer: Tokenizer) -> int | None:
    """The longest sequence a model and its tokenizer are made for, or None where neither says.

    Where rotary angles change beyond some length of a pass, for all of its rows, that length is the longest: up to
    so outputs there are batch-invariant.
    """
    limits = [int(tokenizer.model_max_length)]
    if model.config.model_type not in RELATIVE_POSITIONS:
        limits += [
            int(getattr(model.config, name, None) or NO_LIMIT) for name in ("max_position_embeddings", "n_positions")
        ]
    limits += angle_limits(model.config.get_text_config(decoder=True))
    least = min(limits)
    return least if least < NO_LIMIT else None


def angle_limits(config: PreTrainedConfig) -> list[int]:
    """Return the lengths beyond which rotary angles depend on the longest text of a pass (`longrope`, `dynamic`).

    Llama 3's, YaRN's and linear angles do not.
    """
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in given.values() if isinstance(kind, Mapping)] if "rope_type" not in given else [given]
    moving = [kind for kind in kinds if kind["rope_type"] == "longrope" or "dynamic" in kind["rope_type"]]
    whole = int(getattr(config, "max_position_embeddings", None) or NO_LIMIT)
    return [int(kind.get("original_max_position_embeddings") or whole) for kind in moving]


def room(source: int, max_new_tokens: int, limit: int | None, *, is_seq2seq: bool) -> int:
    """Return the largest output length within the context; 0 where the source leaves no room.

    Args:
        source: tokens of the source, or of the prompt.
        max_new_tokens: the most that is wanted.
        limit: the longest sequence that is read (`Pair.source_limit`); None: no limit is known.
        is_seq2seq: whether the source has a context of its own, where the output shares its with a start token.
    """
    if limit is None:
        return max_new_tokens
    return 0 if source > limit else max(0, min(max_new_tokens, limit - (1 if is_seq2seq else source)))


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
