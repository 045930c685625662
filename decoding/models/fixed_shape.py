"""Products in bfloat16 that are the same in any company: what oneDNN computes for a row does not depend on the others.

Its sums are in float32, in an order that depends on the shape: of one row alone over more than `WIDE` numbers, of a
last block of fewer than `QUERIES` queries, and of keys that fill no block of `KEYS`. The last bits differ then, and
bfloat16 makes a rounding step of some of them. So these shapes are filled up, with zeros that change no sum. In float32
such differences are far below those between two tokens, and nothing is filled up.

Found by comparing bits on an EPYC with bfloat16 products, for up to 1,500 rows, 8,192 numbers and 1,536 keys. Blocks of
512 keys would make all the same. With 64 a few bits in 1% of attentions depend on how many blocks are read; but a
decode step takes 3 to 7% more time than without, and with 512 13 to 36%.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

WIDE, QUERIES, KEYS = 1024, 4, 64


def is_rounded(values: torch.Tensor) -> bool:
    """Tell whether these are products that are filled up."""
    return values.dtype == torch.bfloat16 and values.device.type == "cpu"


def in_company(values_NX: torch.Tensor) -> torch.Tensor:
    """Return rows of states as they are multiplied: one that is alone and wide stands twice."""
    return values_NX.expand(2, -1) if len(values_NX) == 1 and values_NX.shape[1] > WIDE else values_NX


def attention(
    query_RHKE: torch.Tensor,
    keys_RHLE: torch.Tensor,
    values_RHLE: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    """Compute `softmax(scale * q k^T + mask) v`, `[R, H, K, E]`; the mask broadcasts to `[R, H, K, L]`."""
    if not is_rounded(query_RHKE):
        return F.scaled_dot_product_attention(query_RHKE, keys_RHLE, values_RHLE, mask, scale=scale)
    count, length = query_RHKE.shape[2], keys_RHLE.shape[2]
    if more := -count % QUERIES:
        query_RHKE = F.pad(query_RHKE, (0, 0, 0, more))
        mask = mask if mask is None or mask.shape[2] == 1 else F.pad(mask, (0, 0, 0, more))
    if more := -length % KEYS:
        keys_RHLE, values_RHLE = (F.pad(each, (0, 0, 0, more)) for each in (keys_RHLE, values_RHLE))
        seen = query_RHKE.new_zeros(1, 1, 1, length) if mask is None else mask
        mask = F.pad(seen, (0, more), value=-torch.inf)
    return F.scaled_dot_product_attention(query_RHKE, keys_RHLE, values_RHLE, mask, scale=scale)[:, :, :count]
