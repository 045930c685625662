"""What the stages of a recipe run: the commands of `wheels`, and the pair that they start from."""

from __future__ import annotations

import hashlib
import json
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from wheels.agents.config import TrainConfig
from wheels.benchmarks.curve.config import CurveConfig
from wheels.benchmarks.frontier.config import FrontierConfig
from wheels.benchmarks.passes.config import PassesConfig
from wheels.decoding.commands.calibrate_config import CalibrateConfig
from wheels.distillation.config import PretrainConfig
from wheels.files import read_object
from wheels.rationales.config import RationalesConfig


def embedded_pair() -> Path:
    """Return the folder of the embedded pair, as `wheels.models.artefact` does, without loading torch for it."""
    return Path(str(resources.files("wheels"))) / "assets" / "embedded-translation"


def folder_digest(folder: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 over all files of a folder and their names."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(json.dumps(file.relative_to(folder).as_posix()).encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


RUNS = {
    CalibrateConfig: "wheels.decoding.commands.calibrate",
    CurveConfig: "wheels.benchmarks.curve.run",
    FrontierConfig: "wheels.benchmarks.frontier.run",
    PassesConfig: "wheels.benchmarks.passes.run",
    PretrainConfig: "wheels.distillation.run",
    RationalesConfig: "wheels.rationales.run",
    TrainConfig: "wheels.agents.run",
}
"""The module whose `run` takes a configuration; each is imported only when it runs."""


def command(config: Any) -> Any:
    """Run the command of `wheels` that takes this configuration, and return what it returns."""
    return import_module(RUNS[type(config)]).run(config)


def distil(config: PretrainConfig) -> None:
    """Run `wheels pretrain`, and print what it noted at its end."""
    print(json.dumps(read_object(command(config) / "finished.json")))
