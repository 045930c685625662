"""Kept items that hold tensors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from wheels.runs.kept import Form


def _to_bytes(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


STATE: Form[Any] = Form(".pt", _to_bytes, _read)
"""Tensors and plain values, no code."""
