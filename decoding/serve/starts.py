"""Where the texts of a request begin: after their prompts, or after a part of their outputs that is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wheels.decoding.serve.bodies import CompletionBody
from wheels.decoding.serve.errors import Refused
from wheels.models.pair import Pair


@dataclass(frozen=True)
class Start:
    """One text of a request."""

    prompt: list[int]
    """Tokens of its source, or of its prompt."""
    limit: int
    """Tokens of its output at most."""
    written: Sequence[int] = ()
    """Tokens of its output that are given."""
    last: int | None = None
    """Tokens of the output after which the request ends; None: only its limit does."""


def starts_after(pair: Pair, prompts: Sequence[list[int]], most: Sequence[int], body: CompletionBody) -> list[Start]:
    """Return where texts go on after tokens of their outputs.

    Args:
        pair: The models.
        prompts: Their tokens.
        most: The longest output of each.
        body: The request, which has `written_token_ids`.

    Raises:
        Refused: for tokens that are none, or too many of them, and texts that have ended.
    """
    written, limits = body.written_token_ids or [], body.text_limits
    for name, given in (("written_token_ids", written), ("text_limits", limits)):
        if given is not None and len(given) != len(prompts):
            raise Refused(
                400, f"{name} needs one entry for each of {len(prompts)} prompts, got {len(given)}", param=name
            )
    starts = []
    for row, (prompt, own, longest) in enumerate(zip(prompts, written, most, strict=True)):
        wanted = len(own) + (longest if body.max_tokens is None else body.max_tokens)
        limit = wanted if limits is None else limits[row]
        _check(pair, own, limit, longest)
        starts.append(Start(prompt, limit, own, min(wanted, limit)))
    return starts


def _check(pair: Pair, written: Sequence[int], limit: int, longest: int) -> None:
    """Refuse tokens that the models do not know, texts that have ended, and limits beyond the models' own."""
    param = "written_token_ids"
    if any(token >= pair.vocab_size for token in written):
        raise Refused(400, f"{param} has token id {max(written)}; ids are below {pair.vocab_size}", param=param)
    if written and written[-1] in pair.eos_ids:
        raise Refused(400, f"{param} ends with end token {written[-1]}: that text goes on no more", param=param)
    if limit > longest or len(written) >= limit:
        told = f"an output of {limit} tokens, {len(written)} of them written; at most {longest} can be written"
        raise Refused(400, told, param=param, code="context_length_exceeded")
