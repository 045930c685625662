"""`wheels bench frontier`: of models that are there, or, by a recipe, of models that are made first."""

from __future__ import annotations

from wheels.benchmarks.frontier import run as measured
from wheels.benchmarks.frontier.config import FrontierConfig
from wheels.benchmarks.study import run as study
from wheels.benchmarks.study.config import StudyConfig
from wheels.errors import WheelsError


def run(config: FrontierConfig) -> None:
    """Measure a frontier; with a recipe, run its study, whose last stage this is.

    Raises:
        WheelsError: as both do, and for a recipe without the section `frontier`.
    """
    if config.recipe is None:
        return measured.run(config)
    if not study.read_recipe(config.recipe, config.teacher).sections["frontier"]:
        raise WheelsError(f"{config.recipe}: must have the section frontier, with at least one setting")
    study.run(StudyConfig(config.recipe, config.data, config.output, config.teacher, threads=config.threads))
