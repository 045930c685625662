"""How the two models of a pair are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from wheels.models.devices import Devices
from wheels.models.loading import AUTO, load_model


@dataclass(frozen=True)
class Loading:
    """What each model of a pair becomes, and where it is put."""

    dtype: str = AUTO
    """Number format of both; `auto`: what each is stored in."""
    student_dtype: str | None = None
    """Of the student alone; None: `dtype`."""
    teacher_dtype: str | None = None
    """Of the teacher alone."""
    device: str = "cpu"
    """Where both are put."""
    teacher_device: Devices | None = None
    """Where the teacher is put; None: `device`. `auto`: in parts on all devices, in main memory and on disk."""
    teacher_quantization: str | None = None
    """What the teacher's weights are rounded to when it is loaded: `int8` or `int4`."""
    student_weights: str = "float32"
    """What decoding makes of a float32 student's weights; for others, `auto` is float32."""
    teacher_weights: str = "float32"
    """Of the teacher's."""

    @property
    def weights(self) -> dict[str, str]:
        """What decoding makes of both models' weights."""
        return {"student_weights": self.student_weights, "teacher_weights": self.teacher_weights}

    def student(self, name: str | Path) -> PreTrainedModel:
        """Return the student of a folder or the Hub."""
        dtype = _dtype(self.student_dtype or self.dtype, self.student_weights)
        return load_model(name, dtype=dtype, device=self.device, role="student")

    def teacher(self, name: str | Path) -> PreTrainedModel:
        """Return the teacher of a folder or the Hub."""
        return load_model(
            name,
            dtype=_dtype(self.teacher_dtype or self.dtype, self.teacher_weights),
            device=self.teacher_device or self.device,
            quantization=self.teacher_quantization,
            role="teacher",
        )


def _dtype(dtype: str, weights: str) -> str:
    """Return the number format to read: other weights are made of those in float32."""
    return "float32" if dtype == AUTO and weights != "float32" else dtype
