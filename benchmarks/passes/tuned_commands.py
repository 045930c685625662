"""The settings that were chosen, as commands: `tuned` is a procedure, and each of its settings is a way of decoding."""

from __future__ import annotations

from wheels.benchmarks.passes.config import PassesConfig
from wheels.benchmarks.passes.settings import Setting
from wheels.config.parsing import as_command
from wheels.decoding.commands.generate_config import GenerateConfig


def generate_command(config: PassesConfig, setting: Setting) -> str:
    """Return the `wheels generate` that decodes as a setting of the sweep does."""
    family = setting.label.split(",")[0] if setting.family == "tuned" else setting.family
    ruled = setting.budget is not None
    return as_command(
        "wheels generate",
        GenerateConfig(
            text="TEXT",
            model=config.model,
            teacher=config.teacher,
            method="verified" if family == "verified-all" else family,
            teacher_budget=setting.budget,
            rule=config.rule if ruled else GenerateConfig.rule,
            draft_length=setting.method.draft,
            tolerance=setting.tolerance,
            verify_end=ruled and setting.method.complete,
            seed=setting.seed or 0,
            device=config.device,
            dtype=config.dtype,
        ),
    )
