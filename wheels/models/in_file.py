"""Models whose weights stay in their GGUF file, where llama.cpp reads them: shapes and settings, and no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from wheels.errors import WheelsError
from wheels.models.places import Place

_leave = False


def leave_in_files(leave: bool) -> None:
    """Choose whether the weights of GGUF files stay there from now on in this process, or are read into torch."""
    global _leave
    _leave = leave


def stays_in_file(place: Place) -> bool:
    """Tell whether the weights of this place stay in their file."""
    return _leave and place.gguf is not None


class InFile:
    """What a model lacks whose weights are in a file."""

    gguf_file: Path
    device = torch.device("cpu")

    def forward(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse to compute.

        Raises:
            WheelsError: always.
        """
        raise WheelsError(
            f"the weights of {self.gguf_file.name} stay in its file, where llama.cpp reads them, and this needs them "
            "in torch; leave --backend llama.cpp out"
        )


def described(place: Place, config: PreTrainedConfig) -> PreTrainedModel:
    """Return the model of a GGUF file without reading its weights."""
    assert place.gguf is not None, "the weights are in a file"
    kind: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    model.__class__ = type(f"InFile{type(model).__name__}", (InFile, type(model)), {})
    model.gguf_file = Path(str(cached_file(place.name, place.gguf, revision=place.revision)))
    described: PreTrainedModel = model.eval()
    return described


def gguf_file_of(model: PreTrainedModel) -> Path | None:
    """Return the file in which a model's weights stay; None: they are in torch."""
    return model.gguf_file if isinstance(model, InFile) else None
