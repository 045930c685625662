"""What a ragged pass is told: which token stands where among the rows, where it is written, and what it sees."""

from __future__ import annotations

from dataclasses import replace

import torch

from wheels.decoding.models.cache import PAGE, CacheWrite, RaggedCache
from wheels.decoding.models.inputs import AttentionInputs, LogitsToKeep


def whole_pages(visible: int) -> int:
    """Return the positions of the pages that hold `visible` of them."""
    return -(-visible // PAGE) * PAGE


def layout(
    tokens_RK: torch.Tensor, cache: RaggedCache, inputs: AttentionInputs, keep: LogitsToKeep
) -> dict[str, torch.Tensor]:
    """Return the inputs of a pass by the names of the graph's, but for `visible`.

    Args:
        tokens_RK: The new tokens, `[1, N]` where they are packed.
        cache: With room for them.
        inputs: Which rows read them, and where.
        keep: Which of them need logits; the row with fewer repeats its last.
    """
    packing, rows_R = inputs.packing, torch.tensor(inputs.rows)
    width, index_N = inputs.positions_RK.shape[1], torch.arange(tokens_RK.numel())
    if packing is None:
        owner_N, place_RK, pick_N = rows_R.repeat_interleave(width), index_N.view(len(rows_R), width), index_N
    else:
        assert inputs.count_R is not None, "rows that read one token each are not packed"
        owner_N, pick_N = rows_R[packing.row_N], packing.row_N * width + packing.column_N
        step_RK = torch.arange(width).minimum((inputs.count_R - 1)[:, None])
        place_RK = packing.start_R[:, None] + step_RK
    position_N = inputs.write.positions_RK.flatten()
    write, store_BHLE = replace(inputs.write, rows_R=rows_R), cache.self_layers[-1].stores()[0]
    told = {
        "token_N": tokens_RK.flatten(),
        "position_N": position_N,
        "place_RK": place_RK,
        "pick_N": pick_N,
        "keep_M": keep.select(index_N.view(*tokens_RK.shape, 1)).flatten(),
        "write_X2": _written(owner_N, position_N, store_BHLE),
        "page_X": _pages(write, store_BHLE),
    }
    if inputs.source_lengths:
        seen = CacheWrite(rows_R, write.positions_RK, inputs.source_visible)
        told["source_page_X"] = _pages(seen, cache.cross_layers[-1].stores()[0])
        told["source_R"] = torch.tensor(inputs.source_lengths, dtype=torch.int32)
        told["source_visible"] = torch.tensor([whole_pages(inputs.source_visible)], dtype=torch.int32)
    return told


def _pages(write: CacheWrite, store_BHLE: torch.Tensor) -> torch.Tensor:
    return write.pages(store_BHLE.shape[1], store_BHLE.shape[2])


def _written(owner_N: torch.Tensor, position_N: torch.Tensor, store_BHLE: torch.Tensor) -> torch.Tensor:
    """Return the page of each new key, and its place there, `[N x H, 2]`."""
    _, heads, capacity, _ = store_BHLE.shape
    row_NH = owner_N[:, None] * heads + torch.arange(heads)
    page_NH = row_NH * (capacity // PAGE) + (position_N // PAGE)[:, None]
    return torch.stack((page_NH, (position_N % PAGE)[:, None].expand_as(page_NH)), -1).view(-1, 2)
