"""Deferral inside transformers: `student.generate(**inputs, custom_generate=FOLDER, teacher_budget=0.2)`.

Needs `pip install training-wheels`. This file was written by `wheels push`.
"""

from typing import Any

import wheels
from wheels.models.artefact import found_models
from wheels.models.fetch import model_folder


def generate(model: Any, teacher: Any = None, **arguments: Any) -> Any:
    """Write with the student that this is called on, and its teacher: a model, a folder or a hub id; None: its own."""
    name, commit = str(model.config.name_or_path), getattr(model.config, "_commit_hash", None)
    folder = model_folder(f"{name}@{commit}" if commit else name)  # with its rule, fetched where it is on the Hub
    if teacher is None:
        _, _, teacher = found_models(folder, None)
    given = {name: value for name, value in arguments.items() if value is not None}
    return model.generate(custom_generate=wheels.hf_generate, teacher=teacher, **given)
