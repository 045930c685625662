"""Where a model runs: on one device, or in parts on several, between which accelerate carries what its layers read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from wheels.errors import WheelsError

DEVICES = ("cpu", "cuda", "xpu", "mps")
SPREAD = "auto"
"""In place of a device: in parts on all of them, then in main memory, then on disk, whatever has room."""
Devices: TypeAlias = str | Mapping[str, str | int]
"""A device, `auto`, or the device of each part by its name in the model, as `device_map` of transformers."""


def check_device(device: str | torch.device) -> torch.device:
    """Return the torch device of that name.

    Raises:
        WheelsError: for a name torch does not know, or a device this machine does not have.
    """
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    if place is None or place.type not in DEVICES:
        raise WheelsError(f"device must be one of {', '.join(DEVICES)} (or cuda:1, ...), got {device!r}")
    if place.type == "cpu":
        return place
    module = torch.get_device_module(place)
    count = module.device_count() if module.is_available() else 0
    if (place.index or 0) >= count:
        kind = "GPUs" if place.type == "cuda" else f"{place.type} devices"
        raise WheelsError(f"device {str(device)!r} is not on this machine, which has {count} {kind}; use cpu")
    return place


def is_spread(devices: Devices) -> bool:
    """Tell whether a model is put on these devices in parts."""
    return not isinstance(devices, str) or devices == SPREAD


def computing_device(devices: Devices) -> torch.device:
    """Return the device that computes, of parts on several the machine's first accelerator, if it has one.

    Raises:
        WheelsError: as `check_device`.
    """
    if not is_spread(devices):
        return check_device(str(devices))
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def device_of(model: PreTrainedModel) -> torch.device:
    """Return where a model takes its tokens; weights in main memory or on disk are on no device until they are read."""
    hook: Any = getattr(model, "_hf_hook", None)
    execution = getattr(hook, "execution_device", None)
    return model.device if execution is None else torch.device(execution)
